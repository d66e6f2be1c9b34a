//! The feature columns of a catalogue as columns of a table: names, types, values, conditions, indexes.

use chrono::NaiveDate;
use duet_core::{
    Error, Result,
    condition::{Condition, Test},
    table::{ColumnValues, FeatureTable},
};
use tokio_postgres::types::ToSql;

use crate::accounts::TableName;

/// Names that the table has already, or that Postgres keeps for itself.
const TAKEN: [&str; 11] = ["item", "id", "name", "vector", "oid", "ctid", "xmin", "xmax", "cmin", "cmax", "tableoid"];
/// Bytes of a longest name; of a longer one Postgres takes the beginning.
const LONGEST: usize = 63;

/// A value as a parameter or a field.
pub(super) type Value = Box<dyn ToSql + Sync>;

/// The name of a feature column in the table, quoted. Its own, where that can be one.
pub(super) fn name(table: &FeatureTable, column: usize) -> String {
    let own = &table.columns[column].name;
    let is_like_ours = own.strip_prefix("feature_").is_some_and(|rest| rest.parse::<usize>().is_ok());
    let can_be = !own.is_empty()
        && own.len() <= LONGEST
        && !own.contains('\0')
        && !TAKEN.contains(&own.as_str())
        && !is_like_ours;
    let name = if can_be { own.clone() } else { format!("feature_{column}") };
    TableName { schema: None, name }.quoted()
}

pub(super) fn sql_type(values: &ColumnValues) -> &'static str {
    match values {
        ColumnValues::Text(_) => "text",
        ColumnValues::TextList(_) => "text[]",
        ColumnValues::Number(_) => "double precision",
        ColumnValues::Day(_) => "date",
    }
}

/// How an index of the column is made, for filters so selective that reading the allowed rows beats the index of the vectors. A hash
/// takes texts of any length.
pub(super) fn index(values: &ColumnValues, name: &str) -> Option<String> {
    match values {
        ColumnValues::Text(_) => Some(format!("hash ({name})")),
        ColumnValues::TextList(_) => Some(format!("gin ({name})")),
        ColumnValues::Number(_) => Some(format!("btree ({name})")),
        // No condition asks for days.
        ColumnValues::Day(_) => None,
    }
}

/// A row's value; what is missing is NULL.
pub(super) fn value(values: &ColumnValues, row: usize) -> Result<Value> {
    let value: Value = match values {
        ColumnValues::Text(values) => {
            let text = values[row].as_deref().map(storable).transpose()?;
            Box::new(text)
        }
        ColumnValues::TextList(values) => {
            let list = values[row].iter().map(|text| storable(text)).collect::<Result<Vec<String>>>()?;
            Box::new((!list.is_empty()).then_some(list))
        }
        ColumnValues::Number(values) => Box::new(Some(values[row]).filter(|number| !number.is_nan())),
        ColumnValues::Day(values) => Box::new(values[row].and_then(NaiveDate::from_epoch_days)),
    };
    Ok(value)
}

/// A text that Postgres can hold.
pub(super) fn storable(text: &str) -> Result<String> {
    if text.contains('\0') {
        return Err(Error::input(format!("{text:?} holds a zero byte, which no text of Postgres can")));
    }
    Ok(text.to_owned())
}

/// Conditions as SQL over parameters that start at `$first`, and the parameters: values never become part of a statement.
pub(super) fn clauses(table: &FeatureTable, conditions: &[Condition], first: usize) -> Result<(String, Vec<Value>)> {
    let (mut text, mut parameters): (String, Vec<Value>) = (String::new(), Vec::new());
    for condition in conditions {
        if condition.column >= table.columns.len() {
            return Err(Error::Internal(format!(
                "a condition on column {} of {}",
                condition.column,
                table.columns.len()
            )));
        }
        let column = name(table, condition.column);
        let at = first + parameters.len();
        let (clause, parameter): (String, Value) = match &condition.test {
            Test::Equals(text) => (format!("{column} = ${at}::text"), Box::new(storable(text)?)),
            // What GIN indexes, unlike `$1 = ANY (column)`.
            Test::Contains(text) => (format!("{column} @> ${at}::text[]"), Box::new(vec![storable(text)?])),
            Test::Is(number) => (format!("{column} = ${at}::float8"), Box::new(*number)),
            Test::AtLeast(number) => (format!("{column} >= ${at}::float8"), Box::new(*number)),
            Test::AtMost(number) => (format!("{column} <= ${at}::float8"), Box::new(*number)),
        };
        text += " AND ";
        text += &clause;
        parameters.push(parameter);
    }
    Ok((text, parameters))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::{ids::IdMap, table::Column};

    use super::*;

    fn table(names: &[&str]) -> FeatureTable {
        let columns =
            names.iter().map(|name| Column { name: (*name).to_owned(), values: ColumnValues::Number(vec![1.0]) });
        FeatureTable { columns: columns.collect(), ..FeatureTable::from_ids(IdMap::new(vec!["a".to_owned()]).unwrap()) }
    }

    #[test]
    fn every_column_has_a_name_of_its_own() {
        let long = "x".repeat(64);
        let table = table(&["followers", "item", "xmin", &long, "say \"so\"", "feature_1", "Feature"]);
        let names: Vec<String> = (0..7).map(|column| name(&table, column)).collect();
        let expected = [
            "\"followers\"",
            "\"feature_1\"",
            "\"feature_2\"",
            "\"feature_3\"",
            "\"say \"\"so\"\"\"",
            "\"feature_5\"",
            "\"Feature\"",
        ];
        assert_eq!(names, expected);
    }

    #[test]
    fn values_of_conditions_are_parameters() {
        let mut table = table(&["followers"]);
        let text = ColumnValues::Text(vec![Some("rock".to_owned())]);
        table.columns.push(Column { name: "genre".to_owned(), values: text });
        let parse = |expression: &str| Condition::parse(&table, expression).unwrap();
        let conditions = [parse("followers>=10"), parse("genre='; DROP TABLE duet_items; --")];
        let (text, parameters) = clauses(&table, &conditions, 3).unwrap();
        assert_eq!(text, " AND \"followers\" >= $3::float8 AND \"genre\" = $4::text");
        assert_eq!(parameters.len(), 2);
        let error = clauses(&table, &[parse("genre=a\0b")], 1).err().unwrap().to_string();
        assert!(error.contains("zero byte"), "{error}");
    }
}
