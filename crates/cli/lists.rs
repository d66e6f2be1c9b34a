//! Lists as a file: `user_id`, `item_id`, `rank` (from 1), `score`; CSV or Parquet by extension.
//!
//! Written in tiles beside its place, synced, then renamed: whoever looks sees the whole file or none.

use std::{
    fs::File,
    io::BufWriter,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{ArrayRef, Float32Array, StringArray, UInt32Array},
    datatypes::{DataType, Field, Schema, SchemaRef},
    record_batch::RecordBatch,
};
use duet_core::{Error, Result};
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

enum Form {
    Csv(arrow::csv::Writer<BufWriter<File>>),
    Parquet(Box<ArrowWriter<BufWriter<File>>>),
}

/// The unfinished file; dropped without [`ListWriter::finish`], nothing is left of it.
pub(crate) struct ListWriter {
    form: Option<Form>,
    schema: SchemaRef,
    partial: PathBuf,
    target: PathBuf,
    finished: bool,
}

impl ListWriter {
    /// Starts what will be `target`.
    ///
    /// # Errors
    /// [`Error::Input`] for another extension than `csv` and `parquet`; [`Error::Io`] with the path.
    pub(crate) fn create(target: &Path) -> Result<Self> {
        check_extension(target)?;
        let schema = Arc::new(Schema::new(vec![
            Field::new("user_id", DataType::Utf8, false),
            Field::new("item_id", DataType::Utf8, false),
            Field::new("rank", DataType::UInt32, false),
            Field::new("score", DataType::Float32, false),
        ]));
        let name = target.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
        let partial = target.with_file_name(format!(".{name}.partial"));
        let file = BufWriter::with_capacity(1 << 20, File::create(&partial).map_err(Error::io(target))?);
        let mut writer =
            Self { form: None, schema: schema.clone(), partial, target: target.to_path_buf(), finished: false };
        writer.form = Some(match extension(target).as_str() {
            "csv" => Form::Csv(arrow::csv::WriterBuilder::new().with_header(true).build(file)),
            _ => {
                let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
                let parquet = ArrowWriter::try_new(file, schema, Some(properties));
                Form::Parquet(Box::new(parquet.map_err(|error| writer.failed(error))?))
            }
        });
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
            Arc::new(StringArray::from(users)),
            Arc::new(StringArray::from(items)),
            Arc::new(UInt32Array::from(ranks)),
            Arc::new(Float32Array::from(scores)),
        ];
        let batch = RecordBatch::try_new(self.schema.clone(), columns).map_err(|error| self.failed(error))?;
        let written = match &mut self.form {
            Some(Form::Csv(writer)) => writer.write(&batch).map_err(|error| error.to_string()),
            Some(Form::Parquet(writer)) => writer.write(&batch).map_err(|error| error.to_string()),
            None => Err("the file is closed".to_owned()),
        };
        written.map_err(|error| self.failed(error))
    }

    /// Syncs the file and moves it to its place.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; nothing is left behind then.
    pub(crate) fn finish(mut self) -> Result<()> {
        let buffer = match self.form.take() {
            Some(Form::Csv(writer)) => writer.into_inner(),
            Some(Form::Parquet(writer)) => writer.into_inner().map_err(|error| self.failed(error))?,
            None => return Err(Error::Internal("a list file closed twice".into())),
        };
        buffer
            .into_inner()
            .map_err(std::io::IntoInnerError::into_error)
            .and_then(|file| file.sync_all())
            .and_then(|()| std::fs::rename(&self.partial, &self.target))
            .map_err(Error::io(&self.target))?;
        self.finished = true;
        Ok(())
    }

    fn failed(&self, error: impl std::fmt::Display) -> Error {
        Error::Io { path: self.target.clone(), source: std::io::Error::other(error.to_string()) }
    }
}

impl Drop for ListWriter {
    fn drop(&mut self) {
        if !self.finished {
            // Ours and worthless; the error that led here is already on its way.
            let _ = std::fs::remove_file(&self.partial);
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

    use super::*;

    #[test]
    fn both_forms_hold_the_rows_and_a_dropped_file_leaves_nothing() {
        let dir = tempfile::tempdir().unwrap();
        let rows = [("u,1", "a\"b", 1, 0.5_f32), ("u,1", "c", 2, -1e-9)];
        let csv = dir.path().join("lists.csv");
        let mut writer = ListWriter::create(&csv).unwrap();
        writer.push(rows.into_iter().take(1)).unwrap();
        writer.push(rows.into_iter().skip(1)).unwrap();
        writer.finish().unwrap();
        let mut reader = csv::Reader::from_path(&csv).unwrap();
        assert_eq!(reader.headers().unwrap().iter().collect::<Vec<_>>(), ["user_id", "item_id", "rank", "score"]);
        let read: Vec<(String, String, u32, f32)> = reader.deserialize().map(Result::unwrap).collect();
        let expected = rows.map(|(user, item, rank, score)| (user.to_owned(), item.to_owned(), rank, score));
        assert_eq!(read, expected);

        let parquet = dir.path().join("lists.parquet");
        let mut writer = ListWriter::create(&parquet).unwrap();
        writer.push(rows.into_iter()).unwrap();
        writer.finish().unwrap();
        let reader = ParquetRecordBatchReaderBuilder::try_new(File::open(&parquet).unwrap()).unwrap().build().unwrap();
        assert_eq!(reader.map(|batch| batch.unwrap().num_rows()).sum::<usize>(), 2);

        drop(ListWriter::create(&dir.path().join("gone.csv")).unwrap());
        assert!(ListWriter::create(&dir.path().join("lists.json")).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
        let empty = dir.path().join("empty.csv");
        ListWriter::create(&empty).unwrap().finish().unwrap();
        assert_eq!(std::fs::read_to_string(empty).unwrap(), "user_id,item_id,rank,score\n");
    }
}
