//! Declared feature columns: what a users or items table holds and how each column is read.
//!
//! A schema TOML looks like
//! ```toml
//! [users]
//! age = { kind = "bucketed", edges = [18, 25, 35, 50] }
//! occupation = { kind = "categorical" }
//! [items]
//! genres = { kind = "multi-categorical", separator = "|" }
//! followers = { kind = "numeric" }
//! release_date = { kind = "date" }
//! ```
//! Columns that are not declared are not read.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

/// How a column is read and, later, encoded.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum FeatureKind {
    /// One of a set of values; anything unseen in training is "unknown".
    Categorical {},
    /// Several values in one cell.
    MultiCategorical {
        /// What stands between two values.
        #[serde(default = "default_separator")]
        separator: String,
    },
    /// A number, encoded piecewise-linearly between quantiles of the training rows.
    Numeric {},
    /// A number cut into buckets: `edges` of length n make n + 1 buckets, `[.., e0)`, `[e0, e1)`, ..., `[en, ..)`.
    Bucketed {
        /// Strictly increasing bucket borders.
        edges: Vec<f64>,
    },
    /// A date or an instant; encoded as its age in days at the dataset's reference time.
    Date {},
}

fn default_separator() -> String {
    "|".to_owned()
}

/// The declared columns of one table, by name (sorted, so that every walk has the same order).
pub type Columns = BTreeMap<String, FeatureKind>;

/// The declared columns of the users and items tables.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Schema {
    /// Columns of the users table.
    #[serde(default)]
    pub users: Columns,
    /// Columns of the items table.
    #[serde(default)]
    pub items: Columns,
}

impl Schema {
    /// Checks what the types cannot say: bucket edges finite and strictly increasing, separators non-empty.
    ///
    /// # Errors
    /// [`Error::Input`] naming the column.
    pub fn validate(&self) -> Result<()> {
        for (table, columns) in [("users", &self.users), ("items", &self.items)] {
            for (name, kind) in columns {
                match kind {
                    FeatureKind::Bucketed { edges } => {
                        let increasing = edges.windows(2).all(|pair| pair[0] < pair[1]);
                        if edges.is_empty() || !increasing || edges.iter().any(|edge| !edge.is_finite()) {
                            return Err(Error::input(format!(
                                "schema: {table}.{name}: edges must be a non-empty, finite, strictly increasing list"
                            )));
                        }
                    }
                    FeatureKind::MultiCategorical { separator } if separator.is_empty() => {
                        return Err(Error::input(format!("schema: {table}.{name}: separator must not be empty")));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}
