//! Raw feature values to model inputs: fitted once on the training rows, saved with the run, and used unchanged by
//! training, export and serving.
//!
//! * Categorical, multi-categorical and bucketed columns become *slots*: bags of ids in one shared id space; the first
//!   id of a slot means "missing or never seen in training".
//! * Numeric columns and dates (as an age in days) become *dense* values by piecewise-linear encoding
//!   (Gorishniy et al., "On Embeddings for Numerical Features in Tabular Deep Learning", 2022): with quantile edges
//!   `e_0 < .. < e_B`, component `b` is `clamp((x - e_b) / (e_{b+1} - e_b), 0, 1)`; one more component flags a missing value.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Serialize};

use crate::{
    Error, Result,
    schema::{Columns, FeatureKind},
    table::{ColumnValues, FeatureTable},
};

/// Bins of the piecewise-linear encoding.
const NUMERIC_BINS: usize = 8;

/// A fitted encoder of one table (users or items).
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct TableEncoder {
    slots: Vec<Slot>,
    numerics: Vec<Numeric>,
    /// Day that ages are counted to (days since 1970-01-01).
    reference_day: i32,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Slot {
    name: String,
    /// First id of the slot in the shared id space; it stands for "missing or unknown".
    start: u32,
    values: SlotValues,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
enum SlotValues {
    /// Sorted values; value `i` has id `start + 1 + i`. Serves categorical and multi-categorical columns.
    Vocabulary(Vec<String>),
    /// Bucket `i` has id `start + 1 + i`.
    Edges(Vec<f64>),
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Numeric {
    name: String,
    /// Strictly increasing; fewer than two mean that the column is constant and only its presence is told.
    edges: Vec<f64>,
}

/// A table ready for the model.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct EncodedTable {
    /// Rows.
    pub rows: usize,
    /// Slots a row.
    pub slots: usize,
    /// The bag of slot `s` of row `r` is `bag_ids[bag_offsets[r * slots + s]..bag_offsets[r * slots + s + 1]]`; never empty.
    pub bag_offsets: Vec<u32>,
    /// Ids in the shared id space `0..vocabulary_size`.
    pub bag_ids: Vec<u32>,
    /// Dense values a row.
    pub dense_width: usize,
    /// `[rows, dense_width]`, row-major, all in `[0, 1]`.
    pub dense: Vec<f32>,
}

impl EncodedTable {
    /// The ids of one slot of one row.
    pub fn bag(&self, row: usize, slot: usize) -> &[u32] {
        let at = row * self.slots + slot;
        &self.bag_ids[self.bag_offsets[at] as usize..self.bag_offsets[at + 1] as usize]
    }

    /// Appends the rows of a table of the same encoder.
    pub fn append(&mut self, other: &Self) {
        debug_assert_eq!((self.slots, self.dense_width), (other.slots, other.dense_width));
        let shift = self.bag_ids.len() as u32;
        self.rows += other.rows;
        self.bag_ids.extend_from_slice(&other.bag_ids);
        self.bag_offsets.extend(other.bag_offsets.iter().skip(1).map(|offset| offset + shift));
        self.dense.extend_from_slice(&other.dense);
    }

    /// The dense values of one row.
    pub fn dense_row(&self, row: usize) -> &[f32] {
        &self.dense[row * self.dense_width..(row + 1) * self.dense_width]
    }
}

impl TableEncoder {
    /// Learns vocabularies and quantile edges from the rows for which `is_training` holds.
    ///
    /// # Errors
    /// [`Error::Input`] if a declared column is missing from `table` or of another type.
    pub fn fit(
        table: &FeatureTable,
        columns: &Columns,
        reference_day: Option<i32>,
        is_training: impl Fn(usize) -> bool,
    ) -> Result<Self> {
        let rows: Vec<usize> = (0..table.len()).filter(|&row| is_training(row)).collect();
        let latest_day = |days: &[Option<i32>]| rows.iter().filter_map(|&row| days[row]).max();
        let reference_day = reference_day
            .or_else(|| {
                table
                    .columns
                    .iter()
                    .filter_map(|column| match &column.values {
                        ColumnValues::Day(days) => latest_day(days),
                        _ => None,
                    })
                    .max()
            })
            .unwrap_or(0);
        let mut encoder = Self { slots: Vec::new(), numerics: Vec::new(), reference_day };
        let mut start = 0;
        for (name, kind) in columns {
            let values = &table.column(name)?.values;
            let slot_values = match (kind, values) {
                (FeatureKind::Categorical {}, ColumnValues::Text(values)) => {
                    Some(vocabulary(rows.iter().filter_map(|&row| values[row].as_deref())))
                }
                (FeatureKind::MultiCategorical { .. }, ColumnValues::TextList(values)) => {
                    Some(vocabulary(rows.iter().flat_map(|&row| values[row].iter().map(String::as_str))))
                }
                (FeatureKind::Bucketed { edges }, ColumnValues::Number(_)) => Some(SlotValues::Edges(edges.clone())),
                (FeatureKind::Numeric {}, ColumnValues::Number(values)) => {
                    let edges = quantile_edges(rows.iter().map(|&row| values[row]).filter(|value| !value.is_nan()));
                    encoder.numerics.push(Numeric { name: name.clone(), edges });
                    None
                }
                (FeatureKind::Date {}, ColumnValues::Day(days)) => {
                    let ages = rows.iter().filter_map(|&row| days[row]).map(|day| f64::from(reference_day - day));
                    encoder.numerics.push(Numeric { name: name.clone(), edges: quantile_edges(ages) });
                    None
                }
                _ => return Err(wrong_type(name, kind)),
            };
            if let Some(values) = slot_values {
                let slot = Slot { name: name.clone(), start, values };
                start = slot.end();
                encoder.slots.push(slot);
            }
        }
        Ok(encoder)
    }

    /// Encodes every row of a table that has the columns this encoder was fitted on.
    ///
    /// # Errors
    /// [`Error::Input`] if a column is missing or of another type.
    pub fn encode(&self, table: &FeatureTable) -> Result<EncodedTable> {
        let rows = table.len();
        let mut bags: Vec<Vec<Vec<u32>>> = Vec::with_capacity(self.slots.len());
        for slot in &self.slots {
            bags.push(slot.encode(&table.column(&slot.name)?.values)?);
        }
        let mut encoded = EncodedTable {
            rows,
            slots: self.slots.len(),
            bag_offsets: Vec::with_capacity(rows * self.slots.len() + 1),
            bag_ids: Vec::new(),
            dense_width: self.dense_width(),
            dense: vec![0.0; rows * self.dense_width()],
        };
        encoded.bag_offsets.push(0);
        for row in 0..rows {
            for slot in &bags {
                encoded.bag_ids.extend_from_slice(&slot[row]);
                encoded.bag_offsets.push(encoded.bag_ids.len() as u32);
            }
        }
        let mut column_start = 0;
        for numeric in &self.numerics {
            let values = &table.column(&numeric.name)?.values;
            for row in 0..rows {
                let value = match values {
                    ColumnValues::Number(values) => values[row],
                    ColumnValues::Day(days) => days[row].map_or(f64::NAN, |day| f64::from(self.reference_day - day)),
                    _ => return Err(wrong_type(&numeric.name, &FeatureKind::Numeric {})),
                };
                let at = row * encoded.dense_width + column_start;
                numeric.encode(value, &mut encoded.dense[at..at + numeric.width()]);
            }
            column_start += numeric.width();
        }
        Ok(encoded)
    }

    /// For every id of the slots, the id that means the same in `older`: the same value, or the same bucket, of the same column.
    pub fn ids_in(&self, older: &Self) -> Vec<Option<u32>> {
        let known: HashMap<(&str, Meaning<'_>), u32> = older.meanings().collect();
        let mut ids = vec![None; self.vocabulary_size()];
        for (meaning, id) in self.meanings() {
            ids[id as usize] = known.get(&meaning).copied();
        }
        ids
    }

    /// Takes the bins of the numeric columns from `older`, so that dense values mean what they meant there; a column that was
    /// unknown or constant there keeps its own. Returns, for every dense value, the one of `older` that means the same.
    pub fn keep_bins(&mut self, older: &Self) -> Vec<Option<u32>> {
        let mut starts = HashMap::new();
        let mut start = 0;
        for numeric in &older.numerics {
            starts.insert(numeric.name.as_str(), (start, numeric));
            start += numeric.width() as u32;
        }
        let mut values = Vec::new();
        for numeric in &mut self.numerics {
            let Some((start, known)) = starts.get(numeric.name.as_str()) else {
                values.extend(std::iter::repeat_n(None, numeric.width()));
                continue;
            };
            let flag = start + known.width() as u32 - 1;
            if known.width() > 1 {
                numeric.edges.clone_from(&known.edges);
                values.extend((*start..flag).map(Some));
            } else {
                values.extend(std::iter::repeat_n(None, numeric.width() - 1));
            }
            values.push(Some(flag));
        }
        values
    }

    /// What each id of the slots stands for.
    fn meanings(&self) -> impl Iterator<Item = ((&str, Meaning<'_>), u32)> {
        self.slots
            .iter()
            .flat_map(|slot| (slot.start..slot.end()).map(move |id| ((slot.name.as_str(), slot.meaning(id)), id)))
    }

    /// Slots a row.
    pub fn slots(&self) -> usize {
        self.slots.len()
    }

    /// Size of the shared id space of the slots.
    pub fn vocabulary_size(&self) -> usize {
        self.slots.last().map_or(0, |slot| slot.end() as usize)
    }

    /// The id that means "missing" in slot `slot`.
    pub fn missing_id(&self, slot: usize) -> u32 {
        self.slots[slot].start
    }

    /// Dense values a row.
    pub fn dense_width(&self) -> usize {
        self.numerics.iter().map(Numeric::width).sum()
    }

    /// Names of all encoded columns: slots first, then dense.
    pub fn column_names(&self) -> Vec<&str> {
        self.slots.iter().map(|slot| slot.name.as_str()).chain(self.numerics.iter().map(|n| n.name.as_str())).collect()
    }

    /// A row in which everything is missing: what an unknown user looks like.
    pub fn missing_row(&self) -> EncodedTable {
        let mut dense = vec![0.0; self.dense_width()];
        let mut at = 0;
        for numeric in &self.numerics {
            numeric.encode(f64::NAN, &mut dense[at..at + numeric.width()]);
            at += numeric.width();
        }
        EncodedTable {
            rows: 1,
            slots: self.slots.len(),
            bag_offsets: (0..=self.slots.len() as u32).collect(),
            bag_ids: self.slots.iter().map(|slot| slot.start).collect(),
            dense_width: dense.len(),
            dense,
        }
    }
}

/// What an id of a slot stands for.
#[derive(Debug, PartialEq, Eq, Hash)]
enum Meaning<'a> {
    Missing,
    Value(&'a str),
    /// The bits of the bucket's lower and upper edge, where it has one.
    Bucket(Option<u64>, Option<u64>),
}

impl Slot {
    fn meaning(&self, id: u32) -> Meaning<'_> {
        let Some(at) = (id - self.start).checked_sub(1).map(|at| at as usize) else { return Meaning::Missing };
        match &self.values {
            SlotValues::Vocabulary(values) => Meaning::Value(&values[at]),
            SlotValues::Edges(edges) => {
                let edge = |at: Option<usize>| at.and_then(|at| edges.get(at)).map(|edge| edge.to_bits());
                Meaning::Bucket(edge(at.checked_sub(1)), edge(Some(at)))
            }
        }
    }

    fn end(&self) -> u32 {
        self.start
            + 1
            + match &self.values {
                SlotValues::Vocabulary(values) => values.len() as u32,
                SlotValues::Edges(edges) => edges.len() as u32 + 1,
            }
    }

    fn encode(&self, column: &ColumnValues) -> Result<Vec<Vec<u32>>> {
        let first = self.start + 1;
        match (&self.values, column) {
            (SlotValues::Vocabulary(vocabulary), ColumnValues::Text(values)) => {
                let lookup = lookup(vocabulary);
                let id = |value: &String| lookup.get(value.as_str()).map_or(self.start, |index| first + index);
                Ok(values.iter().map(|value| vec![value.as_ref().map_or(self.start, id)]).collect())
            }
            (SlotValues::Vocabulary(vocabulary), ColumnValues::TextList(lists)) => {
                let lookup = lookup(vocabulary);
                let encode = |list: &Vec<String>| {
                    let mut ids: Vec<u32> =
                        list.iter().filter_map(|value| lookup.get(value.as_str())).map(|index| first + index).collect();
                    ids.sort_unstable();
                    ids.dedup();
                    if ids.is_empty() { vec![self.start] } else { ids }
                };
                Ok(lists.iter().map(encode).collect())
            }
            (SlotValues::Edges(edges), ColumnValues::Number(values)) => Ok(values
                .iter()
                .map(|&value| {
                    let bucket = edges.partition_point(|&edge| edge <= value) as u32;
                    vec![if value.is_nan() { self.start } else { first + bucket }]
                })
                .collect()),
            _ => Err(wrong_type(&self.name, &FeatureKind::Categorical {})),
        }
    }
}

impl Numeric {
    fn width(&self) -> usize {
        self.edges.len().saturating_sub(1) + 1
    }

    /// The last component flags a missing value.
    fn encode(&self, value: f64, out: &mut [f32]) {
        let missing = out.len() - 1;
        if value.is_nan() {
            out[missing] = 1.0;
            return;
        }
        for (component, pair) in out.iter_mut().zip(self.edges.windows(2)) {
            *component = ((value - pair[0]) / (pair[1] - pair[0])).clamp(0.0, 1.0) as f32;
        }
    }
}

fn vocabulary<'a>(values: impl Iterator<Item = &'a str>) -> SlotValues {
    let distinct: BTreeMap<&str, ()> = values.map(|value| (value, ())).collect();
    SlotValues::Vocabulary(distinct.into_keys().map(str::to_owned).collect())
}

fn lookup(vocabulary: &[String]) -> HashMap<&str, u32> {
    vocabulary.iter().enumerate().map(|(index, value)| (value.as_str(), index as u32)).collect()
}

fn quantile_edges(values: impl Iterator<Item = f64>) -> Vec<f64> {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    let Some(last) = values.len().checked_sub(1) else { return Vec::new() };
    let mut edges: Vec<f64> = (0..=NUMERIC_BINS).map(|bin| values[last * bin / NUMERIC_BINS]).collect();
    edges.dedup();
    edges
}

fn wrong_type(name: &str, kind: &FeatureKind) -> Error {
    Error::input(format!("column {name:?} does not hold what its kind needs ({kind:?})"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{ids::IdMap, table::Column};

    fn table() -> (FeatureTable, Columns) {
        let column = |name: &str, values| Column { name: name.into(), values };
        let some = |text: &str| Some(text.to_owned());
        let table = FeatureTable {
            ids: IdMap::new(vec!["a".into(), "b".into(), "c".into(), "d".into()]).unwrap(),
            names: Vec::new(),
            columns: vec![
                column("age", ColumnValues::Number(vec![17.0, 18.0, f64::NAN, 99.0])),
                column("city", ColumnValues::Text(vec![some("Oslo"), some("Bonn"), None, some("Rome")])),
                column(
                    "genres",
                    ColumnValues::TextList(vec![
                        vec!["x".into(), "y".into()],
                        vec![],
                        vec!["z".into()],
                        vec!["x".into()],
                    ]),
                ),
                column("plays", ColumnValues::Number(vec![0.0, 10.0, f64::NAN, 1000.0])),
                column("release", ColumnValues::Day(vec![Some(100), Some(50), None, Some(0)])),
            ],
        };
        let columns = Columns::from([
            ("age".into(), FeatureKind::Bucketed { edges: vec![18.0, 30.0] }),
            ("city".into(), FeatureKind::Categorical {}),
            ("genres".into(), FeatureKind::MultiCategorical { separator: "|".into() }),
            ("plays".into(), FeatureKind::Numeric {}),
            ("release".into(), FeatureKind::Date {}),
        ]);
        (table, columns)
    }

    #[test]
    fn hand_computed_rows() {
        let (table, columns) = table();
        // Row d (index 3) is not a training row: Rome, and the play count 1000, must not be learned.
        let encoder = TableEncoder::fit(&table, &columns, Some(200), |row| row != 3).unwrap();
        let encoded = encoder.encode(&table).unwrap();
        // age: 0 missing, 1..=3 buckets; city: 4 missing, 5 Bonn, 6 Oslo; genres: 7 missing, 8 x, 9 y, 10 z.
        assert_eq!(encoder.vocabulary_size(), 11);
        let bags = |row| (0..3).map(|slot| encoded.bag(row, slot).to_vec()).collect::<Vec<_>>();
        assert_eq!(bags(0), [vec![1], vec![6], vec![8, 9]]);
        assert_eq!(bags(1), [vec![2], vec![5], vec![7]]);
        assert_eq!(bags(2), [vec![0], vec![4], vec![10]]);
        assert_eq!(bags(3), [vec![3], vec![4], vec![8]]);
        // plays: edges [0, 10]; release ages 100 and 150: edges [100, 150]; each with a missing flag.
        assert_eq!(encoded.dense_width, 4);
        assert_eq!(encoded.dense_row(0), [0.0, 0.0, 0.0, 0.0]);
        assert_eq!(encoded.dense_row(1), [1.0, 0.0, 1.0, 0.0]);
        assert_eq!(encoded.dense_row(2), [0.0, 1.0, 0.0, 1.0]);
        assert_eq!(encoded.dense_row(3), [1.0, 0.0, 1.0, 0.0]);
        let missing = encoder.missing_row();
        assert_eq!(missing.bag_ids, [0, 4, 7]);
        assert_eq!(missing.dense, [0.0, 1.0, 0.0, 1.0]);
    }

    #[test]
    fn what_means_the_same_is_found_in_an_older_encoder() {
        let (mut table, mut columns) = table();
        let older = TableEncoder::fit(&table, &columns, Some(200), |row| row != 3).unwrap();
        let mut again = older.clone();
        assert_eq!(again.ids_in(&older), (0..11).map(Some).collect::<Vec<_>>());
        assert_eq!(again.keep_bins(&older), (0..4).map(Some).collect::<Vec<_>>());
        assert_eq!(again, older);

        // Rome and the play count 1000 come in, a bucket is split, a column is new, another one is gone.
        columns.insert("age".into(), FeatureKind::Bucketed { edges: vec![18.0, 25.0, 30.0] });
        columns.insert("city2".into(), FeatureKind::Categorical {});
        columns.insert("height".into(), FeatureKind::Numeric {});
        columns.remove("genres");
        let city = table.column("city").unwrap().values.clone();
        table.columns.push(Column { name: "city2".into(), values: city });
        let height = ColumnValues::Number(vec![1.0, 2.0, 3.0, 4.0]);
        table.columns.push(Column { name: "height".into(), values: height });
        let mut newer = TableEncoder::fit(&table, &columns, Some(200), |_| true).unwrap();
        // age: missing, <18, 18-25, 25-30, 30+; city: missing, Bonn, Oslo, Rome; city2 likewise.
        let ids = [Some(0), Some(1), None, None, Some(3), Some(4), Some(5), Some(6), None, None, None, None, None];
        assert_eq!(newer.ids_in(&older), ids);
        let own = newer.encode(&table).unwrap();
        let values = newer.keep_bins(&older);
        // height has four distinct values (three bins and a flag); plays and release have the older bins.
        assert_eq!(values, [None, None, None, None, Some(0), Some(1), Some(2), Some(3)]);
        let kept = newer.encode(&table).unwrap();
        assert_ne!(own.dense_width, kept.dense_width);
        assert_eq!(kept.dense_row(1)[4..], older.encode(&table).unwrap().dense_row(1)[..]);

        // Constant then, not now: only the flag of missing values means the same.
        let constant = TableEncoder::fit(&table, &columns, Some(200), |row| row == 0).unwrap();
        let mut newer = TableEncoder::fit(&table, &columns, Some(200), |_| true).unwrap();
        let before = newer.clone();
        let values = newer.keep_bins(&constant);
        assert_eq!(newer, before);
        assert_eq!(values.iter().flatten().copied().collect::<Vec<_>>(), [0, 1, 2]);
    }

    #[test]
    fn survives_json_unchanged_and_names_missing_columns() {
        let (table, columns) = table();
        let encoder = TableEncoder::fit(&table, &columns, None, |_| true).unwrap();
        let json = serde_json::to_string(&encoder).unwrap();
        let back: TableEncoder = serde_json::from_str(&json).unwrap();
        assert_eq!(back.encode(&table).unwrap(), encoder.encode(&table).unwrap());
        let mut poorer = table.clone();
        poorer.columns.retain(|column| column.name != "city");
        let error = encoder.encode(&poorer).unwrap_err().to_string();
        assert!(error.contains("\"city\"") && error.contains("age"), "{error}");
    }
}
