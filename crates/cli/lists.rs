//! Lists as a file: `user_id`, `item_id`, `rank` (from 1), `score`; CSV or Parquet by extension.
//!
//! Ids are text inside duet. In Parquet, where a column has a type, ids that all are whole numbers are written as
//! such: whoever imported numbers joins the lists with them.
//!
//! Written in tiles through a [`StagedFile`]: whoever looks sees the whole file or none.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Float32Array, Int64Array, StringArray, UInt32Array},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use duet_core::{Error, Result, artifact::StagedFile};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};

/// Whether a path names a form that [`ListWriter`] writes.
///
/// # Errors
/// [`Error::Input`] naming the forms.
pub(crate) fn check_extension(path: &Path) -> Result<()> {
    match extension(path).as_str() {
        "csv" | "parquet" => Ok(()),
        _ => Err(Error::input(format!("{}: the name must end in .csv or .parquet", path.display()))),
    }
}

fn extension(path: &Path) -> String {
    path.extension().map(|extension| extension.to_string_lossy().to_lowercase()).unwrap_or_default()
}

/// How a column of ids is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IdType {
    Number,
    Text,
}

impl IdType {
    /// Numbers if every id is a whole number in its usual form (no sign, no leading zeros), so that nothing is lost.
    pub(crate) fn of<'a>(ids: impl IntoIterator<Item = &'a String>) -> Self {
        let is_number = |id: &String| id.parse::<i64>().is_ok_and(|number| number >= 0 && number.to_string() == *id);
        if ids.into_iter().all(is_number) { Self::Number } else { Self::Text }
    }

    fn data_type(self) -> DataType {
        match self {
            Self::Number => DataType::Int64,
            Self::Text => DataType::Utf8,
        }
    }
}

enum Form {
    Csv(Box<arrow::csv::Writer<StagedFile>>),
    Parquet(Box<ArrowWriter<StagedFile>>),
}

/// The unfinished file; dropped without [`ListWriter::finish`], nothing is left of it.
pub(crate) struct ListWriter {
    form: Form,
    schema: SchemaRef,
    target: PathBuf,
}

impl ListWriter {
    /// Starts what will be `target`.
    ///
    /// # Errors
    /// [`Error::Input`] for another extension than `csv` and `parquet`; [`Error::Io`] with the path.
    pub(crate) fn create(target: &Path, user_ids: IdType, item_ids: IdType) -> Result<Self> {
        check_extension(target)?;
        let schema = Arc::new(Schema::new(vec![
            Field::new("user_id", user_ids.data_type(), false),
            Field::new("item_id", item_ids.data_type(), false),
            Field::new("rank", DataType::UInt32, false),
            Field::new("score", DataType::Float32, false),
        ]));
        let file = StagedFile::create(target)?;
        let form = match extension(target).as_str() {
            "csv" => Form::Csv(Box::new(arrow::csv::WriterBuilder::new().with_header(true).build(file))),
            _ => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let parquet = ArrowWriter::try_new(file, schema.clone(), Some(properties));
                Form::Parquet(Box::new(parquet.map_err(|error| failed(target, error))?))
            }
        };
        let mut writer = Self { form, schema, target: target.to_path_buf() };
        // An empty batch: the header line stands even if nobody gets a list.
        writer.push(std::iter::empty())?;
        Ok(writer)
    }

    /// Appends rows of user, item, rank and score.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub(crate) fn push<'a>(&mut self, rows: impl Iterator<Item = (&'a str, &'a str, u32, f32)>) -> Result<()> {
        let (mut users, mut items, mut ranks, mut scores) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for (user, item, rank, score) in rows {
            users.push(user);
            items.push(item);
            ranks.push(rank);
            scores.push(score);
        }
        let columns: Vec<ArrayRef> = vec![
            self.ids(0, users)?,
            self.ids(1, items)?,
            Arc::new(UInt32Array::from(ranks)),
            Arc::new(Float32Array::from(scores)),
        ];
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| failed(&self.target, error))?;
        match &mut self.form {
            Form::Csv(writer) => writer.write(&batch).map_err(|error| failed(&self.target, error)),
            Form::Parquet(writer) => writer.write(&batch).map_err(|error| failed(&self.target, error)),
        }
    }

    fn ids(&self, column: usize, ids: Vec<&str>) -> Result<ArrayRef> {
        if *self.schema.field(column).data_type() == DataType::Utf8 {
            return Ok(Arc::new(StringArray::from(ids)));
        }
        let number = |id: &str| id.parse().map_err(|_| Error::Internal(format!("{id:?} was taken for a number")));
        Ok(Arc::new(Int64Array::from(ids.into_iter().map(number).collect::<Result<Vec<i64>>>()?)))
    }

    /// Syncs the file and moves it to its place.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; nothing is left behind then.
    pub(crate) fn finish(self) -> Result<()> {
        let file = match self.form {
            Form::Csv(writer) => writer.into_inner(),
            Form::Parquet(writer) => writer.into_inner().map_err(|error| failed(&self.target, error))?,
        };
        file.commit()
    }
}

