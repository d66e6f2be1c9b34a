//! `duet inspect`.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    io::Write,
    path::{Path, PathBuf},
};

use anyhow::Result;
use clap::Args;
use duet_core::{
    Error,
    artifact::{MANIFEST, Manifest},
};
use duet_data::{
    raw::{self, Part},
    store::Location,
};
use duet_train::{evaluate::Table, run::read_records};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;
use serde_json::Value;

use crate::{Outcome, values::grouped};

/// Say what an artifact is: world, dataset, run, bundle, evaluation, raw zone, or a Parquet file. Checks every checksum.
#[derive(Debug, Clone, Args)]
pub(crate) struct InspectArgs {
    /// The artifact; a raw zone may be s3://BUCKET/PREFIX, gs:// or az:// too.
    #[arg(value_name = "PATH")]
    path: PathBuf,
}

/// The record that makes a directory a run; its parts are artifacts of their own.
const RUN_RECORD: &str = "run.json";
/// Files listed before the list is cut: a world has one for every day.
const LISTED_FILES: usize = 20;
/// Elements of a list shown before it is cut.
const LISTED_VALUES: usize = 12;

pub(crate) fn run(args: &InspectArgs, out: &mut dyn Write) -> Result<Outcome> {
    let path = match args.path.file_name().is_some_and(|name| name == MANIFEST) {
        true => args.path.parent().unwrap_or(Path::new(".")),
        false => &args.path,
    };
    if let Some(url) = path.to_str().filter(|text| text.contains("://")) {
        raw_zone(Location::parse(url)?, out)?;
        return Ok(Outcome::Done);
    }
    if !path.exists() {
        return Err(Error::data(path, "no such file or directory").into());
    }
    if path.is_file() {
        parquet_file(path, out)?;
    } else if path.join(MANIFEST).exists() {
        artifact(path, out)?;
    } else if path.join(RUN_RECORD).exists() {
        run_directory(path, out)?;
    } else if raw::is_zone(path) {
        raw_zone(Location::parse(&path.display().to_string())?, out)?;
    } else {
        let message =
            format!("neither an artifact, a run nor a raw zone: it holds no {MANIFEST}, no {RUN_RECORD} and no log");
        return Err(Error::data(path, message).into());
    }
    Ok(Outcome::Done)
}

fn artifact(dir: &Path, out: &mut dyn Write) -> Result<()> {
    let path = dir.join(MANIFEST);
    let text = fs::read_to_string(&path).map_err(Error::io(&path))?;
    let found: Manifest<Value> =
        serde_json::from_str(&text).map_err(|error| Error::data(&path, format!("not a valid manifest: {error}")))?;
    let manifest = Manifest::<Value>::open(dir, &found.magic, found.version)?;
    let bytes: u64 = manifest.files.values().map(|entry| entry.bytes).sum();
    writeln!(
        out,
        "{}: {}, version {}; {} files, {} bytes, every checksum right\n",
        dir.display(),
        manifest.magic,
        manifest.version,
        manifest.files.len(),
        grouped(bytes)
    )?;
    let mut facts = Vec::new();
    flatten("", &manifest.body, &mut facts);
    write_facts(&facts, out)?;
    let mut table = Table::new().text("file").number("bytes").number("rows").text("crc32");
    for (name, entry) in manifest.files.iter().take(LISTED_FILES) {
        let rows = match name.ends_with(".parquet") {
            true => grouped(open_parquet(&dir.join(name))?.metadata().file_metadata().num_rows() as u64),
            false => String::new(),
        };
        table.push([name.clone(), grouped(entry.bytes), rows, entry.crc32.clone()]);
    }
    writeln!(out, "\n{}", table.to_text().trim_end())?;
    if manifest.files.len() > LISTED_FILES {
        writeln!(out, "... and {} more", manifest.files.len() - LISTED_FILES)?;
    }
    Ok(())
}

/// Events by day, and the sources they came from.
fn raw_zone(location: Location, out: &mut dyn Write) -> Result<()> {
    let zone = raw::inspect(location)?;
    let sum = |count: fn(&Part) -> u64| grouped(zone.parts().iter().map(count).sum());
    writeln!(
        out,
        "{}: a raw zone; {} events, {} bytes of payload in {} parts of {} bytes, every checksum right\n",
        zone.location(),
        sum(|part| part.rows),
        sum(|part| part.payload_bytes),
        zone.parts().len(),
        sum(|part| part.bytes)
    )?;
    let mut days: BTreeMap<String, [u64; 3]> = BTreeMap::new();
    for part in zone.parts() {
        let day = part.date.map_or_else(|| "unknown".to_owned(), |date| date.to_string());
        let sums = days.entry(day).or_default();
        for (sum, count) in sums.iter_mut().zip([1, part.rows, part.payload_bytes]) {
            *sum += count;
        }
    }
    let mut table = Table::new().text("day (UTC)").number("parts").number("events").number("bytes");
    for (day, sums) in days {
        table.push([vec![day], sums.map(grouped).to_vec()].concat());
    }
    writeln!(out, "{}\n", table.to_text().trim_end())?;
    let mut table = Table::new().text("source").number("sequences").number("last");
    for (source, ranges) in zone.committed().take(LISTED_FILES) {
        let events = ranges.iter().map(|(first, last)| last - first + 1).sum();
        table.push([source.to_owned(), grouped(events), grouped(ranges.last().unwrap_or(0))]);
    }
    writeln!(out, "{}", table.to_text().trim_end())?;
    let sources = zone.committed().count();
    if sources > LISTED_FILES {
        writeln!(out, "... and {} more", sources - LISTED_FILES)?;
    }
    Ok(())
}

