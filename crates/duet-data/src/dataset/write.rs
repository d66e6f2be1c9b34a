//! Writing a dataset: checks what the types cannot say, then streams the tables to Parquet.

use std::{
    collections::HashSet,
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{
        ArrayRef, Date32Array, FixedSizeListBuilder, Float32Array, Float32Builder, Float64Array, Int64Array,
        ListBuilder, StringArray, StringBuilder, UInt32Array,
    },
    datatypes::{DataType, Field},
};
use duet_core::{
    Error, ItemIdx, Result, UserIdx,
    artifact::{DirWriter, IfExists},
    schema::{Columns, FeatureKind},
    table::{ColumnValues, FeatureTable},
};
use sha2::{Digest, Sha256};

use super::{
    Counts, DatasetParts, ITEMS_FILE, MAGIC, ORACLE_ITEMS_FILE, ORACLE_USERS_FILE, TEST_FILE, TIMELINE_FILE, TestUser,
    Timeline, USERS_FILE, VERSION,
    parquet_file::{BATCH_ROWS, Writer},
};

/// Writes a dataset to `out`; counts and the split's hash are filled in, the rest of `parts.info` is taken as it is.
///
/// # Errors
/// [`Error::Input`] if the parts contradict each other (a table and its schema, an item beyond the vocabulary,
/// unsorted times, weights that are not positive and finite) or `out` is taken; [`Error::Io`] with the path.
/// Nothing is left behind then.
pub fn write(out: &Path, if_exists: IfExists, parts: &DatasetParts) -> Result<PathBuf> {
    check(parts)?;
    let mut info = parts.info.clone();
    info.counts = Counts {
        users: parts.users.len() as u64,
        items: parts.items.len() as u64,
        events: parts.timeline.items.len() as u64,
        test_events: parts.test.iter().map(|user| user.items.len() as u64).sum(),
        test_users: parts.test.len() as u64,
    };
    info.split.hash = split_hash(parts);

    let writer = DirWriter::create(out, if_exists)?;
    write_table(writer.path(USERS_FILE), &parts.users, &info.schema.users)?;
    write_table(writer.path(ITEMS_FILE), &parts.items, &info.schema.items)?;
    write_timeline(writer.path(TIMELINE_FILE), &parts.timeline, info.has_time, info.has_weight)?;
    write_test(writer.path(TEST_FILE), &parts.test)?;
    if let Some(oracle) = &parts.oracle {
        write_vectors(writer.path(ORACLE_USERS_FILE), oracle.dim, &oracle.users)?;
        write_vectors(writer.path(ORACLE_ITEMS_FILE), oracle.dim, &oracle.items)?;
    }
    writer.publish(MAGIC, VERSION, &info)
}

fn check(parts: &DatasetParts) -> Result<()> {
    let info = &parts.info;
    info.schema.validate()?;
    check_table("users", &parts.users, &info.schema.users)?;
    check_table("items", &parts.items, &info.schema.items)?;
    parts.timeline.check(parts.users.len(), parts.items.len(), info.has_time, info.has_weight)?;
    let mut seen = HashSet::new();
    for user in &parts.test {
        if user.items.is_empty() || !seen.insert(user.id.as_str()) {
            return Err(Error::input(format!("held-out user {:?} occurs twice or without items", user.id)));
        }
        if user.user.map(|row| row.0) != parts.users.ids.get(&user.id) {
            return Err(Error::input(format!("held-out user {:?} does not match the users table", user.id)));
        }
    }
    if let Some(oracle) = &parts.oracle {
        if oracle.dim == 0
            || oracle.users.len() != oracle.dim * parts.users.len()
            || oracle.items.len() != oracle.dim * parts.items.len()
        {
            return Err(Error::input("the oracle's vectors do not fit the users and items tables"));
        }
        if oracle.users.iter().chain(&oracle.items).any(|value| !value.is_finite()) {
            return Err(Error::input("the oracle holds a value that is not finite"));
        }
    }
    Ok(())
}

