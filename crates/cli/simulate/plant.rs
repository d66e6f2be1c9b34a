//! Regressions to be found: bundles that pass every check of their own, and serve badly.

use std::{path::Path, sync::Arc};

use anyhow::{Context, Result};
use arrow::{
    array::{ArrayRef, RecordBatch, StringArray},
    compute::concat_batches,
};
use clap::ValueEnum;
use duet_core::{
    Error,
    artifact::{DirWriter, IfExists, MANIFEST},
    mixing::splitmix64,
};
use duet_retrieval::vectors::{Vectors, read_vectors, write_vectors};
use duet_train::bundle::{self, MAGIC, VERSION};
use fs_err as fs;
use parquet::arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder};
use serde::{Deserialize, Serialize};

const ITEMS: &str = "items.parquet";
const USERS: &str = "users.parquet";
const INDEX: &str = "index.ivf";
const USER_TABLE: &str = "data/users.parquet";

/// What is wrong with a bundle.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(super) enum Plant {
    /// The vectors of the artists lie in another order than the artists.
    ShuffledIndex,
    /// The first bundle is published again.
    Stale,
    /// Features and histories are joined to the wrong listeners.
    BrokenFeature,
}

impl Plant {
    pub(super) fn as_str(self) -> &'static str {
        match self {
            Self::ShuffledIndex => "shuffled-index",
            Self::Stale => "stale",
            Self::BrokenFeature => "broken-feature",
        }
    }

    /// Writes the bundle `sound` to `out` with what is wrong in it: with its own manifest and checksums, so that nothing but
    /// its lists tells.
    pub(super) fn write(self, sound: &Path, out: &Path, seed: u64) -> Result<()> {
        let mut info = bundle::open_info(sound)?;
        let writer = DirWriter::create(out, IfExists::Fail)?;
        copy(sound, writer.dir())?;
        match self {
            Self::Stale => {}
            Self::ShuffledIndex => {
                let path = writer.path(ITEMS);
                let (ids, vectors) = read_vectors(&path)?;
                write_vectors(&path, &ids, &shuffled(&vectors, seed)?)?;
                // The index holds the vectors once more; searched without one, they are the shuffled ones for certain.
                let index = writer.path(INDEX);
                if index.exists() {
                    fs::remove_file(&index)?;
                }
                info.recall.nprobe = None;
                info.recall.index = "exact".to_owned();
            }
            Self::BrokenFeature => {
                let path = writer.path(USERS);
                let (mut ids, vectors) = read_vectors(&path)?;
                ids.rotate_right(1);
                write_vectors(&path, &ids, &vectors)?;
                rotate_ids(&writer.path(USER_TABLE), &ids)?;
            }
        }
        writer.publish(MAGIC, VERSION, &info)?;
        Ok(())
    }
}

/// All files of a directory but its manifest.
fn copy(from: &Path, to: &Path) -> Result<()> {
    for entry in fs::read_dir(from)? {
        let path = entry?.path();
        let name = path.file_name().unwrap_or_default();
        let target = to.join(name);
        if path.is_dir() {
            fs::create_dir(&target)?;
            copy(&path, &target)?;
        } else if name != MANIFEST {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// The rows in an order drawn from `seed` (Fisher and Yates).
fn shuffled(vectors: &Vectors, seed: u64) -> Result<Vectors> {
    let mut order: Vec<usize> = (0..vectors.len()).collect();
    for last in (1..order.len()).rev() {
        order.swap(last, (splitmix64(seed ^ splitmix64(last as u64)) % (last as u64 + 1)) as usize);
    }
    let data = order.into_iter().flat_map(|row| vectors.row(row).to_vec()).collect();
    Ok(Vectors::new(vectors.dim, data)?)
}

/// Writes a table of users again with other ids, row by row; everything else stays as it is.
fn rotate_ids(path: &Path, ids: &[String]) -> Result<()> {
    let broken = |error: &dyn std::fmt::Display| Error::data(path, error.to_string());
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let reader = ParquetRecordBatchReaderBuilder::try_new(file)
        .and_then(|builder| builder.build())
        .map_err(|error| broken(&error))?;
    let batches = reader.collect::<Result<Vec<RecordBatch>, _>>().map_err(|error| broken(&error))?;
    let schema = batches.first().context("a table of users without a row")?.schema();
    let whole = concat_batches(&schema, &batches).map_err(|error| broken(&error))?;
    let mut columns: Vec<ArrayRef> = whole.columns().to_vec();
    let id = schema.index_of("id").map_err(|error| broken(&error))?;
    columns[id] = Arc::new(StringArray::from_iter_values(ids));
    let rotated = RecordBatch::try_new(schema.clone(), columns).map_err(|error| broken(&error))?;
    let file = std::fs::File::create(path).map_err(Error::io(path))?;
    let mut writer = ArrowWriter::try_new(file, schema, None).map_err(|error| broken(&error))?;
    writer.write(&rotated).and_then(|()| writer.close().map(|_| ())).map_err(|error| broken(&error))?;
    Ok(())
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn ids_move_and_what_stands_beside_them_stays() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("users.parquet");
        let text = |values: [&str; 3]| Arc::new(StringArray::from_iter_values(values)) as ArrayRef;
        let table =
            |ids| RecordBatch::try_from_iter([("id", text(ids)), ("country", text(["AT", "BE", "CH"]))]).unwrap();
        let mut writer =
            ArrowWriter::try_new(fs::File::create(&path).unwrap(), table(["u1", "u2", "u3"]).schema(), None).unwrap();
        writer.write(&table(["u1", "u2", "u3"])).unwrap();
        writer.close().unwrap();
        rotate_ids(&path, &["u3", "u1", "u2"].map(str::to_owned)).unwrap();
        let file = std::fs::File::open(&path).unwrap();
        let mut batches = ParquetRecordBatchReaderBuilder::try_new(file).unwrap().build().unwrap();
        assert_eq!(batches.next().unwrap().unwrap(), table(["u3", "u1", "u2"]));
        assert!(batches.next().is_none());
    }

    #[test]
    fn shuffling_moves_rows_and_loses_none() {
        let vectors = Vectors::new(2, (0..200).map(|value| value as f32).collect()).unwrap();
        let moved = shuffled(&vectors, 7).unwrap();
        assert_eq!(moved, shuffled(&vectors, 7).unwrap());
        let still = (0..100).filter(|&row| moved.row(row) == vectors.row(row)).count();
        assert!(still < 10, "{still} rows did not move");
        let mut firsts: Vec<f32> = (0..100).map(|row| moved.row(row)[0]).collect();
        firsts.sort_by(f32::total_cmp);
        assert_eq!(firsts, (0..100).map(|row| (2 * row) as f32).collect::<Vec<_>>());
        assert!((0..100).all(|row| moved.row(row)[1] == moved.row(row)[0] + 1.0), "rows stay whole");
    }
}