fn failed(target: &Path, error: impl std::fmt::Display) -> Error {
    Error::Io { path: target.to_path_buf(), source: std::io::Error::other(error.to_string()) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn ids_are_numbers_only_if_nothing_is_lost() {
        let of = |ids: &[&str]| IdType::of(&ids.iter().map(|&id| id.to_owned()).collect::<Vec<_>>());
        assert_eq!(of(&["0", "10", "9223372036854775807"]), IdType::Number);
        for odd in ["007", "+1", "-1", "1.0", "", "9223372036854775808"] {
            assert_eq!(of(&["1", odd]), IdType::Text, "{odd}");
        }
    }

    #[test]
    fn both_forms_hold_the_rows_and_a_dropped_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [("u,1", "a\"b", 1, 0.5_f32), ("u,1", "c", 2, -1e-9)];
        let csv = dir.path().join("lists.csv");
        let mut writer = ListWriter::create(&csv, IdType::Text, IdType::Text).unwrap();
        writer.push(rows.into_iter().take(1)).unwrap();
        writer.push(rows.into_iter().skip(1)).unwrap();
        writer.finish().unwrap();
        let mut reader = csv::Reader::from_path(&csv).unwrap();
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), ["user_id", "item_id", "rank", "score"]);
        let read: Vec<(String, String, u32, f32)> = reader.deserialize().map(Result::unwrap).collect();
        let expected = rows.map(|(user, item, rank, score)| (user.to_owned(), item.to_owned(), rank, score));
        assert_eq!(read, expected);

        let parquet = dir.path().join("lists.parquet");
        let mut writer = ListWriter::create(&parquet, IdType::Number, IdType::Text).unwrap();
        writer.push([("7", "a", 1, 0.5), ("10", "007", 1, 0.5)].into_iter()).unwrap();
        writer.finish().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(std::fs::File::open(&parquet).unwrap()).unwrap();
        let types: Vec<DataType> = reader.schema().fields().iter().map(|field| field.data_type().clone()).collect();
        assert_eq!(types, [DataType::Int64, DataType::Utf8, DataType::UInt32, DataType::Float32]);
        assert_eq!(reader.build().unwrap().map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);

        drop(ListWriter::create(&dir.path().join("gone.csv"), IdType::Text, IdType::Text).unwrap());
        assert!(ListWriter::create(&dir.path().join("lists.json"), IdType::Text, IdType::Text).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        let empty = dir.path().join("empty.csv");
        ListWriter::create(&empty, IdType::Number, IdType::Text).unwrap().finish().unwrap();
        assert_eq!(std::fs::read_to_string(empty).unwrap(), "user_id,item_id,rank,score\n");
    }
}