pub(crate) fn check_table(what: &str, table: &FeatureTable, declared: &Columns) -> Result<()> {
    table.check()?;
    let names: Vec<&String> = table.columns.iter().map(|column| &column.name).collect();
    if names != declared.keys().collect::<Vec<_>>() {
        return Err(Error::input(format!(
            "{what}: the table has the columns {names:?}, the schema {:?}",
            declared.keys()
        )));
    }
    for (column, kind) in table.columns.iter().zip(declared.values()) {
        if ["id", "name"].contains(&column.name.as_str()) {
            return Err(Error::input(format!(
                "{what}: a feature can't be called {:?}: the name is taken",
                column.name
            )));
        }
        if std::mem::discriminant(&ColumnValues::empty(kind)) != std::mem::discriminant(&column.values) {
            return Err(Error::input(format!("{what}: column {:?} is not of its declared kind {kind:?}", column.name)));
        }
        if let ColumnValues::Number(values) = &column.values
            && let Some(row) = values.iter().position(|value| value.is_infinite())
        {
            return Err(Error::input(format!("{what}: column {:?} is infinite at row {}", column.name, row + 1)));
        }
    }
    Ok(())
}

impl Timeline {
    /// Checks the invariants of the type against a vocabulary of `users` and `items`.
    ///
    /// # Errors
    /// [`Error::Input`] naming the first event that breaks one.
    pub fn check(&self, users: usize, items: usize, has_time: bool, has_weight: bool) -> Result<()> {
        let events = self.items.len();
        let bad = |message: String| Err(Error::input(format!("timeline: {message}")));
        if self.offsets.len() != users + 1 || self.offsets[0] != 0 || self.offsets[users] != events {
            return bad(format!("{} offsets for {users} users and {events} events", self.offsets.len()));
        }
        if self.offsets.windows(2).any(|pair| pair[0] > pair[1]) {
            return bad("the offsets decrease".into());
        }
        for (what, len, expected) in
            [("timestamps", self.timestamps_ms.len(), has_time), ("weights", self.weights.len(), has_weight)]
        {
            if len != if expected { events } else { 0 } {
                return bad(format!("{len} {what} for {events} events (declared: {expected})"));
            }
        }
        if let Some(event) = self.items.iter().position(|item| item.index() >= items) {
            return bad(format!("event {event}: item {} is beyond the {items} items", self.items[event].0));
        }
        if let Some(event) = self.weights.iter().position(|weight| !(weight.is_finite() && *weight > 0.0)) {
            return bad(format!("event {event}: weight {} is not positive and finite", self.weights[event]));
        }
        if has_time {
            for user in 0..users {
                let times = &self.timestamps_ms[self.range(UserIdx::from(user))];
                if times.windows(2).any(|pair| pair[0] > pair[1]) {
                    return bad(format!("the times of user {user} are not sorted"));
                }
            }
        }
        Ok(())
    }
}

/// The hash described at [`super::SplitInfo::hash`], from users in ascending order of their external ids.
#[derive(Default)]
pub(crate) struct SplitHasher {
    training: Part,
    held_out: Part,
}

#[derive(Default)]
struct Part {
    hasher: Sha256,
    users: u64,
}

impl Part {
    fn user(&mut self, id: &str, events: usize) {
        self.users += 1;
        self.text(id);
        self.hasher.update((events as u64).to_le_bytes());
    }

    fn text(&mut self, text: &str) {
        self.hasher.update((text.len() as u32).to_le_bytes());
        self.hasher.update(text.as_bytes());
    }

    fn finish(mut self) -> [u8; 32] {
        self.hasher.update(self.users.to_le_bytes());
        self.hasher.finalize().into()
    }
}

impl SplitHasher {
    /// Adds a user's training events: external item ids, then times and weights (empty where the data has none).
    pub(crate) fn training<'a>(
        &mut self,
        id: &str,
        items: impl ExactSizeIterator<Item = &'a str>,
        timestamps_ms: &[i64],
        weights: &[f32],
    ) {
        if items.len() == 0 {
            return;
        }
        self.training.user(id, items.len());
        for (event, item) in items.enumerate() {
            self.training.text(item);
            if let Some(time) = timestamps_ms.get(event) {
                self.training.hasher.update(time.to_le_bytes());
            }
            if let Some(weight) = weights.get(event) {
                self.training.hasher.update(weight.to_le_bytes());
            }
        }
    }

    /// Adds a user's held-out items.
    pub(crate) fn held_out(&mut self, id: &str, items: &[impl AsRef<str>]) {
        self.held_out.user(id, items.len());
        items.iter().for_each(|item| self.held_out.text(item.as_ref()));
    }

    /// The hash in hex digits.
    pub(crate) fn finish(self) -> String {
        let mut hasher = Sha256::new();
        hasher.update(self.training.finish());
        hasher.update(self.held_out.finish());
        super::hex(&hasher.finalize())
    }
}

