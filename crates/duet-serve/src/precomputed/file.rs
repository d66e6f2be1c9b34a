//! Lists in a Parquet file.

use std::{
    fs::File,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::SystemTime,
};

use arc_swap::ArcSwap;
use arrow::{
    array::{Array, ArrayRef, AsArray, Float32Array, ListArray, RecordBatch, StringArray, UInt32Array},
    buffer::OffsetBuffer,
    datatypes::{DataType, Field, Float32Type, Schema, SchemaRef, UInt32Type},
};
use duet_core::{Error, ItemIdx, Result, artifact::StagedFile};
use duet_retrieval::Scored;
use parquet::{
    arrow::{ArrowWriter, arrow_reader::ParquetRecordBatchReaderBuilder},
    basic::Compression,
    file::{metadata::KeyValue, properties::WriterProperties},
};

const BUNDLE_KEY: &str = "duet.bundle";
const ITEMS_KEY: &str = "duet.items";
/// Users a row group.
const GROUP_USERS: usize = 1 << 16;

/// A file of lists that may be replaced by the next one.
#[derive(Debug)]
pub(super) struct ListsFile {
    path: PathBuf,
    lists: ArcSwap<Lists>,
    /// A file that could not be read: said once, and not read again and again.
    refused: Mutex<Option<Version>>,
}

impl ListsFile {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let lists = ArcSwap::from_pointee(Lists::read(path)?);
        Ok(Self { path: path.to_path_buf(), lists, refused: Mutex::default() })
    }

    pub(super) fn get(&self, user_id: &str, bundle: &str) -> Option<Vec<Scored>> {
        self.lists.load().get(user_id, bundle)
    }

    pub(super) fn refresh(&self) -> Result<()> {
        let version = Version::of(&self.path)?;
        let mut refused = self.refused.lock().unwrap_or_else(PoisonError::into_inner);
        if version == self.lists.load().version || refused.as_ref() == Some(&version) {
            return Ok(());
        }
        let read = Lists::read(&self.path);
        *refused = read.is_err().then_some(version);
        self.lists.store(Arc::new(read?));
        Ok(())
    }
}

/// What tells one file from the next at the same place.
#[derive(Debug, Clone, PartialEq)]
struct Version {
    modified: Option<SystemTime>,
    bytes: u64,
    inode: u64,
}

impl Version {
    fn of(path: &Path) -> Result<Self> {
        let metadata = std::fs::metadata(path).map_err(Error::io(path))?;
        Ok(Self { modified: metadata.modified().ok(), bytes: metadata.len(), inode: metadata.ino() })
    }
}

/// The lists of a file.
#[derive(Debug)]
struct Lists {
    version: Version,
    bundle: String,
    /// All user ids in one piece, ascending.
    users: String,
    /// Where each ends.
    user_ends: Vec<u64>,
    items: Vec<u32>,
    scores: Vec<f32>,
    /// Where each list ends in `items` and `scores`.
    list_ends: Vec<u64>,
}

impl Lists {
    fn get(&self, user_id: &str, bundle: &str) -> Option<Vec<Scored>> {
        if self.bundle != bundle {
            return None;
        }
        let (mut low, mut high) = (0, self.user_ends.len());
        while low < high {
            let middle = low.midpoint(high);
            match self.user(middle).cmp(user_id) {
                std::cmp::Ordering::Less => low = middle + 1,
                std::cmp::Ordering::Greater => high = middle,
                std::cmp::Ordering::Equal => {
                    let range = range(&self.list_ends, middle);
                    let entries = self.items[range.clone()].iter().zip(&self.scores[range]);
                    return Some(entries.map(|(&item, &score)| Scored { item: ItemIdx(item), score }).collect());
                }
            }
        }
        None
    }

    fn user(&self, at: usize) -> &str {
        &self.users[range(&self.user_ends, at)]
    }

