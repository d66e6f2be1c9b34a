//! Artifacts whose checksums are right and whose content is not: what the checks behind the checksums must find.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, AsArray, Float32Array, Int64Array, RecordBatch, StringArray, UInt32Array},
    datatypes::{Field, Schema, UInt32Type},
};
use duet_core::artifact::{DirWriter, IfExists, MANIFEST, Manifest};
use duet_data::dataset;
use duet_model::tensor_file;
use duet_train::{bundle, run::WEIGHTS_MAGIC};
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use serde_json::Value;
use tempfile::TempDir;

use crate::workshop::{TINY, duet, fail, interactions, succeed, text, tree};

/// Writes `from` anew at `to`, changed by `change`, with checksums that fit.
pub(crate) fn forge(from: &Path, to: &Path, magic: &str, change: impl FnOnce(&Path)) {
    let manifest = Manifest::<Value>::open(from, magic, 1).expect("a sound artifact");
    let writer = DirWriter::create(to, IfExists::Replace).expect("a place for the forgery");
    for name in tree(from).iter().filter(|name| *name != MANIFEST) {
        let (source, target) = (from.join(name), writer.path(name));
        if source.is_dir() {
            fs::create_dir_all(target).expect("a directory");
        } else {
            fs::copy(source, target).expect("a copy");
        }
    }
    change(writer.dir());
    writer.publish(magic, 1, &manifest.body).expect("the forgery is published");
}

/// Rewrites a Parquet file with one column changed.
pub(crate) fn change_column(path: &Path, column: &str, change: impl Fn(&ArrayRef) -> ArrayRef) {
    let file = fs::File::open(path).expect("a Parquet file");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build()).expect("Parquet");
    let batches: Vec<RecordBatch> = reader.map(|batch| batch.expect("a batch")).collect();
    let changed: Vec<RecordBatch> = batches
        .iter()
        .map(|batch| {
            let at = batch.schema().index_of(column).expect("the column");
            let mut columns = batch.columns().to_vec();
            columns[at] = change(&columns[at]);
            let mut fields: Vec<Field> = batch.schema().fields().iter().map(|field| field.as_ref().clone()).collect();
            fields[at] = Field::new(column, columns[at].data_type().clone(), fields[at].is_nullable());
            RecordBatch::try_new(Arc::new(Schema::new(fields)), columns).expect("a batch")
        })
        .collect();
    let file = fs::File::create(path).expect("a writable file");
    let mut writer = ArrowWriter::try_new(file, changed[0].schema(), None).expect("a writer");
    changed.iter().for_each(|batch| writer.write(batch).expect("a batch is written"));
    writer.close().expect("the file is whole");
}

struct Smithy {
    dir: TempDir,
}