/// The hash of parts in memory.
pub(crate) fn split_hash(parts: &DatasetParts) -> String {
    let mut hasher = SplitHasher::default();
    let timeline = &parts.timeline;
    let mut users: Vec<usize> = (0..parts.users.len()).collect();
    users.sort_unstable_by_key(|&user| parts.users.ids.id(user));
    for user in users {
        let range = timeline.range(user.into());
        let items = timeline.items[range.clone()].iter().map(|item| parts.items.ids.id(item.index()));
        let times = timeline.timestamps_ms.get(range.clone()).unwrap_or_default();
        hasher.training(parts.users.ids.id(user), items, times, timeline.weights.get(range).unwrap_or_default());
    }
    let mut test: Vec<&TestUser> = parts.test.iter().collect();
    test.sort_unstable_by_key(|user| user.id.as_str());
    test.into_iter().for_each(|user| hasher.held_out(&user.id, &user.items));
    hasher.finish()
}

/// The arrow type of a column declared as `kind`.
pub(super) fn data_type(kind: &FeatureKind) -> DataType {
    match kind {
        FeatureKind::Categorical {} => DataType::Utf8,
        FeatureKind::MultiCategorical { .. } => DataType::new_list(DataType::Utf8, true),
        FeatureKind::Numeric {} | FeatureKind::Bucketed { .. } => DataType::Float64,
        FeatureKind::Date {} => DataType::Date32,
    }
}

/// The columns of a users or items file.
pub(super) fn table_fields(declared: &Columns, has_names: bool) -> Vec<Field> {
    let mut fields = vec![Field::new("id", DataType::Utf8, false)];
    if has_names {
        fields.push(Field::new("name", DataType::Utf8, false));
    }
    fields.extend(declared.iter().map(|(name, kind)| Field::new(name, data_type(kind), true)));
    fields
}

pub(crate) fn write_table(path: PathBuf, table: &FeatureTable, declared: &Columns) -> Result<()> {
    let has_names = !table.names.is_empty();
    let mut writer = Writer::create(path, table_fields(declared, has_names))?;
    for start in (0..table.len()).step_by(BATCH_ROWS) {
        let rows = start..table.len().min(start + BATCH_ROWS);
        let mut arrays: Vec<ArrayRef> =
            vec![Arc::new(StringArray::from_iter_values(rows.clone().map(|row| table.ids.id(row))))];
        if has_names {
            arrays.push(Arc::new(StringArray::from_iter_values(&table.names[rows.clone()])));
        }
        for column in &table.columns {
            arrays.push(match &column.values {
                ColumnValues::Text(values) => Arc::new(StringArray::from_iter(&values[rows.clone()])),
                ColumnValues::TextList(values) => {
                    let mut builder = ListBuilder::new(StringBuilder::new());
                    for list in &values[rows.clone()] {
                        list.iter().for_each(|value| builder.values().append_value(value));
                        builder.append(true);
                    }
                    Arc::new(builder.finish())
                }
                ColumnValues::Number(values) => Arc::new(Float64Array::from_iter(
                    values[rows.clone()].iter().map(|value| Some(*value).filter(|value| !value.is_nan())),
                )),
                ColumnValues::Day(values) => Arc::new(Date32Array::from_iter(values[rows.clone()].iter().copied())),
            });
        }
        writer.write(arrays)?;
    }
    writer.finish()
}

/// The columns of the timeline file.
pub(super) fn timeline_fields(has_time: bool, has_weight: bool) -> Vec<Field> {
    let mut fields = vec![Field::new("user", DataType::UInt32, false), Field::new("item", DataType::UInt32, false)];
    if has_time {
        fields.push(Field::new("timestamp_ms", DataType::Int64, false));
    }
    if has_weight {
        fields.push(Field::new("weight", DataType::Float32, false));
    }
    fields
}

/// Writes the training events user by user.
pub(crate) struct TimelineWriter {
    writer: Writer,
    users: Vec<u32>,
    items: Vec<u32>,
    timestamps_ms: Vec<i64>,
    weights: Vec<f32>,
    has_time: bool,
    has_weight: bool,
    rows: u64,
}

impl TimelineWriter {
    pub(crate) fn create(path: PathBuf, has_time: bool, has_weight: bool) -> Result<Self> {
        let writer = Writer::create(path, timeline_fields(has_time, has_weight))?;
        let (users, items, timestamps_ms, weights) = Default::default();
        Ok(Self { writer, users, items, timestamps_ms, weights, has_time, has_weight, rows: 0 })
    }

