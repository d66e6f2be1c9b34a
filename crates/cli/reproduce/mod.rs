//! `duet reproduce`: published tables anew, from the public files, with duet's rows beside the published ones.
//!
//! * [`catalogue`]: sets, protocols, published figures. [`files`]: from files to a dataset. [`result`]: the table.
//! * Training and evaluation are those of `duet train` and `duet evaluate`.

mod catalogue;
mod files;
mod result;

use std::{
    collections::BTreeMap,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::Duration,
};

use anyhow::{Result, bail};
use clap::Args;
use duet_core::{Error, config::Config};
use duet_data::dataset::{Dataset, DatasetKind};
use duet_model::device::DeviceChoice;
use duet_retrieval::{Evaluation, EvaluationOptions};
use duet_train::{
    evaluate::{Baseline, EvaluateOptions, Materials, Report, evaluate},
    train::{StopReason, TrainOptions, train},
};

use self::{
    catalogue::{Catalogue, NAMES, Set},
    result::{Circumstances, MARKDOWN, Measured, Reproduction},
};
use crate::{Outcome, configuration, interrupt, train as train_command, values};

/// Make a published table anew from the public files you have, with duet's rows beside the published ones.
///
/// Imports, trains, evaluates beside baselines, and writes reproduction.json and reproduction.md. Nothing is downloaded.
#[derive(Debug, Clone, Args)]
pub(crate) struct ReproduceArgs {
    /// The table; list prints each with its files, their terms, the protocol, and the published rows with their sources.
    #[arg(value_name = "NAME", value_parser = WORDS, required_unless_present = "list")]
    name: Option<String>,
    /// The same as the name list.
    #[arg(long)]
    list: bool,
    /// The directory that the files lie in, under the names they are published by.
    #[arg(long, value_name = "DIR")]
    files: Option<PathBuf>,
    /// Where dataset, runs and tables go, in place of older ones; without it data/reproduce/NAME.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// How many trainings, with the seeds 0, 1, ...: the table has their mean and range.
    #[arg(long, default_value_t = 1, value_name = "N", value_parser = values::positive)]
    seeds: usize,
    /// Baselines of `evaluate`; those that the data does not allow are left out, with a note.
    #[arg(long, value_delimiter = ',', default_value = "popularity,item-knn,als,ease", value_name = "A,B")]
    baselines: Vec<Baseline>,
    /// Search the parameters of the baselines on the validation part first.
    #[arg(long)]
    tune: bool,
    /// Change one setting, e.g. --set model.dim=128. Repeatable.
    #[arg(long, value_name = "KEY=VALUE", value_parser = values::setting)]
    set: Vec<String>,
    /// One epoch: tries the way, not the quality.
    #[arg(long)]
    quick: bool,
    /// At most this long for each training, e.g. 30m, 2h.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    max_time: Option<Duration>,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
}

const LIST: &str = "list";
/// What stands in the place of the name.
const WORDS: [&str; NAMES.len() + 1] = [LIST, NAMES[0], NAMES[1], NAMES[2], NAMES[3], NAMES[4]];

/// Cut-offs that are measured: those of the published tables.
const CUT_OFFS: [usize; 2] = [10, 20];

/// The shipped configuration of a set, over that of its kind of data: name and text.
fn shipped(name: &str) -> Result<(&'static str, &'static str), Error> {
    Ok(match name {
        "ml-1m-loo" => ("configs/reproduce/ml-1m-loo.toml", include_str!("../../../configs/reproduce/ml-1m-loo.toml")),
        "gowalla" => ("configs/reproduce/gowalla.toml", include_str!("../../../configs/reproduce/gowalla.toml")),
        "yelp2018" => ("configs/reproduce/yelp2018.toml", include_str!("../../../configs/reproduce/yelp2018.toml")),
        "amazon-book" => {
            ("configs/reproduce/amazon-book.toml", include_str!("../../../configs/reproduce/amazon-book.toml"))
        }
        "hetrec-lastfm" => {
            ("configs/reproduce/hetrec-lastfm.toml", include_str!("../../../configs/reproduce/hetrec-lastfm.toml"))
        }
        _ => return Err(Error::unknown("name", name, NAMES)),
    })
}

fn resolve(name: &str, kind: DatasetKind, settings: &[String]) -> Result<Config, Error> {
    Config::resolve(&[configuration::shipped(kind), shipped(name)?], settings)
}

