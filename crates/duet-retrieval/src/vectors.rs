//! Dense vectors, in memory and as Parquet.
//!
//! A vectors file has two columns, `id` (Utf8) and `vector` (fixed-size list of Float32), neither with nulls, one row a
//! vector; pyarrow and polars read it as it is. It is written and read in batches, so a reader of 10 million vectors
//! holds them once. Ids are unique and every component is finite: what breaks that is an error naming file and row
//! (counted from 1).

use std::{collections::HashSet, path::Path, sync::Arc};

use arrow::{
    array::{Array, ArrayRef, FixedSizeListArray, Float32Array, RecordBatch, StringArray},
    datatypes::{DataType, Field, Schema},
};
use duet_core::{Error, Result, artifact::StagedFile};
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::{Compression, ZstdLevel},
    file::properties::WriterProperties,
};

/// The largest absolute component accepted: products of two such stay finite in `f32` sums of any sane dimension.
pub const MAX_COMPONENT: f32 = 1e15;

/// Rows of a row group; 16 MiB of vectors at 64 dimensions.
const ROW_GROUP: usize = 65_536;

/// Rows of `dim` components each, one after the other. Whoever takes vectors calls [`Vectors::check`] on them.
#[derive(Debug, Clone, PartialEq)]
pub struct Vectors {
    /// Components of a vector.
    pub dim: usize,
    /// All components `[rows, dim]`.
    pub data: Vec<f32>,
}

impl Vectors {
    /// Wraps and checks `data` `[rows, dim]`.
    ///
    /// # Errors
    /// As [`Vectors::check`].
    pub fn new(dim: usize, data: Vec<f32>) -> Result<Self> {
        let vectors = Self { dim, data };
        vectors.check()?;
        Ok(vectors)
    }

    /// Checks what the fields cannot say.
    ///
    /// # Errors
    /// [`Error::Input`] if `dim` is 0, the length is no multiple of it, there are more rows than an index counts, or
    /// a component is not finite or beyond [`MAX_COMPONENT`].
    pub fn check(&self) -> Result<()> {
        let Self { dim, data } = self;
        let dim = *dim;
        if dim == 0 || !data.len().is_multiple_of(dim) {
            return Err(Error::input(format!("{} components do not make vectors of dimension {dim}", data.len())));
        }
        if data.len() / dim >= u32::MAX as usize {
            return Err(Error::input(format!("{} vectors; an index holds less than {}", data.len() / dim, u32::MAX)));
        }
        if let Some(at) = first_bad(data) {
            return Err(Error::input(format!("vector {}: {}", at / dim, bad_component(at % dim, data[at]))));
        }
        Ok(())
    }

    /// Vectors held.
    pub fn len(&self) -> usize {
        self.data.len().checked_div(self.dim).unwrap_or(0)
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.data.is_empty()
    }

    /// One vector `[dim]`.
    ///
    /// # Panics
    /// If `row` is not below [`Vectors::len`].
    #[inline]
    pub fn row(&self, row: usize) -> &[f32] {
        &self.data[row * self.dim..(row + 1) * self.dim]
    }
}

/// The position of the first component that no search can work with.
pub(crate) fn first_bad(data: &[f32]) -> Option<usize> {
    data.iter().position(|value| value.is_nan() || value.abs() > MAX_COMPONENT)
}

fn bad_component(at: usize, value: f32) -> String {
    format!("component {at} is {value}; it must be finite and at most {MAX_COMPONENT:e} in size")
}

