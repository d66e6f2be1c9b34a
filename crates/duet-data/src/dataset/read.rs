//! Opening a dataset and reading its tables, each checked against the manifest and its own invariants.

use std::path::{Path, PathBuf};

use arrow::{
    array::{
        Array, Date32Array, FixedSizeListArray, Float32Array, Float64Array, Int64Array, ListArray, StringArray,
        UInt32Array,
    },
    datatypes::{DataType, Field},
};
use duet_core::{
    Error, ItemIdx, Result, UserIdx,
    artifact::{MANIFEST, Manifest},
    ids::IdMap,
    schema::Columns,
    table::{ColumnValues, FeatureTable},
};
use sha2::{Digest, Sha256};

use super::{
    Dataset, DatasetInfo, ITEMS_FILE, MAGIC, ORACLE_ITEMS_FILE, ORACLE_USERS_FILE, Oracle, TEST_FILE, TIMELINE_FILE,
    TestUser, Timeline, USERS_FILE, VERSION,
    parquet_file::{Reader, optional, required},
    write::{table_fields, test_fields, timeline_fields, vector_fields},
};
use crate::prepare::{QUALITY_FILE, QUALITY_PAGE};

impl Dataset {
    /// Opens the dataset at `dir` and verifies every file's checksum.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file that is missing, truncated, damaged, or of another kind or version.
    pub fn open(dir: &Path) -> Result<Self> {
        Self::of_manifest(dir, Manifest::open(dir, MAGIC, VERSION)?)
    }

    /// The dataset at `dir`, by its manifest.
    pub(super) fn of_manifest(dir: &Path, manifest: Manifest<DatasetInfo>) -> Result<Self> {
        let path = dir.join(MANIFEST);
        for name in [USERS_FILE, ITEMS_FILE, TIMELINE_FILE, TEST_FILE] {
            if !manifest.files.contains_key(name) {
                return Err(Error::data(&path, format!("lists no {name}")));
            }
        }
        let fingerprint = fingerprint(&path)?;
        Ok(Self { dir: dir.to_path_buf(), info: manifest.body, fingerprint })
    }

    /// The users: ids and declared features, one row per [`UserIdx`].
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and row.
    pub fn users(&self) -> Result<FeatureTable> {
        read_table(&self.dir.join(USERS_FILE), &self.info.schema.users, self.info.counts.users)
    }

    /// The items: ids, names and declared features, one row per [`ItemIdx`].
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and row.
    pub fn items(&self) -> Result<FeatureTable> {
        read_table(&self.dir.join(ITEMS_FILE), &self.info.schema.items, self.info.counts.items)
    }

    /// The training events.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and the row of an index beyond the vocabulary, an unsorted time or a weight
    /// that is not positive and finite.
    pub fn timeline(&self) -> Result<Timeline> {
        let path = self.dir.join(TIMELINE_FILE);
        let DatasetInfo { has_time, has_weight, counts, .. } = &self.info;
        let reader = open(&path, &timeline_fields(*has_time, *has_weight), Some(counts.events))?;
        let users = counts.users as usize;
        let mut timeline = Timeline::default();
        timeline.items.reserve_exact(reader.rows());
        if *has_time {
            timeline.timestamps_ms.reserve_exact(reader.rows());
        }
        if *has_weight {
            timeline.weights.reserve_exact(reader.rows());
        }
        timeline.offsets = Vec::with_capacity(users + 1);
        let mut first_row = 1;
        let mut last = (0_u32, i64::MIN);
        for batch in reader.batches(None)? {
            let batch = batch?;
            let row_users = required::<UInt32Array>(&path, &batch, 0, first_row)?.values();
            let row_items = required::<UInt32Array>(&path, &batch, 1, first_row)?.values();
            let times = match has_time {
                true => Some(required::<Int64Array>(&path, &batch, 2, first_row)?.values()),
                false => None,
            };
            let weights = match has_weight {
                true => Some(required::<Float32Array>(&path, &batch, 2 + usize::from(*has_time), first_row)?.values()),
                false => None,
            };
            for row in 0..batch.num_rows() {
                let bad = |message: String| Err(Error::data_row(&path, first_row + row as u64, message));
                let (user, item) = (row_users[row], row_items[row]);
                if user as usize >= users || u64::from(item) >= counts.items {
                    return bad(format!(
                        "user {user}, item {item}: beyond the {users} users or {} items of the vocabulary",
                        counts.items
                    ));
                }
                let time = times.map_or(i64::MIN, |times| times[row]);
                if (user, time) < last {
                    return bad("not sorted by user and time".into());
                }
                last = (user, time);
                if let Some(weights) = weights {
                    if !(weights[row].is_finite() && weights[row] > 0.0) {
                        return bad(format!("weight {}: must be positive and finite", weights[row]));
                    }
                    timeline.weights.push(weights[row]);
                }
                while timeline.offsets.len() <= user as usize {
                    timeline.offsets.push(timeline.items.len());
                }
                timeline.items.push(ItemIdx(item));
                if has_time == &true {
                    timeline.timestamps_ms.push(time);
                }
            }
            first_row += batch.num_rows() as u64;
        }
        timeline.offsets.resize(users + 1, timeline.items.len());
        Ok(timeline)
    }