    /// Appends a user's events; users come in ascending order. `timestamps_ms` and `weights` are empty where the data
    /// has none.
    pub(crate) fn push(&mut self, user: u32, items: &[ItemIdx], timestamps_ms: &[i64], weights: &[f32]) -> Result<()> {
        self.users.extend(std::iter::repeat_n(user, items.len()));
        self.items.extend(items.iter().map(|item| item.0));
        self.timestamps_ms.extend_from_slice(timestamps_ms);
        self.weights.extend_from_slice(weights);
        if self.users.len() >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.rows += self.users.len() as u64;
        let mut arrays: Vec<ArrayRef> = vec![
            Arc::new(UInt32Array::from(std::mem::take(&mut self.users))),
            Arc::new(UInt32Array::from(std::mem::take(&mut self.items))),
        ];
        if self.has_time {
            arrays.push(Arc::new(Int64Array::from(std::mem::take(&mut self.timestamps_ms))));
        }
        if self.has_weight {
            arrays.push(Arc::new(Float32Array::from(std::mem::take(&mut self.weights))));
        }
        self.writer.write(arrays)
    }

    /// Writes what is left and the footer; returns the number of events.
    pub(crate) fn finish(mut self) -> Result<u64> {
        self.flush()?;
        self.writer.finish()?;
        Ok(self.rows)
    }
}

fn write_timeline(path: PathBuf, timeline: &Timeline, has_time: bool, has_weight: bool) -> Result<()> {
    let mut writer = TimelineWriter::create(path, has_time, has_weight)?;
    for user in 0..timeline.offsets.len() - 1 {
        let range = timeline.range(user.into());
        let times = timeline.timestamps_ms.get(range.clone()).unwrap_or_default();
        let weights = timeline.weights.get(range.clone()).unwrap_or_default();
        writer.push(user as u32, &timeline.items[range], times, weights)?;
    }
    writer.finish().map(drop)
}

/// The columns of the held-out file.
pub(super) fn test_fields() -> Vec<Field> {
    vec![Field::new("user_id", DataType::Utf8, false), Field::new("item_id", DataType::Utf8, false)]
}

/// Writes the held-out events user by user.
pub(crate) struct TestWriter {
    writer: Writer,
    users: Vec<String>,
    items: Vec<String>,
    counts: (u64, u64),
}

impl TestWriter {
    pub(crate) fn create(path: PathBuf) -> Result<Self> {
        let writer = Writer::create(path, test_fields())?;
        Ok(Self { writer, users: Vec::new(), items: Vec::new(), counts: (0, 0) })
    }

    /// Appends a user's items.
    pub(crate) fn push(&mut self, user: &str, items: &[impl AsRef<str>]) -> Result<()> {
        self.counts.0 += 1;
        self.users.extend(std::iter::repeat_n(user.to_owned(), items.len()));
        self.items.extend(items.iter().map(|item| item.as_ref().to_owned()));
        if self.users.len() >= BATCH_ROWS { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        self.counts.1 += self.users.len() as u64;
        let users = StringArray::from_iter_values(self.users.drain(..));
        let items = StringArray::from_iter_values(self.items.drain(..));
        self.writer.write(vec![Arc::new(users), Arc::new(items)])
    }

    /// Writes what is left and the footer; returns the numbers of users and of events.
    pub(crate) fn finish(mut self) -> Result<(u64, u64)> {
        self.flush()?;
        self.writer.finish()?;
        Ok(self.counts)
    }
}

fn write_test(path: PathBuf, test: &[TestUser]) -> Result<()> {
    let mut writer = TestWriter::create(path)?;
    test.iter().try_for_each(|user| writer.push(&user.id, &user.items))?;
    writer.finish().map(drop)
}

/// The column of an oracle file.
pub(super) fn vector_fields(dim: usize) -> Vec<Field> {
    vec![Field::new("vector", DataType::new_fixed_size_list(DataType::Float32, dim as i32, true), false)]
}

pub(crate) fn write_vectors(path: PathBuf, dim: usize, vectors: &[f32]) -> Result<()> {
    let mut writer = Writer::create(path, vector_fields(dim))?;
    for block in vectors.chunks(BATCH_ROWS * dim) {
        let mut builder = FixedSizeListBuilder::new(Float32Builder::new(), dim as i32);
        for vector in block.chunks(dim) {
            builder.values().append_slice(vector);
            builder.append(true);
        }
        writer.write(vec![Arc::new(builder.finish())])?;
    }
    writer.finish()
}