fn run_directory(dir: &Path, out: &mut dyn Write) -> Result<()> {
    let (config, info) = read_records(dir)?;
    writeln!(out, "{}: a run\n", dir.display())?;
    let mut facts = vec![
        ("dataset".to_owned(), info.dataset_dir.display().to_string()),
        ("dataset_fingerprint".to_owned(), info.dataset_fingerprint.clone()),
    ];
    flatten("dataset", &serde_json::to_value(&info.dataset)?, &mut facts);
    flatten("", &serde_json::to_value(&config)?, &mut facts);
    write_facts(&facts, out)?;
    for part in ["best", "searched", "reranker", "checkpoint", "evaluation"] {
        let part = dir.join(part);
        if part.join(MANIFEST).exists() {
            writeln!(out)?;
            artifact(&part, out)?;
        }
    }
    Ok(())
}

fn open_parquet(path: &Path) -> Result<ParquetRecordBatchReaderBuilder<File>> {
    let file = File::open(path).map_err(Error::io(path))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file);
    Ok(reader.map_err(|error| Error::data(path, format!("not a Parquet file: {error}")))?)
}

fn parquet_file(path: &Path, out: &mut dyn Write) -> Result<()> {
    let reader = open_parquet(path)?;
    let metadata = reader.metadata();
    writeln!(
        out,
        "{}: Parquet, {} rows in {} row groups\n",
        path.display(),
        grouped(metadata.file_metadata().num_rows() as u64),
        metadata.num_row_groups()
    )?;
    let mut table = Table::new().text("column").text("type").text("nulls");
    for field in reader.schema().fields() {
        let nulls = if field.is_nullable() { "allowed" } else { "none" };
        table.push([field.name().clone(), field.data_type().to_string(), nulls.to_owned()]);
    }
    write!(out, "{}", table.to_text())?;
    Ok(())
}

/// Objects to `a.b = value` lines; long lists are cut.
fn flatten(path: &str, value: &Value, facts: &mut Vec<(String, String)>) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                let path = if path.is_empty() { key.clone() } else { format!("{path}.{key}") };
                flatten(&path, value, facts);
            }
        }
        Value::Array(list) if list.iter().any(|value| value.is_array() || value.is_object()) => {
            facts.push((path.to_owned(), format!("{} entries", list.len())));
        }
        Value::Array(list) => {
            let shown: Vec<String> = list.iter().take(LISTED_VALUES).map(plain).collect();
            let more = match list.len() > LISTED_VALUES {
                true => format!(", ... ({} in all)", list.len()),
                false => String::new(),
            };
            facts.push((path.to_owned(), format!("[{}{more}]", shown.join(", "))));
        }
        _ => facts.push((path.to_owned(), plain(value))),
    }
}

fn plain(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => "none".to_owned(),
        other => other.to_string(),
    }
}

fn write_facts(facts: &[(String, String)], out: &mut dyn Write) -> Result<()> {
    let width = facts.iter().map(|(name, _)| name.chars().count()).max().unwrap_or(0);
    for (name, value) in facts {
        writeln!(out, "{name:width$}  {value}")?;
    }
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::artifact::{DirWriter, IfExists};

    use super::*;

    fn inspect(path: &Path) -> Result<String> {
        let mut out = Vec::new();
        run(&InspectArgs { path: path.to_path_buf() }, &mut out)?;
        Ok(String::from_utf8(out)?)
    }

    #[test]
    fn says_what_is_there_and_what_is_damaged() {
        let dir = tempfile::tempdir().unwrap();
        let writer = DirWriter::create(&dir.path().join("thing"), IfExists::Fail).unwrap();
        fs::write(writer.path("a.txt"), "content").unwrap();
        let numbers: Vec<usize> = (0..40).collect();
        let body = serde_json::json!({ "counts": { "users": 3 }, "of": numbers, "none": null });
        let place = writer.publish("duet-thing", 7, &body).unwrap();
        let text = inspect(&place).unwrap();
        for wanted in ["duet-thing, version 7", "counts.users  3", "11, ... (40 in all)", "a.txt", "checksum right"] {
            assert!(text.contains(wanted), "{wanted} in {text}");
        }
        assert_eq!(inspect(&place.join(MANIFEST)).unwrap(), text);
        fs::write(place.join("a.txt"), "c0ntent").unwrap();
        assert!(inspect(&place).unwrap_err().to_string().contains("a.txt"));
        assert!(inspect(&place.join("a.txt")).unwrap_err().to_string().contains("not a Parquet file"));
        assert!(inspect(dir.path()).unwrap_err().to_string().contains("neither"));
    }
}