impl Smithy {
    fn new() -> Self {
        let smithy = Self { dir: tempfile::tempdir().expect("a temporary directory") };
        let csv = smithy.path("interactions.csv");
        fs::write(&csv, interactions(80, 11)).expect("a writable directory");
        let data = smithy.path("data");
        duet(&["import", "--interactions", text(&csv), "--split", "leave-last-out", "--out", text(&data)]);
        smithy.train("run", &[]);
        smithy
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    fn train(&self, name: &str, more: &[&str]) {
        let (data, run) = (self.path("data"), self.path(name));
        succeed("train", &[&["--data", text(&data), "--out", text(&run)], &TINY[..], more].concat());
    }
}

#[test]
fn a_dataset_that_contradicts_itself_is_refused() {
    let smithy = Smithy::new();
    let (data, forged, out) = (smithy.path("data"), smithy.path("forged"), smithy.path("out"));
    let replace = |array: ArrayRef| move |_: &ArrayRef| Arc::clone(&array);
    let file = fs::File::open(data.join("timeline.parquet")).expect("a timeline");
    let reader = ParquetRecordBatchReaderBuilder::try_new(file).and_then(|builder| builder.build()).expect("Parquet");
    let timeline: Vec<RecordBatch> = reader.map(|batch| batch.expect("a batch")).collect();
    assert_eq!(timeline.len(), 1, "a batch is enough for so few events");
    let rows = timeline[0].num_rows();
    let with = |column: &str, at: usize, value: u32| -> ArrayRef {
        let mut values = timeline[0][column].as_primitive::<UInt32Type>().values().to_vec();
        values[at] = value;
        Arc::new(UInt32Array::from(values))
    };
    // File, column, its forged values, parts of the message.
    let cases: [(&str, &str, ArrayRef, &[&str]); 6] = [
        ("timeline.parquet", "item", with("item", 41, 4_000_000), &["row 42", "4000000", "beyond"]),
        ("timeline.parquet", "user", with("user", rows - 1, 80), &[&format!("row {rows}"), "user 80", "beyond"]),
        ("timeline.parquet", "user", with("user", 0, 3), &["row 2", "sorted"]),
        ("timeline.parquet", "item", Arc::new(Int64Array::from(vec![0; rows])), &["item", "Int64"]),
        ("users.parquet", "id", Arc::new(StringArray::from(vec!["u1"; 80])), &["u1", "twice"]),
        ("timeline.parquet", "timestamp_ms", Arc::new(Float32Array::from(vec![f32::NAN; rows])), &["timestamp_ms"]),
    ];
    for (file, column, values, parts) in cases {
        forge(&data, &forged, dataset::MAGIC, |dir| change_column(&dir.join(file), column, replace(values)));
        let args = ["--data", text(&forged), "--out", text(&out), "--device", "cpu"];
        fail("train", &args, 1, &[&[file], parts].concat());
        assert!(!out.join("best").exists() && !out.join("checkpoint").exists(), "{file}, {column}");
        let _ = fs::remove_dir_all(&out);
    }
    // Fewer rows than the manifest's counts.
    forge(&data, &forged, dataset::MAGIC, |dir| {
        fs::copy(dir.join("users.parquet"), dir.join("items.parquet")).expect("a copy");
    });
    let args = ["--data", text(&forged), "--out", text(&out), "--device", "cpu"];
    fail("train", &args, 1, &["items.parquet", "80"]);
}

type Change = fn(&mut Vec<tensor_file::NamedTensor>, fn(&tensor_file::NamedTensor) -> bool);

#[test]
fn parameters_of_another_model_are_refused() {
    let smithy = Smithy::new();
    smithy.train("wide", &["--set", "model.dim=24"]);
    let (run, data, out) = (smithy.path("run"), smithy.path("data"), smithy.path("out"));
    let (mine, other) = (run.join("best"), smithy.path("wide").join("best"));
    let kept = smithy.path("kept");
    fs::rename(&mine, &kept).expect("a rename");

    // The whole of another run's best parameters, sound in itself.
    forge(&other, &mine, WEIGHTS_MAGIC, |_| ());
    let weights = mine.join("weights.safetensors");
    let embed = ["--run", text(&run), "--out", text(&out), "--device", "cpu"];
    fail("embed", &embed, 1, &[text(&weights)]);
    assert!(!out.exists());
    for more in [&["recommend", "--run", text(&run), "--users", "all"][..], &["evaluate", "--run", text(&run)]] {
        fail("duet", &[more, &["--device", "cpu"]].concat(), 1, &[text(&weights)]);
    }
    // A parameter too few, and one that is not a number.
    let is_table = |tensor: &tensor_file::NamedTensor| tensor.name == "tables.items.weights";
    for (what, change) in [
        ("missing", (|tensors, is_table| tensors.retain(|tensor| !is_table(tensor))) as Change),
        ("not finite", |tensors, is_table| {
            let table = tensors.iter_mut().find(|tensor| is_table(tensor)).expect("the table of items");
            table.values[0] = f32::NAN;
        }),
        ("optimiser memory not finite", |tensors, _| {
            let memory = tensors.iter_mut().find(|tensor| tensor.name.ends_with(".accumulators")).expect("memory");
            memory.values[0] = f32::NAN;
        }),
    ] {
        forge(&kept, &mine, WEIGHTS_MAGIC, |dir| {
            let path = dir.join("weights.safetensors");
            let mut tensors: Vec<_> = tensor_file::read(&path).expect("tensors").into_values().collect();
            change(&mut tensors, is_table);
            tensor_file::write(&path, &tensors).expect("tensors are written");
        });
        let said = fail("embed", &embed, 1, &[text(&weights)]);
        assert!(!out.exists(), "{what}: {said}");
    }
    forge(&kept, &mine, WEIGHTS_MAGIC, |_| ());
    succeed("embed", &embed);

    // The same for what a training goes on from.
    let (checkpoint, others) = (run.join("checkpoint"), smithy.path("wide").join("checkpoint"));
    let progress = smithy.path("progress");
    fs::rename(&checkpoint, &progress).expect("a rename");
    forge(&others, &checkpoint, "duet-checkpoint", |_| ());
    let resume = [&["--data", text(&data), "--out", text(&run), "--resume"], &TINY[..]].concat();
    let before = fs::read(mine.join("weights.safetensors")).expect("parameters");
    fail("train", &resume, 1, &[text(&checkpoint.join("weights.safetensors"))]);
    assert!(fs::read(mine.join("weights.safetensors")).expect("parameters") == before, "a failed resume changed best/");
}

#[test]
fn a_bundle_whose_parts_do_not_fit_is_refused() {
    let smithy = Smithy::new();
    let (run, whole, forged) = (smithy.path("run"), smithy.path("whole"), smithy.path("forged"));
    succeed("embed", &["--run", text(&run), "--out", text(&whole), "--device", "cpu"]);
    let recommend = ["recommend", "--bundle", text(&forged), "--users", "all"];
    forge(&whole, &forged, bundle::MAGIC, |_| ());
    duet(&recommend);
    for (from, to, part) in [
        // Vectors of users in place of the items', and the other way round.
        ("users.parquet", "items.parquet", "items.parquet"),
        ("items.parquet", "users.parquet", "users.parquet"),
        ("data/items.parquet", "data/users.parquet", "users.parquet"),
        ("data/users.parquet", "data/timeline.parquet", "timeline.parquet"),
        ("MODEL_CARD.md", "users.parquet", "users.parquet"),
        ("MODEL_CARD.md", "run.json", "run.json"),
    ] {
        forge(&whole, &forged, bundle::MAGIC, |dir| {
            fs::copy(dir.join(from), dir.join(to)).expect("a copy");
        });
        fail("duet", &recommend, 1, &[text(&forged), part]);
    }
}