/// Writes `ids` and `vectors` (row by row the same) to `path`, atomically.
///
/// # Errors
/// [`Error::Input`] if the counts differ or an id occurs twice; [`Error::Io`] with the path.
pub fn write_vectors(path: &Path, ids: &[String], vectors: &Vectors) -> Result<()> {
    if ids.len() != vectors.len() {
        return Err(Error::input(format!("{} ids for {} vectors", ids.len(), vectors.len())));
    }
    let mut seen = HashSet::with_capacity(ids.len());
    if let Some(id) = ids.iter().find(|id| !seen.insert(id.as_str())) {
        return Err(Error::input(format!("{}: the id {id:?} occurs twice", path.display())));
    }
    drop(seen);
    let dim = i32::try_from(vectors.dim).map_err(|_| Error::input("vectors of more than 2^31 dimensions"))?;
    let element = Arc::new(Field::new("item", DataType::Float32, false));
    let schema = Arc::new(Schema::new(vec![
        Field::new("id", DataType::Utf8, false),
        Field::new("vector", DataType::FixedSizeList(element.clone(), dim), false),
    ]));
    // Float noise does not compress; level 1 is for the ids.
    let level = ZstdLevel::try_new(1).map_err(|error| Error::Internal(error.to_string()))?;
    let properties = WriterProperties::builder()
        .set_compression(Compression::ZSTD(level))
        .set_dictionary_enabled(false)
        .set_max_row_group_row_count(Some(ROW_GROUP))
        .build();
    let mut staged = StagedFile::create(path)?;
    let failed = |error: parquet::errors::ParquetError| Error::io(path)(std::io::Error::other(error));
    let mut writer = ArrowWriter::try_new(&mut staged, schema.clone(), Some(properties)).map_err(failed)?;
    for start in (0..ids.len()).step_by(ROW_GROUP) {
        let end = ids.len().min(start + ROW_GROUP);
        let values = Float32Array::from(vectors.data[start * vectors.dim..end * vectors.dim].to_vec());
        let columns: Vec<ArrayRef> = vec![
            Arc::new(StringArray::from_iter_values(&ids[start..end])),
            Arc::new(
                FixedSizeListArray::try_new(element.clone(), dim, Arc::new(values), None)
                    .map_err(|error| Error::Internal(error.to_string()))?,
            ),
        ];
        let batch =
            RecordBatch::try_new(schema.clone(), columns).map_err(|error| Error::Internal(error.to_string()))?;
        writer.write(&batch).map_err(failed)?;
        writer.flush().map_err(failed)?;
    }
    writer.close().map_err(failed)?;
    staged.commit()
}

/// Reads a vectors file.
///
/// # Errors
/// [`Error::Data`] naming file and, where there is one, the row: not Parquet, truncated, other columns or types,
/// nulls, an id twice, a component that is not finite.
pub fn read_vectors(path: &Path) -> Result<(Vec<String>, Vectors)> {
    let file = std::fs::File::open(path).map_err(Error::io(path))?;
    let damaged = |error: &dyn std::fmt::Display| Error::data(path, format!("not a readable Parquet file: {error}"));
    let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(&error))?;
    let dim = check_schema(path, builder.schema())?;
    let reader = builder.build().map_err(|error| damaged(&error))?;
    // Nothing is sized from the file's own row count: it might be damaged.
    let (mut ids, mut data, mut seen) = (Vec::new(), Vec::new(), HashSet::new());
    for batch in reader {
        let batch = batch.map_err(|error| damaged(&error))?;
        let column = |at: usize| batch.column(at).as_any();
        let places = (batch.schema().index_of("id"), batch.schema().index_of("vector"));
        let (Ok(id_at), Ok(vector_at)) = places else {
            return Err(Error::data(path, "a row group lacks the columns of the schema"));
        };
        let id_column = arrow_cast_utf8(path, batch.column(id_at))?;
        let Some(lists) = column(vector_at).downcast_ref::<FixedSizeListArray>() else {
            return Err(Error::data(path, "column vector is not a fixed-size list"));
        };
        let values = lists.values();
        let Some(floats) = values.as_any().downcast_ref::<Float32Array>() else {
            return Err(Error::data(path, "column vector does not hold 32-bit floats"));
        };
        for row in 0..batch.num_rows() {
            let number = ids.len() as u64 + 1;
            if id_column.is_null(row) || lists.is_null(row) {
                return Err(Error::data_row(path, number, "a null; id and vector must be there"));
            }
            let id = id_column.value(row);
            if !seen.insert(id.to_owned()) {
                return Err(Error::data_row(path, number, format!("the id {id:?} occurs twice")));
            }
            let start = lists.value_offset(row) as usize;
            let vector = &floats.values()[start..start + dim];
            let null = (start..start + dim).find(|&at| floats.is_null(at));
            if let Some(at) = null {
                return Err(Error::data_row(path, number, format!("component {} is null", at - start)));
            }
            if let Some(at) = first_bad(vector) {
                return Err(Error::data_row(path, number, bad_component(at, vector[at])));
            }
            ids.push(id.to_owned());
            data.extend_from_slice(vector);
        }
    }
    Ok((ids, Vectors::new(dim, data).map_err(|error| Error::data(path, error.to_string()))?))
}

