//! A users or items table in memory: ids, optional display names, and feature columns in declared form.
//!
//! One row per [`crate::UserIdx`] or [`crate::ItemIdx`]. Values are raw (not encoded): encoding needs statistics of
//! the training rows and lives in [`crate::encoding`].

use crate::{Error, Result, ids::IdMap, schema::Columns};

/// The values of one column; every variant has one entry per row.
#[derive(Debug, Clone, PartialEq)]
pub enum ColumnValues {
    /// Categorical: `None` is missing.
    Text(Vec<Option<String>>),
    /// Multi-categorical: an empty list is missing.
    TextList(Vec<Vec<String>>),
    /// Numeric and bucketed: NaN is missing; never infinite.
    Number(Vec<f64>),
    /// Dates as whole days since 1970-01-01; `None` is missing.
    Day(Vec<Option<i32>>),
}

impl ColumnValues {
    /// Rows held.
    pub fn len(&self) -> usize {
        match self {
            Self::Text(values) => values.len(),
            Self::TextList(values) => values.len(),
            Self::Number(values) => values.len(),
            Self::Day(values) => values.len(),
        }
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// An empty column of the right form for `kind`.
    pub fn empty(kind: &crate::schema::FeatureKind) -> Self {
        use crate::schema::FeatureKind;
        match kind {
            FeatureKind::Categorical {} => Self::Text(Vec::new()),
            FeatureKind::MultiCategorical { .. } => Self::TextList(Vec::new()),
            FeatureKind::Numeric {} | FeatureKind::Bucketed { .. } => Self::Number(Vec::new()),
            FeatureKind::Date {} => Self::Day(Vec::new()),
        }
    }

    /// Appends a missing value.
    pub fn push_missing(&mut self) {
        match self {
            Self::Text(values) => values.push(None),
            Self::TextList(values) => values.push(Vec::new()),
            Self::Number(values) => values.push(f64::NAN),
            Self::Day(values) => values.push(None),
        }
    }
}

/// A column with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct Column {
    /// As declared in the schema.
    pub name: String,
    /// One value per row.
    pub values: ColumnValues,
}

/// A whole table; columns stand in the order of the schema (sorted by name).
#[derive(Debug, Clone, Default)]
pub struct FeatureTable {
    /// External ids, in row order.
    pub ids: IdMap,
    /// Display names (artist names, film titles); empty when the source has none, else one per row.
    pub names: Vec<String>,
    /// Feature columns.
    pub columns: Vec<Column>,
}

impl FeatureTable {
    /// A table without features.
    pub fn from_ids(ids: IdMap) -> Self {
        Self { ids, names: Vec::new(), columns: Vec::new() }
    }

    /// An empty table with the declared columns.
    pub fn with_columns(columns: &Columns) -> Self {
        let columns = columns
            .iter()
            .map(|(name, kind)| Column { name: name.clone(), values: ColumnValues::empty(kind) })
            .collect();
        Self { ids: IdMap::default(), names: Vec::new(), columns }
    }

    /// Rows held.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are no rows.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }

    /// The display name of a row, or its id where names are absent.
    pub fn name(&self, row: usize) -> &str {
        match self.names.get(row) {
            Some(name) if !name.is_empty() => name,
            _ => self.ids.id(row),
        }
    }

    /// The row of `id`, appending a row with every feature missing if it is new.
    pub fn get_or_insert(&mut self, id: &str) -> u32 {
        let before = self.ids.len();
        let row = self.ids.get_or_insert(id);
        if self.ids.len() > before {
            if !self.names.is_empty() {
                self.names.push(String::new());
            }
            for column in &mut self.columns {
                column.values.push_missing();
            }
        }
        row
    }

    /// The column called `name`.
    ///
    /// # Errors
    /// [`Error::Input`] listing the names that exist.
    pub fn column(&self, name: &str) -> Result<&Column> {
        if self.columns.is_empty() {
            return Err(Error::input(format!("there is no column {name:?}: the table has ids and nothing else")));
        }
        self.columns
            .iter()
            .find(|column| column.name == name)
            .ok_or_else(|| Error::unknown("column", name, self.columns.iter().map(|column| column.name.as_str())))
    }

    /// Checks that every column (and the names, where present) has one value per row.
    ///
    /// # Errors
    /// [`Error::Internal`] naming the column.
    pub fn check(&self) -> Result<()> {
        let rows = self.len();
        for column in &self.columns {
            if column.values.len() != rows {
                return Err(Error::Internal(format!(
                    "column {} has {} values for {rows} rows",
                    column.name,
                    column.values.len()
                )));
            }
        }
        if !self.names.is_empty() && self.names.len() != rows {
            return Err(Error::Internal(format!("{} names for {rows} rows", self.names.len())));
        }
        Ok(())
    }
}
