//! A condition on the rows of a [`FeatureTable`], as people write it: `genre=rock`, `followers>=1000`.
//!
//! One parser for every place that filters: whether a row is looked at in memory or a database is asked, the condition is the
//! same. A number that is missing (NaN) fulfils nothing, as NULL does in SQL.

use crate::{
    Error, Result,
    table::{ColumnValues, FeatureTable},
};

/// What a column's value must be.
#[derive(Debug, Clone, PartialEq)]
pub enum Test {
    /// This text.
    Equals(String),
    /// A list that holds this text.
    Contains(String),
    /// This number.
    Is(f64),
    /// This number or more.
    AtLeast(f64),
    /// This number or less.
    AtMost(f64),
}

/// A column and what its value must be.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    /// The column, by its place in [`FeatureTable::columns`].
    pub column: usize,
    /// What its value must be.
    pub test: Test,
}

impl Condition {
    /// Reads `column=value`, `column>=number` or `column<=number`; a column `genres` is found as `genre`, too.
    ///
    /// # Errors
    /// [`Error::Input`] saying what would be valid.
    pub fn parse(table: &FeatureTable, expression: &str) -> Result<Self> {
        let (name, operator, value) = [">=", "<=", "="]
            .iter()
            .find_map(|operator| {
                expression.split_once(operator).map(|(name, value)| (name.trim(), *operator, value.trim()))
            })
            .ok_or_else(|| {
                Error::input(format!("filter {expression:?}: expected column=value, column>=number or column<=number"))
            })?;
        let plural = format!("{name}s");
        let found = table.columns.iter().position(|column| column.name == name || column.name == plural);
        let Some(column) = found else {
            return match table.column(name) {
                Err(error) => Err(error),
                Ok(_) => Err(Error::Internal(format!("column {name} has a name and no place"))),
            };
        };
        let number =
            || value.parse().map_err(|_| Error::input(format!("filter {expression:?}: {value:?} is not a number")));
        let test = match (&table.columns[column].values, operator) {
            (ColumnValues::Text(_), "=") => Test::Equals(value.to_owned()),
            (ColumnValues::TextList(_), "=") => Test::Contains(value.to_owned()),
            (ColumnValues::Number(_), ">=") => Test::AtLeast(number()?),
            (ColumnValues::Number(_), "<=") => Test::AtMost(number()?),
            (ColumnValues::Number(_), _) => Test::Is(number()?),
            _ => {
                let name = &table.columns[column].name;
                return Err(Error::input(format!("filter {expression:?}: {name} can't be compared with {operator}")));
            }
        };
        Ok(Self { column, test })
    }

    /// Whether it holds for a row; false for a column of another form.
    pub fn holds(&self, table: &FeatureTable, row: usize) -> bool {
        match (&table.columns[self.column].values, &self.test) {
            (ColumnValues::Text(values), Test::Equals(wanted)) => values[row].as_ref() == Some(wanted),
            (ColumnValues::TextList(values), Test::Contains(wanted)) => values[row].contains(wanted),
            (ColumnValues::Number(values), Test::Is(number)) => values[row] == *number,
            (ColumnValues::Number(values), Test::AtLeast(number)) => values[row] >= *number,
            (ColumnValues::Number(values), Test::AtMost(number)) => values[row] <= *number,
            _ => false,
        }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{ids::IdMap, table::Column};

    fn table() -> FeatureTable {
        let ids = IdMap::new(["a", "b", "c"].map(str::to_owned).to_vec()).unwrap();
        let column = |name: &str, values| Column { name: name.to_owned(), values };
        let text = |values: [&str; 3]| values.map(|value| Some(value.to_owned()).filter(|value| !value.is_empty()));
        FeatureTable {
            columns: vec![
                column("born", ColumnValues::Day(vec![Some(1), None, Some(3)])),
                column("country", ColumnValues::Text(text(["de", "", "fr"]).to_vec())),
                column("followers", ColumnValues::Number(vec![10.0, f64::NAN, 30.0])),
                column(
                    "genres",
                    ColumnValues::TextList(vec![vec!["pop".into(), "rock".into()], vec![], vec!["pop".into()]]),
                ),
            ],
            ..FeatureTable::from_ids(ids)
        }
    }

    #[test]
    fn rows_that_fulfil_a_condition() {
        let table = table();
        for (expression, rows) in [
            ("country=de", &[0][..]),
            ("country = fr", &[2]),
            ("genre=pop", &[0, 2]),
            ("genres=rock", &[0]),
            ("followers>=10", &[0, 2]),
            ("followers<=29.5", &[0]),
            ("followers=30", &[2]),
            ("followers=nan", &[]),
        ] {
            let condition = Condition::parse(&table, expression).unwrap();
            let found: Vec<usize> = (0..3).filter(|&row| condition.holds(&table, row)).collect();
            assert_eq!(found, rows, "{expression}");
        }
    }

    #[test]
    fn errors_say_what_would_be_valid() {
        for (expression, word) in [
            ("genre", "column=value"),
            ("mood=sad", "born, country, followers, genres"),
            ("followers>=many", "\"many\" is not a number"),
            ("country>=de", "can't be compared with >="),
            ("born=1", "can't be compared with ="),
        ] {
            let error = Condition::parse(&table(), expression).unwrap_err().to_string();
            assert!(error.contains(word), "{error}");
        }
    }
}
