//! What was measured of every user.

use std::{path::Path, sync::Arc};

use arrow::{
    array::{ArrayRef, BooleanArray, Float32Array, StringArray},
    datatypes::{DataType, Field, Schema},
    record_batch::RecordBatch,
};
use duet_core::{Error, Result, artifact::StagedFile};
use parquet::{arrow::ArrowWriter, basic::Compression, file::properties::WriterProperties};

use super::{Evaluation, panel::Panel};

/// Columns of one value per user of the panel. Four bytes a value: their means are compared to four digits.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct PerUser {
    /// The users.
    pub panel: Panel,
    /// Column names, e.g. `ndcg@10`.
    pub columns: Vec<String>,
    /// One column per name, one value per user.
    pub values: Vec<Vec<f32>>,
    /// Recall at the first cut-off of the items of one part of an item division: `[divisions][parts]`, one value for each user
    /// who has test items there ([`ItemDivision::groups`](crate::segments::ItemDivision::groups) says who).
    pub part_recall: Vec<Vec<Vec<f32>>>,
}

impl PerUser {
    /// A column by its name.
    ///
    /// # Errors
    /// [`Error::Input`] listing the names that exist.
    pub fn column(&self, name: &str) -> Result<&[f32]> {
        match self.columns.iter().position(|column| column == name) {
            Some(at) => Ok(&self.values[at]),
            None => Err(Error::unknown("metric", name, self.columns.iter().map(String::as_str))),
        }
    }
}

/// Rows written at a time.
const BATCH: usize = 1 << 16;

/// Writes the per-user rows of several evaluations: `recommender`, `user_id`, `cold`, then one column per metric (Float32).
///
/// # Errors
/// [`Error::Input`] if the evaluations have different columns or there are none; [`Error::Io`] with the path.
pub fn write_per_user_parquet(path: &Path, evaluations: &[Evaluation]) -> Result<()> {
    let Some(first) = evaluations.first() else {
        return Err(Error::input("no evaluations to write"));
    };
    let names = &first.per_user.columns;
    if let Some(other) = evaluations.iter().find(|other| other.per_user.columns != *names) {
        return Err(Error::input(format!("{} and {} have different metrics", first.recommender, other.recommender)));
    }
    let mut fields = vec![
        Field::new("recommender", DataType::Utf8, false),
        Field::new("user_id", DataType::Utf8, false),
        Field::new("cold", DataType::Boolean, false),
    ];
    fields.extend(names.iter().map(|name| Field::new(name, DataType::Float32, false)));
    let schema = Arc::new(Schema::new(fields));
    let properties = WriterProperties::builder().set_compression(Compression::SNAPPY).build();
    let failed = |error: parquet::errors::ParquetError| Error::io(path)(std::io::Error::other(error));
    let mut staged = StagedFile::create(path)?;
    let mut writer = ArrowWriter::try_new(&mut staged, schema.clone(), Some(properties)).map_err(failed)?;
    for evaluation in evaluations {
        let rows = &evaluation.per_user;
        for (number, cases) in rows.panel.cases().chunks(BATCH).enumerate() {
            let range = number * BATCH..number * BATCH + cases.len();
            let mut columns: Vec<ArrayRef> = vec![
                Arc::new(StringArray::from_iter_values(std::iter::repeat_n(&evaluation.recommender, cases.len()))),
                Arc::new(StringArray::from_iter_values(cases.iter().map(|case| &case.user_id))),
                Arc::new(cases.iter().map(|case| Some(case.cold)).collect::<BooleanArray>()),
            ];
            let values = rows.values.iter().map(|column| column[range.clone()].to_vec());
            columns.extend(values.map(|values| Arc::new(Float32Array::from(values)) as ArrayRef));
            let batch =
                RecordBatch::try_new(schema.clone(), columns).map_err(|error| Error::Internal(error.to_string()))?;
            writer.write(&batch).map_err(failed)?;
        }
    }
    writer.close().map_err(failed)?;
    staged.commit()
}