pub(crate) fn run(args: &ReproduceArgs, out: &mut dyn Write) -> Result<Outcome> {
    let catalogue = Catalogue::shipped()?;
    let name = match args.name.as_deref() {
        Some(name) if name != LIST && !args.list => name,
        _ => {
            write!(out, "{}", catalogue.to_text())?;
            return Ok(Outcome::Done);
        }
    };
    let set = catalogue.set(name)?;
    let Some(from) = &args.files else {
        bail!("--files is missing; {}", set.wants(None));
    };
    let found = files::find(set, from)?;
    let mut settings = args.set.clone();
    if args.quick {
        settings.push("train.epochs=1".to_owned());
    }
    // A setting that does not exist is told before anything slow.
    resolve(name, files::kind(set.form), &settings)?;

    let dir = args.out.clone().unwrap_or_else(|| Path::new("data/reproduce").join(name));
    let place = dir.join("dataset");
    let new = missing_directories(&dir);
    // What can't be read leaves no directory behind that was not there; one that holds something stays.
    let imported = files::read(set.form, found, from, &place)
        .inspect_err(|_| new.iter().for_each(|dir| drop(fs::remove_dir(dir))))?;
    writeln!(
        out,
        "{}: {} users, {} items, {} training and {} test interactions",
        place.display(),
        values::grouped(imported.counts.users),
        values::grouped(imported.counts.items),
        values::grouped(imported.counts.events),
        values::grouped(imported.counts.test_events)
    )?;
    let mut notes = imported.notes;
    let baselines = possible(args, &place, &mut notes)?;

    let stop = interrupt::stop_flag();
    let mut runs = Vec::new();
    for seed in 0..args.seeds {
        let seeded = [settings.clone(), vec![format!("train.seed={seed}")]].concat();
        let run = dir.join(format!("run-{seed}"));
        let summary = train(&TrainOptions {
            config: resolve(name, files::kind(set.form), &seeded)?,
            dataset: place.clone(),
            out: run.clone(),
            device: args.device,
            resume: false,
            overwrite: true,
            warm_start: None,
            max_time: args.max_time,
            stop: stop.clone(),
        })?;
        writeln!(out, "seed {seed}: {}", train_command::describe(&summary))?;
        out.flush()?;
        if stop.load(Ordering::SeqCst) {
            return Ok(Outcome::Interrupted);
        }
        if summary.stopped == StopReason::MaxTime {
            notes.push(format!("seed {seed}: the training was cut short by --max-time"));
        }
        runs.push(run);
    }
    if args.quick {
        notes.push("--quick: one epoch; the figures say nothing of the model's quality".to_owned());
    }

    let report = measure(args, &runs, baselines)?;
    report.write(&dir.join("evaluation"))?;
    let measured = measured(set, &report, runs.len());
    let circumstances = Circumstances {
        dataset: report.dataset.fingerprint.clone(),
        users: report.protocol.users,
        items: report.protocol.catalogue,
        test_items: report.protocol.truth,
        unknown_test_items: report.protocol.unknown_truth,
        settings,
        notes,
    };
    let reproduction = Reproduction::new(&catalogue, set, measured, circumstances);
    reproduction.write(&dir)?;
    writeln!(out, "\n{}", reproduction.to_text())?;
    writeln!(out, "table: {}", dir.join(MARKDOWN).display())?;
    Ok(Outcome::Done)
}

/// The directory and those above it, as far as they are not there; the innermost first.
fn missing_directories(dir: &Path) -> Vec<PathBuf> {
    let is_missing = |dir: &&Path| !dir.as_os_str().is_empty() && !dir.exists();
    dir.ancestors().take_while(is_missing).map(Path::to_path_buf).collect()
}

/// The baselines that the dataset allows; a note for each of the others.
fn possible(args: &ReproduceArgs, dataset: &Path, notes: &mut Vec<String>) -> Result<Vec<Baseline>> {
    let dataset = Dataset::open(dataset)?;
    let materials = Materials::new(&dataset, &dataset.timeline()?)?;
    let mut baselines = Vec::new();
    for &baseline in &args.baselines {
        match baseline.check(&materials) {
            Ok(()) => baselines.push(baseline),
            Err(error) => notes.push(format!("left out: {error}")),
        }
    }
    Ok(baselines)
}

/// Every training and the baselines on the same users.
fn measure(args: &ReproduceArgs, runs: &[PathBuf], baselines: Vec<Baseline>) -> Result<Report> {
    let Some((first, others)) = runs.split_first() else {
        bail!("--seeds must be at least 1");
    };
    let also =
        others.iter().enumerate().map(|(at, run)| (format!("two-tower, seed {}", at + 1), run.clone())).collect();
    Ok(evaluate(&EvaluateOptions {
        also,
        device: args.device,
        baselines: Some(baselines),
        tune: args.tune,
        options: EvaluationOptions { ks: CUT_OFFS.to_vec(), ..EvaluationOptions::default() },
        ..EvaluateOptions::new(first)
    })?)
}

/// The rows of the report: the first `seeds` evaluations are trainings of one model, the others baselines.
fn measured(set: &Set, report: &Report, seeds: usize) -> Vec<Measured> {
    let values = |evaluation: &Evaluation| -> BTreeMap<String, f64> {
        let value = |metric: &String| Some((metric.clone(), evaluation.all.metric(metric)?.mean));
        set.metrics.iter().filter_map(value).collect()
    };
    let (trainings, baselines) = report.evaluations.split_at(seeds.min(report.evaluations.len()));
    let mut rows = vec![Measured {
        name: "duet two-tower".to_owned(),
        trainings: trainings.iter().map(values).collect(),
        remark: if seeds == 1 { "1 seed".to_owned() } else { format!("mean of {seeds} seeds (least-greatest)") },
    }];
    for (evaluation, facts) in baselines.iter().zip(&report.baselines) {
        let found = if facts.tuned.is_some() { "tuned on validation" } else { "published defaults" };
        let parameters = facts.parameters.to_string();
        rows.push(Measured {
            name: format!("duet {}", facts.name),
            trainings: vec![values(evaluation)],
            remark: if parameters.is_empty() {
                "nothing to choose".to_owned()
            } else {
                format!("{found}: {parameters}")
            },
        });
    }
    rows
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_set_has_a_valid_configuration() {
        for set in &Catalogue::shipped().unwrap().sets {
            let config = resolve(&set.name, files::kind(set.form), &["train.seed=3".to_owned()]).unwrap();
            assert_eq!((config.train.seed, config.model.dim), (3, 64), "{}", set.name);
        }
        assert!(shipped("ml-2m").unwrap_err().to_string().contains("gowalla"));
    }
}