    /// The held-out events by user, in the order written; empty without a split.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and row.
    pub fn test(&self) -> Result<Vec<TestUser>> {
        let users = read_ids(&self.dir.join(USERS_FILE), &self.info.schema.users, self.info.counts.users)?;
        let path = self.dir.join(TEST_FILE);
        let reader = open(&path, &test_fields(), Some(self.info.counts.test_events))?;
        let mut test: Vec<TestUser> = Vec::new();
        let mut first_row = 1;
        for batch in reader.batches(None)? {
            let batch = batch?;
            let user_ids = required::<StringArray>(&path, &batch, 0, first_row)?;
            let item_ids = required::<StringArray>(&path, &batch, 1, first_row)?;
            for row in 0..batch.num_rows() {
                let id = user_ids.value(row);
                match test.last_mut() {
                    Some(user) if user.id == id => user.items.push(item_ids.value(row).to_owned()),
                    _ => test.push(TestUser {
                        id: id.to_owned(),
                        user: users.get(id).map(UserIdx),
                        items: vec![item_ids.value(row).to_owned()],
                    }),
                }
            }
            first_row += batch.num_rows() as u64;
        }
        if test.len() as u64 != self.info.counts.test_users {
            return Err(Error::data(
                &path,
                format!("{} runs of users, the manifest says {} users", test.len(), self.info.counts.test_users),
            ));
        }
        Ok(test)
    }

    /// The truth, where the dataset has one.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file and row.
    pub fn oracle(&self) -> Result<Option<Oracle>> {
        let (users_path, items_path) = (self.dir.join(ORACLE_USERS_FILE), self.dir.join(ORACLE_ITEMS_FILE));
        if !users_path.exists() && !items_path.exists() {
            return Ok(None);
        }
        let (dim, users) = read_vectors(&users_path, self.info.counts.users)?;
        let (items_dim, items) = read_vectors(&items_path, self.info.counts.items)?;
        if dim != items_dim {
            return Err(Error::data(&items_path, format!("vectors of length {items_dim}; those of users have {dim}")));
        }
        Ok(Some(Oracle { dim, users, items }))
    }
}

/// What the data is, whatever is reported of it: the report is compared with the one before, so that it changes each time.
fn fingerprint(manifest: &Path) -> Result<String> {
    let text = fs_err::read_to_string(manifest).map_err(Error::io(manifest))?;
    let mut value: serde_json::Value =
        serde_json::from_str(&text).map_err(|error| Error::data(manifest, error.to_string()))?;
    if let Some(manifest) = value.as_object_mut() {
        manifest.remove("crc32");
        if let Some(files) = manifest.get_mut("files").and_then(serde_json::Value::as_object_mut) {
            files.retain(|name, _| name != QUALITY_FILE && name != QUALITY_PAGE);
        }
    }
    Ok(super::hex(&Sha256::digest(value.to_string())))
}

/// Opens a file of the dataset and checks its columns and, where it is known, its number of rows.
fn open(path: &Path, fields: &[Field], rows: Option<u64>) -> Result<Reader> {
    let reader = Reader::open(path)?;
    reader.expect(fields)?;
    if let Some(rows) = rows
        && reader.rows() as u64 != rows
    {
        return Err(Error::data(path, format!("{} rows, the manifest says {rows}", reader.rows())));
    }
    Ok(reader)
}

fn has_names(reader: &Reader) -> bool {
    reader.fields().get(1).is_some_and(|(name, _)| name == "name")
}