    fn read(path: &Path) -> Result<Self> {
        let version = Version::of(path)?;
        let damaged = |error: &dyn std::fmt::Display| Error::data(path, format!("not readable as lists: {error}"));
        let file = File::open(path).map_err(Error::io(path))?;
        let builder = ParquetRecordBatchReaderBuilder::try_new(file).map_err(|error| damaged(&error))?;
        let metadata = builder.metadata().file_metadata();
        let value = |key: &str| {
            let pair = metadata.key_value_metadata()?.iter().find(|pair| pair.key == key)?;
            pair.value.clone()
        };
        let bundle = value(BUNDLE_KEY)
            .ok_or_else(|| Error::data(path, format!("no {BUNDLE_KEY} in it: not written by duet precompute")))?;
        let n_items: u32 = value(ITEMS_KEY)
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| Error::data(path, format!("no {ITEMS_KEY} in it: not written by duet precompute")))?;
        let n_users = usize::try_from(metadata.num_rows()).unwrap_or(0);
        let columns = schema();
        if builder.schema().fields() != columns.fields() {
            let found: Vec<String> = builder
                .schema()
                .fields()
                .iter()
                .map(|field| format!("{}: {}", field.name(), field.data_type()))
                .collect();
            return Err(Error::data(
                path,
                format!(
                    "the columns are {}; expected user, items and scores as duet precompute writes them",
                    found.join(", ")
                ),
            ));
        }
        let mut lists = Self {
            version,
            bundle,
            users: String::new(),
            user_ends: Vec::with_capacity(n_users),
            items: Vec::new(),
            scores: Vec::new(),
            list_ends: Vec::with_capacity(n_users),
        };
        for batch in builder.with_batch_size(GROUP_USERS).build().map_err(|error| damaged(&error))? {
            lists.push(path, &batch.map_err(|error| damaged(&error))?, n_items)?;
        }
        lists.users.shrink_to_fit();
        lists.items.shrink_to_fit();
        lists.scores.shrink_to_fit();
        Ok(lists)
    }

    fn push(&mut self, path: &Path, batch: &RecordBatch, n_items: u32) -> Result<()> {
        // The schema was checked: these are the types.
        let (users, items, scores) =
            (batch.column(0).as_string::<i32>(), batch.column(1).as_list::<i32>(), batch.column(2).as_list::<i32>());
        if items.value_offsets() != scores.value_offsets() {
            return Err(Error::data(path, "a list has more or fewer scores than items"));
        }
        for row in 0..batch.num_rows() {
            let user = users.value(row);
            let at = self.user_ends.len();
            if at > 0 && self.user(at - 1) >= user {
                let message = "the users are not sorted, or one is there twice";
                return Err(Error::data_row(path, at as u64 + 1, message));
            }
            self.users.push_str(user);
            self.user_ends.push(self.users.len() as u64);
            let (of_user, scores_of_user) = (items.value(row), scores.value(row));
            let of_user = of_user.as_primitive::<UInt32Type>().values();
            let scores_of_user = scores_of_user.as_primitive::<Float32Type>().values();
            if of_user.iter().any(|&item| item >= n_items) || scores_of_user.iter().any(|score| !score.is_finite()) {
                let message = "a list holds an item that the bundle has not, or a score that is no number";
                return Err(Error::data_row(path, at as u64 + 1, message));
            }
            self.items.extend_from_slice(of_user);
            self.scores.extend_from_slice(scores_of_user);
            self.list_ends.push(self.items.len() as u64);
        }
        Ok(())
    }
}

fn range(ends: &[u64], at: usize) -> std::ops::Range<usize> {
    let start = if at == 0 { 0 } else { ends[at - 1] };
    start as usize..ends[at] as usize
}

fn schema() -> SchemaRef {
    let list = |of: DataType| DataType::List(Arc::new(Field::new_list_field(of, false)));
    Arc::new(Schema::new(vec![
        Field::new("user", DataType::Utf8, false),
        Field::new("items", list(DataType::UInt32), false),
        Field::new("scores", list(DataType::Float32), false),
    ]))
}

/// Writes a file of lists, in tiles; dropped before [`ListsWriter::finish`], nothing is left of it.
pub struct ListsWriter {
    writer: ArrowWriter<StagedFile>,
    target: PathBuf,
    last: Option<String>,
}