/// Returns the dimension.
fn check_schema(path: &Path, schema: &Schema) -> Result<usize> {
    let field = |name: &str| {
        schema.field_with_name(name).map_err(|_| {
            let found: Vec<&str> = schema.fields().iter().map(|field| field.name().as_str()).collect();
            Error::data(
                path,
                format!("no column {name}; a vectors file has id and vector, this has {}", found.join(", ")),
            )
        })
    };
    let id = field("id")?.data_type();
    if !matches!(id, DataType::Utf8 | DataType::LargeUtf8 | DataType::Utf8View) {
        return Err(Error::data(path, format!("column id is {id}; it must be a string")));
    }
    match field("vector")?.data_type() {
        DataType::FixedSizeList(element, dim) if element.data_type() == &DataType::Float32 && *dim > 0 => {
            Ok(*dim as usize)
        }
        other => Err(Error::data(path, format!("column vector is {other}; it must be a fixed-size list of Float32"))),
    }
}

/// The ids as one string type, whichever of arrow's three the writer chose.
fn arrow_cast_utf8(path: &Path, column: &ArrayRef) -> Result<StringArray> {
    let text = arrow::compute::cast(column, &DataType::Utf8)
        .map_err(|error| Error::data(path, format!("column id is not text: {error}")))?;
    match text.as_any().downcast_ref::<StringArray>() {
        Some(text) => Ok(text.clone()),
        None => Err(Error::Internal("a cast to Utf8 gave another type".into())),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn ids(count: usize) -> Vec<String> {
        (0..count).map(|row| format!("item {row}")).collect()
    }

    #[test]
    fn round_trip_over_row_groups() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.parquet");
        let rows = ROW_GROUP + 17;
        let vectors = Vectors::new(3, (0..3 * rows).map(|at| at as f32 / 7.0).collect()).unwrap();
        write_vectors(&path, &ids(rows), &vectors).unwrap();
        assert_eq!(read_vectors(&path).unwrap(), (ids(rows), vectors));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else may stay behind");
        let empty = Vectors::new(3, Vec::new()).unwrap();
        write_vectors(&path, &[], &empty).unwrap();
        assert_eq!(read_vectors(&path).unwrap(), (Vec::new(), empty));
    }

    #[test]
    fn bad_content_is_refused_with_its_row() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("v.parquet");
        assert!(Vectors::new(2, vec![0.0, 1.0, f32::NAN, 0.0]).unwrap_err().to_string().contains("vector 1"));
        assert!(Vectors::new(2, vec![0.0; 3]).is_err());
        let vectors = Vectors::new(1, vec![1.0, 2.0]).unwrap();
        assert!(write_vectors(&path, &["a".into(), "a".into()], &vectors).is_err());
        // Straight past the checks of the writer.
        let bad = Vectors { dim: 1, data: vec![1.0, f32::INFINITY] };
        write_vectors(&path, &ids(2), &bad).unwrap();
        let error = read_vectors(&path).unwrap_err().to_string();
        assert!(error.contains("v.parquet, row 2") && error.contains("component 0 is inf"), "{error}");
        let good = std::fs::read(&path).unwrap();
        for length in [0, 3, good.len() / 2, good.len() - 1] {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(read_vectors(&path).unwrap_err().to_string().contains("v.parquet"));
        }
    }
}