fn read_ids(path: &Path, declared: &Columns, rows: u64) -> Result<IdMap> {
    let names = has_names(&Reader::open(path)?);
    let reader = open(path, &table_fields(declared, names), Some(rows))?;
    let mut ids = Vec::with_capacity(reader.rows());
    for batch in reader.batches(Some(&[0]))? {
        let batch = batch?;
        let column = required::<StringArray>(path, &batch, 0, 1 + ids.len() as u64)?;
        ids.extend(column.iter().flatten().map(str::to_owned));
    }
    IdMap::new(ids).map_err(|error| Error::data(path, error.to_string()))
}

fn read_table(path: &PathBuf, declared: &Columns, rows: u64) -> Result<FeatureTable> {
    let names = has_names(&Reader::open(path)?);
    let reader = open(path, &table_fields(declared, names), Some(rows))?;
    let mut table = FeatureTable::with_columns(declared);
    let mut ids = Vec::with_capacity(reader.rows());
    let mut first_row = 1;
    for batch in reader.batches(None)? {
        let batch = batch?;
        let column = required::<StringArray>(path, &batch, 0, first_row)?;
        ids.extend(column.iter().flatten().map(str::to_owned));
        if names {
            let column = required::<StringArray>(path, &batch, 1, first_row)?;
            table.names.extend(column.iter().flatten().map(str::to_owned));
        }
        for (at, column) in table.columns.iter_mut().enumerate() {
            let at = at + 1 + usize::from(names);
            match &mut column.values {
                ColumnValues::Text(values) => {
                    let array = optional::<StringArray>(path, &batch, at)?;
                    values.extend(array.iter().map(|value| value.map(str::to_owned)));
                }
                ColumnValues::TextList(values) => {
                    let lists = optional::<ListArray>(path, &batch, at)?;
                    for list in lists.iter() {
                        let Some(list) = list else {
                            values.push(Vec::new());
                            continue;
                        };
                        let list = list.as_any().downcast_ref::<StringArray>().ok_or_else(|| {
                            Error::data(path, format!("column {:?} holds lists of {}", column.name, list.data_type()))
                        })?;
                        values.push(list.iter().flatten().map(str::to_owned).collect());
                    }
                }
                ColumnValues::Number(values) => {
                    let array = optional::<Float64Array>(path, &batch, at)?;
                    for (row, value) in array.iter().enumerate() {
                        if value.is_some_and(|value| !value.is_finite()) {
                            return Err(Error::data_row(
                                path,
                                first_row + row as u64,
                                format!("column {:?}: {} is not finite", column.name, array.value(row)),
                            ));
                        }
                        values.push(value.unwrap_or(f64::NAN));
                    }
                }
                ColumnValues::Day(values) => values.extend(optional::<Date32Array>(path, &batch, at)?.iter()),
            }
        }
        first_row += batch.num_rows() as u64;
    }
    table.ids = IdMap::new(ids).map_err(|error| Error::data(path, error.to_string()))?;
    table.check()?;
    Ok(table)
}

fn read_vectors(path: &Path, rows: u64) -> Result<(usize, Vec<f32>)> {
    let reader = Reader::open(path)?;
    let dim = match reader.fields().as_slice() {
        [(_, DataType::FixedSizeList(_, dim))] if *dim > 0 => *dim as usize,
        _ => return Err(Error::data(path, "expected one column \"vector\" of fixed-size lists")),
    };
    let reader = open(path, &vector_fields(dim), Some(rows))?;
    let mut vectors = Vec::with_capacity(reader.rows() * dim);
    let mut first_row = 1;
    for batch in reader.batches(None)? {
        let batch = batch?;
        let lists = required::<FixedSizeListArray>(path, &batch, 0, first_row)?;
        let values = lists
            .values()
            .as_any()
            .downcast_ref::<Float32Array>()
            .filter(|values| values.null_count() == 0)
            .ok_or_else(|| Error::data(path, "expected vectors of Float32 without nulls"))?;
        if let Some(at) = values.values().iter().position(|value| !value.is_finite()) {
            return Err(Error::data_row(path, first_row + (at / dim) as u64, "a value is not finite"));
        }
        vectors.extend_from_slice(values.values());
        first_row += batch.num_rows() as u64;
    }
    Ok((dim, vectors))
}
