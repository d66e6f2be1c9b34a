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
        ArrowSchemaConverter, ProjectionMask, add_encoded_arrow_schema_to_metadata,
        arrow_reader::{ParquetRecordBatchReader, ParquetRecordBatchReaderBuilder},
        arrow_writer::{
            ArrowColumnChunk, ArrowColumnWriter, ArrowLeafColumn, ArrowRowGroupWriterFactory, compute_leaves,
        },
    },
    basic::{Compression, ZstdLevel},
    errors::ParquetError,
    file::{properties::WriterProperties, writer::SerializedFileWriter},
    schema::types::ColumnPath,
};
use rayon::prelude::*;

/// Rows handed over at once, both ways: 64 Ki rows of four columns are about 2 MB.
pub(crate) const BATCH_ROWS: usize = 1 << 16;
/// Rows of a row group: what the writer holds in memory before it reaches the disk.
pub(crate) const GROUP_ROWS: usize = 1 << 20;
/// Fewer rows are not worth the threads.
const PARALLEL_ROWS: usize = 1 << 12;

/// Writes one Parquet file batch by batch, its columns at the same time.
pub(crate) struct Writer {
    path: PathBuf,
    schema: SchemaRef,
    file: SerializedFileWriter<File>,
    factory: ArrowRowGroupWriterFactory,
    /// The row group under way, a writer a leaf column.
    columns: Vec<ArrowColumnWriter>,
    group_rows: usize,
    rows: usize,
    groups: usize,
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
        let mut properties = distinct
            .iter()
            .fold(properties, |properties, column| {
                properties.set_column_dictionary_enabled(ColumnPath::from(*column), false)
            })
            .build();
        // Arrow's own types, fixed-size lists among them, come back as they were.
        add_encoded_arrow_schema_to_metadata(&schema, &mut properties);
        let root =
            ArrowSchemaConverter::new().convert(&schema).map_err(|error| failed(&path, error))?.root_schema_ptr();
        let file = SerializedFileWriter::new(file, root, Arc::new(properties)).map_err(|error| failed(&path, error))?;
        let factory = ArrowRowGroupWriterFactory::new(&file, Arc::clone(&schema));
        Ok(Self { path, schema, file, factory, columns: Vec::new(), group_rows, rows: 0, groups: 0 })
    }

    /// Appends rows: one array per column, in the order of the fields.
    pub(crate) fn write(&mut self, columns: Vec<ArrayRef>) -> Result<()> {
        let batch = RecordBatch::try_new(Arc::clone(&self.schema), columns)
            .map_err(|error| Error::Internal(format!("{}: {error}", self.path.display())))?;
        let mut at = 0;
        while at < batch.num_rows() {
            let rows = (batch.num_rows() - at).min(self.group_rows - self.rows);
            self.append(&batch.slice(at, rows)).map_err(|error| failed(&self.path, error))?;
            at += rows;
        }
        Ok(())
    }

    /// Appends rows that fit into the row group.
    fn append(&mut self, batch: &RecordBatch) -> Result<(), ParquetError> {
        if self.columns.is_empty() {
            self.columns = self.factory.create_column_writers(self.groups)?;
        }
        let mut leaves = Vec::with_capacity(self.columns.len());
        for (field, column) in self.schema.fields().iter().zip(batch.columns()) {
            leaves.extend(compute_leaves(field, column)?);
        }
        let write = |(writer, leaf): (&mut ArrowColumnWriter, ArrowLeafColumn)| writer.write(&leaf);
        if batch.num_rows() < PARALLEL_ROWS {
            self.columns.iter_mut().zip(leaves).try_for_each(write)?;
        } else {
            self.columns.par_iter_mut().zip(leaves).try_for_each(write)?;
        }
        self.rows += batch.num_rows();
        if self.rows == self.group_rows { self.close_group() } else { Ok(()) }
    }

    fn close_group(&mut self) -> Result<(), ParquetError> {
        let columns = std::mem::take(&mut self.columns);
        if self.rows == 0 {
            return Ok(());
        }
        let chunks: Vec<ArrowColumnChunk> =
            columns.into_par_iter().map(ArrowColumnWriter::close).collect::<Result<_, _>>()?;
        let mut group = self.file.next_row_group()?;
        for chunk in chunks {
            chunk.append_to_row_group(&mut group)?;
        }
        group.close()?;
        (self.rows, self.groups) = (0, self.groups + 1);
        Ok(())
    }

    /// Writes the footer.
    pub(crate) fn finish(mut self) -> Result<()> {
        self.close_group().and_then(|()| self.file.close()).map(drop).map_err(|error| failed(&self.path, error))
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
        self.batches_of(BATCH_ROWS, indices)
    }

    /// The same in batches of `rows`, for files of which many are read at a time.
    pub(crate) fn batches_of(self, rows: usize, indices: Option<&[usize]>) -> Result<Batches> {
        let mut builder = self.builder.with_batch_size(rows);
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
