//! Parquet in and out, with errors that name the file: streamed row groups, zstd, typed columns.
//!
//! Knows arrow and files; knows nothing of datasets.

use std::{
    fs::File,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, RecordBatch},
    datatypes::{DataType, Field, Schema, SchemaRef},
};
use duet_core::{Error, Result};
use parquet::{
    arrow::{
        ArrowWriter, ProjectionMask,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::properties::WriterProperties,
    schema::types::ColumnPath,
};

/// Rows handed over at once, both ways: 64 Ki rows of four columns are about 2 MB.
pub(crate) const BATCH_ROWS: usize = 1 << 16;
/// Rows of a row group: what the writer holds in memory before it reaches the disk.
pub(crate) const GROUP_ROWS: usize = 1 << 20;

/// Writes one Parquet file batch by batch.
pub(crate) struct Writer {
    path: PathBuf,
    schema: SchemaRef,
    writer: ArrowWriter<File>,
}

impl Writer {
    /// Creates `path` with the given columns.
    pub(crate) fn create(path: PathBuf, fields: Vec<Field>) -> Result<Self> {
        Self::create_with(path, fields, GROUP_ROWS, &[])
    }

    /// As [`Writer::create`], with row groups of `group_rows` (small ones for files that are read many at a time), and
    /// without dictionaries for columns of which nearly every value is another.
    pub(crate) fn create_with(path: PathBuf, fields: Vec<Field>, group_rows: usize, distinct: &[&str]) -> Result<Self> {
        let file = File::create(&path).map_err(Error::io(&path))?;
        let schema = Arc::new(Schema::new(fields));
        let properties = WriterProperties::builder()
            .set_compression(Compression::ZSTD(ZstdLevel::default()))
            .set_max_row_group_row_count(Some(group_rows));
        let properties = distinct
            .iter()
            .fold(properties, |properties, column| {
                properties.set_column_dictionary_enabled(ColumnPath::from(*column), false)
            })
            .build();
        let writer =
            ArrowWriter::try_new(file, Arc::clone(&schema), Some(properties)).map_err(|error| failed(&path, error))?;
        Ok(Self { path, schema, writer })
    }

    /// Appends rows: one array per column, in the order of the fields.
    pub(crate) fn write(&mut self, columns: Vec<ArrayRef>) -> Result<()> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| Error::Internal(format!("{}: {error}", self.path.display())))?;
        self.writer.write(&batch).map_err(|error| failed(&self.path, error))
    }

    /// Writes the footer.
    pub(crate) fn finish(self) -> Result<()> {
        self.writer.close().map(drop).map_err(|error| failed(&self.path, error))
    }
}

/// What the Parquet library says, with the path; an I/O failure below it stays one.
fn failed(path: &Path, error: ParquetError) -> Error {
    match error {
        ParquetError::External(source) => match source.downcast::<std::io::Error>() {
            Ok(source) => Error::Io { path: path.to_path_buf(), source: *source },
            Err(source) => Error::data(path, format!("Parquet: {source}")),
        },
        other => Error::data(path, format!("not readable as Parquet: {other}")),
    }
}

/// Reads one Parquet file batch by batch.
pub(crate) struct Reader {
    path: PathBuf,
    builder: ParquetRecordBatchReaderBuilder<File>,
}

impl Reader {
    /// Opens `path` and reads its footer.
    pub(crate) fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).map_err(Error::io(path))?;
        if file.metadata().map_err(Error::io(path))?.len() == 0 {
            return Err(Error::data(path, "the file is empty"));
        }
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| failed(path, error))?;
        Ok(Self { path: path.to_path_buf(), builder })
    }

    /// Rows of the file, as its footer says.
    pub(crate) fn rows(&self) -> usize {
        usize::try_from(self.builder.metadata().file_metadata().num_rows()).unwrap_or(0)
    }

    /// Names and types of its columns.
    pub(crate) fn fields(&self) -> Vec<(String, DataType)> {
        self.builder.schema().fields().iter().map(|field| (field.name().clone(), field.data_type().clone())).collect()
    }

    /// The columns with their nullability.
    pub(crate) fn schema(&self) -> SchemaRef {
        Arc::clone(self.builder.schema())
    }

    /// Checks that the file has exactly these columns, in this order.
    pub(crate) fn expect(&self, expected: &[Field]) -> Result<()> {
        let describe = |name: &str, kind: &DataType| format!("{name}: {kind}");
        let found: Vec<String> = self.fields().iter().map(|(name, kind)| describe(name, kind)).collect();
        let wanted: Vec<String> = expected.iter().map(|field| describe(field.name(), field.data_type())).collect();
        if found != wanted {
            return Err(Error::data(
                &self.path,
                format!("wrong columns: found [{}], expected [{}]", found.join(", "), wanted.join(", ")),
            ));
        }
        Ok(())
    }

    /// The batches, holding only the columns at `indices` (in file order).
    pub(crate) fn batches(self, indices: Option<&[usize]>) -> Result<Batches> {
        let mut builder = self.builder.with_batch_size(BATCH_ROWS);
        if let Some(indices) = indices {
            let mask = ProjectionMask::roots(builder.parquet_schema(), indices.iter().copied());
            builder = builder.with_projection(mask);
        }
        let reader = builder.build().map_err(|error| failed(&self.path, error))?;
        Ok(Batches { path: self.path, reader })
    }
}

/// The batches of a [`Reader`].
pub(crate) struct Batches {
    path: PathBuf,
    reader: ParquetRecordBatchReader,
}

impl Iterator for Batches {
    type Item = Result<RecordBatch>;

    fn next(&mut self) -> Option<Self::Item> {
        let batch = self.reader.next()?;
        Some(batch.map_err(|error| Error::data(&self.path, format!("not readable as Parquet: {error}"))))
    }
}

/// A column of a batch as its array type, without nulls.
///
/// `first_row` is the number (from 1) of the batch's first row, for the message.
pub(crate) fn required<'a, A: Array + 'static>(
    path: &Path,
    batch: &'a RecordBatch,
    column: usize,
    first_row: u64,
) -> Result<&'a A> {
    let array = optional::<A>(path, batch, column)?;
    if let Some(row) = (0..array.len()).find(|&row| array.is_null(row)).filter(|_| array.null_count() > 0) {
        return Err(Error::data_row(
            path,
            first_row + row as u64,
            format!("no value in column {:?}", batch.schema().field(column).name()),
        ));
    }
    Ok(array)
}

/// A column of a batch as its array type; nulls allowed.
pub(crate) fn optional<'a, A: Array + 'static>(path: &Path, batch: &'a RecordBatch, column: usize) -> Result<&'a A> {
    batch.column(column).as_any().downcast_ref::<A>().ok_or_else(|| {
        let schema = batch.schema();
        let field = schema.field(column);
        Error::data(path, format!("column {:?} has the type {}", field.name(), field.data_type()))
    })
}