impl ListsWriter {
    /// Starts what will be `target`, of a bundle with so many items.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn create(target: &Path, bundle: &str, n_items: usize) -> Result<Self> {
        let metadata = vec![
            KeyValue::new(BUNDLE_KEY.to_owned(), bundle.to_owned()),
            KeyValue::new(ITEMS_KEY.to_owned(), n_items.to_string()),
        ];
        let properties = WriterProperties::builder()
            .set_compression(Compression::SNAPPY)
            .set_max_row_group_row_count(Some(GROUP_USERS))
            .set_key_value_metadata(Some(metadata))
            .build();
        let file = StagedFile::create(target)?;
        let writer = ArrowWriter::try_new(file, schema(), Some(properties)).map_err(|error| failed(target, error))?;
        Ok(Self { writer, target: target.to_path_buf(), last: None })
    }

    /// Appends lists; users must ascend, in a tile and from tile to tile.
    ///
    /// # Errors
    /// [`Error::Internal`] for users out of order; [`Error::Io`] with the path.
    pub fn push(&mut self, lists: &[(&str, &[Scored])]) -> Result<()> {
        for (user, _) in lists {
            if self.last.as_deref().is_some_and(|last| last >= *user) {
                return Err(Error::Internal("lists are not in the order of their users".into()));
            }
            self.last = Some((*user).to_owned());
        }
        let lengths = || OffsetBuffer::from_lengths(lists.iter().map(|(_, list)| list.len()));
        let entries = || lists.iter().flat_map(|(_, list)| list.iter());
        let list = |values: ArrayRef| {
            let field = Arc::new(Field::new_list_field(values.data_type().clone(), false));
            ListArray::try_new(field, lengths(), values, None)
        };
        let items = list(Arc::new(UInt32Array::from_iter_values(entries().map(|entry| entry.item.0))));
        let scores = list(Arc::new(Float32Array::from_iter_values(entries().map(|entry| entry.score))));
        let users = StringArray::from_iter_values(lists.iter().map(|(user, _)| *user));
        let written = items.and_then(|items| Ok((items, scores?))).and_then(|(items, scores)| {
            RecordBatch::try_new(schema(), vec![Arc::new(users), Arc::new(items), Arc::new(scores)])
        });
        let batch = written.map_err(|error| failed(&self.target, error))?;
        self.writer.write(&batch).map_err(|error| failed(&self.target, error))
    }

    /// Syncs the file and moves it to its place.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; nothing is left behind then.
    pub fn finish(self) -> Result<()> {
        self.writer.into_inner().map_err(|error| failed(&self.target, error))?.commit()
    }
}

fn failed(target: &Path, error: impl std::fmt::Display) -> Error {
    Error::Io { path: target.to_path_buf(), source: std::io::Error::other(error.to_string()) }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    const BUNDLE: &str = "2026-11-25-ab12cd34";

    fn list(entries: &[(u32, f32)]) -> Vec<Scored> {
        entries.iter().map(|&(item, score)| Scored { item: ItemIdx(item), score }).collect()
    }

    fn write(path: &Path, bundle: &str, lists: &BTreeMap<String, Vec<Scored>>, tile: usize) {
        let mut writer = ListsWriter::create(path, bundle, 1_000).unwrap();
        let lists: Vec<(&str, &[Scored])> = lists.iter().map(|(user, list)| (user.as_str(), list.as_slice())).collect();
        lists.chunks(tile).for_each(|lists| writer.push(lists).unwrap());
        writer.finish().unwrap();
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(32))]

        /// Against a map, with ids of any characters.
        #[test]
        fn every_user_finds_their_list_and_nobody_else_any(
            lists in prop::collection::btree_map(".{0,6}", prop::collection::vec((0..1_000_u32, -9.0..9.0_f32), 0..5), 0..40),
            others in prop::collection::vec(".{0,6}", 0..20),
            tile in 1..50_usize,
        ) {
            let dir = tempfile::tempdir().unwrap();
            let path = dir.path().join("lists.parquet");
            let lists: BTreeMap<String, Vec<Scored>> =
                lists.into_iter().map(|(user, entries)| (user, list(&entries))).collect();
            write(&path, BUNDLE, &lists, tile);
            let read = Lists::read(&path).unwrap();
            for user in lists.keys().chain(&others) {
                prop_assert_eq!(read.get(user, BUNDLE), lists.get(user).cloned());
                prop_assert_eq!(read.get(user, "2026-11-25-ab12cd35"), None);
            }
        }
    }

    #[test]
    fn lists_that_no_bundle_can_have_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("lists.parquet");
        let refused = |entry: (u32, f32)| {
            write(&path, BUNDLE, &BTreeMap::from([("u1".to_owned(), list(&[(0, 0.0), entry]))]), 1);
            Lists::read(&path).unwrap_err().to_string()
        };
        assert!(refused((1_000, 0.0)).contains("row 1"));
        assert!(refused((0, f32::NAN)).contains("row 1"));
        let mut writer = ListsWriter::create(&path, BUNDLE, 1).unwrap();
        writer.push(&[("b", &[])]).unwrap();
        assert!(writer.push(&[("a", &[])]).unwrap_err().to_string().contains("order"));
        drop(writer);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }
}
