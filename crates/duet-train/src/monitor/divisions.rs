//! Ways to divide the served users by what the dataset knows of them.

use std::collections::HashMap;

use duet_core::{
    Result,
    table::{Column, ColumnValues, FeatureTable},
};
use duet_retrieval::segments::{Division, FoldLimits, Folded, Group};
use serde::{Deserialize, Serialize};

/// Users whose column is empty.
const MISSING: &str = "(missing)";
/// Users who are not in the table.
const UNKNOWN: &str = "(not in the dataset)";
/// Parts of a column of numbers.
const QUARTERS: usize = 4;

/// What was put together, or left out, for being too small.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct FoldNote {
    /// By what users were divided.
    pub column: String,
    /// How many values have too few users.
    pub values: usize,
    /// Their users, together.
    pub users: usize,
    /// Whether they were left out, because together they are too few as well.
    pub left_out: bool,
}

impl FoldNote {
    fn new(column: &str, folded: &Folded, left_out: bool) -> Self {
        Self { column: column.to_owned(), values: folded.labels.len(), users: folded.users, left_out }
    }

    /// In a sentence.
    pub fn sentence(&self) -> String {
        let Self { column, values, users, left_out } = self;
        let fate = if *left_out { "left out, together too few as well" } else { "put together as \"all others\"" };
        format!("{column}: {values} values with too few users ({users} together) are {fate}.")
    }
}

/// Divides users by columns: `rows` has the row of each user in the table. Numbers and days are divided at the quartiles of the users
/// who have one.
///
/// # Errors
/// [`duet_core::Error::Input`] for a column that the table has not.
pub(super) fn divide(
    table: &FeatureTable,
    rows: &[Option<u32>],
    columns: &[String],
    limits: FoldLimits,
) -> Result<Vec<Division>> {
    Ok(chosen(table, columns)?.into_iter().filter_map(|column| division(column, rows, limits)).collect())
}

fn chosen<'a>(table: &'a FeatureTable, columns: &[String]) -> Result<Vec<&'a Column>> {
    match columns {
        [] => Ok(table.columns.iter().collect()),
        names => names.iter().map(|name| table.column(name)).collect(),
    }
}

/// How many segments [`divide`] can ever give that have as many users as `limits.min_users`, whoever is served: a function of the table
/// alone, so that it is the same on every day.
///
/// # Errors
/// As [`divide`].
pub(super) fn slots(table: &FeatureTable, columns: &[String], limits: FoldLimits) -> Result<usize> {
    Ok(chosen(table, columns)?.into_iter().map(|column| slots_of(column, limits)).sum())
}

fn slots_of(column: &Column, limits: FoldLimits) -> usize {
    let least = limits.min_users.max(1);
    let quarters = |known: usize| (known / least).min(QUARTERS) + usize::from(column.values.len() - known >= least);
    let values = match &column.values {
        ColumnValues::TextList(_) => return 0,
        ColumnValues::Text(values) => {
            let mut users: HashMap<Option<&str>, usize> = HashMap::new();
            values.iter().for_each(|value| *users.entry(value.as_deref()).or_default() += 1);
            users.into_values().filter(|&users| users >= least).count()
        }
        ColumnValues::Number(values) => quarters(values.iter().filter(|value| !value.is_nan()).count()),
        ColumnValues::Day(values) => quarters(values.iter().flatten().count()),
    };
    // Of users who are not in the table, and of what is folded, nobody knows how many there will be.
    (values + 2).min(limits.max_groups + 1)
}

fn division(column: &Column, rows: &[Option<u32>], limits: FoldLimits) -> Option<Division> {
    let value: Box<dyn Fn(usize) -> Option<String>> = match &column.values {
        ColumnValues::TextList(_) => return None,
        ColumnValues::Text(values) => Box::new(move |row| values[row].clone()),
        ColumnValues::Number(values) => quarters(rows, move |row| Some(values[row]).filter(|value| !value.is_nan())),
        ColumnValues::Day(values) => quarters(rows, move |row| values[row].map(f64::from)),
    };
    let mut groups: Vec<Group> = Vec::new();
    let mut places = HashMap::new();
    for (user, row) in rows.iter().enumerate() {
        let label = match row {
            None => UNKNOWN.to_owned(),
            Some(row) => value(*row as usize).unwrap_or_else(|| MISSING.to_owned()),
        };
        let place = *places.entry(label.clone()).or_insert_with(|| {
            groups.push(Group { label, users: Vec::new() });
            groups.len() - 1
        });
        groups[place].users.push(user as u32);
    }
    groups.sort_by(|a, b| a.label.cmp(&b.label));
    Some(Division::fold(column.name.clone(), groups, limits))
}

/// Names of quarters, `1st: to 12` to `4th: above 90`; days are counted from 1970-01-01.
fn quarters<'a>(
    rows: &[Option<u32>],
    number: impl Fn(usize) -> Option<f64> + 'a,
) -> Box<dyn Fn(usize) -> Option<String> + 'a> {
    let mut known: Vec<f64> = rows.iter().flatten().filter_map(|row| number(*row as usize)).collect();
    known.sort_unstable_by(f64::total_cmp);
    let mut edges: Vec<f64> = (1..QUARTERS)
        .filter_map(|part| known.get((known.len() * part).div_ceil(QUARTERS).max(1) - 1).copied())
        .collect();
    edges.dedup();
    let last = known.last().copied();
    // Where many share the largest value, nothing lies above the last edge.
    edges.retain(|edge| Some(*edge) != last);
    Box::new(move |row| {
        let value = number(row)?;
        let part = edges.partition_point(|edge| *edge < value);
        Some(match (edges.get(part), edges.last()) {
            (Some(edge), _) => format!("{}: to {edge}", part + 1),
            (None, Some(edge)) => format!("{}: above {edge}", part + 1),
            (None, None) => "any value".to_owned(),
        })
    })
}

/// What a division folded.
pub(super) fn notes(division: &Division) -> Vec<FoldNote> {
    let folded = division.folded.iter().map(|folded| FoldNote::new(&division.name, folded, false));
    let left_out = division.left_out.iter().map(|folded| FoldNote::new(&division.name, folded, true));
    folded.chain(left_out).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::ids::IdMap;
    use duet_retrieval::segments::OTHERS;

    use super::*;

    fn table() -> FeatureTable {
        let text = |values: &[Option<&str>]| values.iter().map(|value| value.map(str::to_owned)).collect();
        FeatureTable {
            ids: IdMap::new((0..8).map(|id| id.to_string()).collect()).unwrap(),
            names: Vec::new(),
            columns: vec![
                Column {
                    name: "country".into(),
                    values: ColumnValues::Text(text(&[
                        Some("de"),
                        Some("de"),
                        Some("de"),
                        Some("fr"),
                        Some("it"),
                        None,
                        None,
                        Some("de"),
                    ])),
                },
                Column { name: "tags".into(), values: ColumnValues::TextList(vec![Vec::new(); 8]) },
                Column { name: "tenure".into(), values: ColumnValues::Number((1..=8).map(f64::from).collect()) },
            ],
        }
    }

    #[test]
    fn users_by_value_and_by_quarter() {
        let rows: Vec<Option<u32>> = (0..8).map(Some).chain([None, None]).collect();
        let limits = FoldLimits { min_users: 2, max_groups: 9 };
        let found = divide(&table(), &rows, &[], limits).unwrap();
        let labels = |division: &Division| -> Vec<(String, usize)> {
            division.groups.iter().map(|group| (group.label.clone(), group.users.len())).collect()
        };
        let expected = [(MISSING, 2), (UNKNOWN, 2), ("de", 4), (OTHERS, 2)].map(|(label, n)| (label.to_owned(), n));
        let mut countries = labels(&found[0]);
        countries.sort();
        let mut sorted = expected.to_vec();
        sorted.sort();
        assert_eq!(countries, sorted);
        let note = &notes(&found[0])[0];
        assert_eq!((note.values, note.users, note.left_out), (2, 2, false));
        assert!(note.sentence().contains("country: 2 values"), "{}", note.sentence());
        assert_eq!(found.len(), 2, "lists divide nobody");
        let quarters: Vec<String> = found[1].groups.iter().map(|group| group.label.clone()).collect();
        assert_eq!(quarters, [UNKNOWN, "1: to 2", "2: to 4", "3: to 6", "4: above 6"]);
        let error = divide(&table(), &rows, &["county".to_owned()], limits).unwrap_err().to_string();
        assert!(error.contains("county") && error.contains("country"), "{error}");
    }

    #[test]
    fn segments_count_that_can_have_enough_users_whoever_comes() {
        let of = |columns: &[&str], min_users, max_groups| {
            let columns: Vec<String> = columns.iter().map(|&column| column.to_owned()).collect();
            slots(&table(), &columns, FoldLimits { min_users, max_groups }).unwrap()
        };
        // de, nobody's country, those not in the table, all others; four quarters and the last two.
        assert_eq!((of(&["country"], 2, 9), of(&["tenure"], 2, 9), of(&["tags"], 2, 9)), (4, 6, 0));
        assert_eq!(of(&[], 2, 9), 10);
        // Of eight users one part at most has five, and no country has.
        assert_eq!((of(&["country"], 5, 9), of(&["tenure"], 5, 9)), (2, 3));
        assert_eq!((of(&["country"], 1, 9), of(&["country"], 1, 2)), (6, 3));
        assert!(slots(&table(), &["county".to_owned()], FoldLimits::default()).is_err());
        // As many as there really are, at most, of whichever users are served.
        for served in 0..=8 {
            let rows: Vec<Option<u32>> = (0..served).map(Some).chain([None; 3]).collect();
            for (min_users, max_groups) in [(1, 9), (2, 9), (2, 2), (3, 1), (5, 9)] {
                let limits = FoldLimits { min_users, max_groups };
                let found: usize =
                    divide(&table(), &rows, &[], limits).unwrap().iter().map(|one| one.groups.len()).sum();
                let most = slots(&table(), &[], limits).unwrap();
                assert!(found <= most, "{found} segments of {served} users, {most} counted, {limits:?}");
            }
        }
    }
}
