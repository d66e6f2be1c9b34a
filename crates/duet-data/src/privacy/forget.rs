//! Taking a user out of a dataset, whole: every row that is theirs, every index behind theirs, every count.
//!
//! Files are told by their columns, so that tables added later are covered:
//!
//! | a column | what happens |
//! | --- | --- |
//! | `user` (UInt32) | rows of the user's index go, higher indices move down by one |
//! | `user_id` (Utf8), `user` (16 bytes) | rows of the user's id or pseudonym go |
//! | `users.parquet`, `oracle_users.parquet` | the user's row goes |
//!
//! The dataset of songs inside a prepared one is made anew with it.
//!
//! The pseudonym is added to `forgotten.json`, so that a later `prepare` leaves the user out, too. Aggregates over all users
//! (an artist's plays, followers) keep what the user added to them; they are computed anew by the next `prepare`.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    sync::Arc,
};

use arrow::{
    array::{Array, ArrayRef, AsArray, BooleanArray, RecordBatch, UInt32Array},
    compute::filter_record_batch,
    datatypes::{DataType, UInt32Type},
};
use duet_core::{
    Error, Result,
    artifact::{DirWriter, IfExists, MANIFEST, Manifest, link_file},
};
use fs_err as fs;

use super::list::{FORGOTTEN_FILE, ForgottenList};
use crate::{
    accounts::{Pseudonym, UserKey},
    dataset::{
        Dataset, DatasetInfo, DatasetKind, DatasetParts, MAGIC, ORACLE_USERS_FILE, SONGS_DIR, TEST_FILE, TIMELINE_FILE,
        USERS_FILE, VERSION,
        parquet_file::{Reader, Writer},
        seal_songs, split_hash,
    },
};

/// Whom to forget, and where.
#[derive(Clone)]
pub struct ForgetOptions<'a> {
    /// The dataset; replaced by one without the user.
    pub dataset: PathBuf,
    /// The user's id as the source has it.
    pub user_id: &'a str,
    /// The key the dataset was prepared with; imported datasets hold ids as they are and have none.
    pub user_key: Option<&'a UserKey>,
    /// Directories to search for runs and bundles made from the dataset.
    pub runs: Vec<PathBuf>,
}

/// What was taken out, and what still knows the user.
#[derive(Debug, Clone)]
pub struct Forgotten {
    /// What stood for the user: a pseudonym, or the id itself in an imported dataset.
    pub user: String,
    /// Rows removed by file; files without any are left out.
    pub removed: BTreeMap<String, u64>,
    /// The dataset as it is now.
    pub info: DatasetInfo,
    /// What was made from the dataset before.
    pub stale: Vec<Stale>,
}

/// Something made from the dataset while the user was in it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Stale {
    /// Where it lies.
    pub path: PathBuf,
    /// `duet-run`, `duet-bundle`, or another kind of artifact.
    pub kind: String,
}

/// Who is looked for.
struct User {
    /// Their row of `users.parquet`, if they have one.
    row: Option<u32>,
    id: String,
    pseudonym: Option<Pseudonym>,
}

/// Removes a user from a dataset. The old dataset stays until the new one is complete.
///
/// # Errors
/// [`Error::Input`] if nothing in the dataset is the user's, if the key is missing, or if another process writes the dataset;
/// [`Error::Data`] if the dataset is damaged. The dataset is as it was then.
pub fn forget(options: &ForgetOptions<'_>) -> Result<Forgotten> {
    let dir = &options.dataset;
    // Before the writer, which would make the place for a new one.
    Manifest::<DatasetInfo>::open_unchecked(dir, MAGIC, VERSION)?;
    let writer = DirWriter::create(dir, IfExists::Replace)?;
    let dataset = Dataset::open(dir)?;
    let pseudonym = match (dataset.info.kind, options.user_key) {
        (DatasetKind::Events, None) => {
            return Err(Error::input("this dataset holds pseudonyms: give the user key it was prepared with"));
        }
        (DatasetKind::Events, Some(key)) => Some(key.pseudonym_bytes(options.user_id)),
        (DatasetKind::Sequences | DatasetKind::Sets, _) => None,
    };
    let id = pseudonym.map_or_else(|| options.user_id.to_owned(), |pseudonym| pseudonym.to_string());
    let row = dataset.users()?.ids.get(&id);
    let user = User { row, id, pseudonym };

    let files = Manifest::<DatasetInfo>::open_unchecked(dir, MAGIC, VERSION)?.files;
    let made_anew = [FORGOTTEN_FILE.to_owned(), format!("{SONGS_DIR}/{MANIFEST}")];
    let mut removed = BTreeMap::new();
    for name in files.keys().filter(|name| !made_anew.contains(name)) {
        let (from, to) = (dir.join(name), writer.path(name));
        if let Some(parent) = to.parent() {
            fs::create_dir_all(parent).map_err(Error::io(parent))?;
        }
        let rows = match name.ends_with(".parquet") {
            true => user.remove_from(name, &from, &to)?,
            false => link_file(&from, &to).map(|()| 0)?,
        };
        if rows > 0 {
            removed.insert(name.clone(), rows);
        }
    }
    let mut forgotten = ForgottenList::read(dir)?;
    if removed.is_empty() {
        let known = match forgotten.pseudonyms.contains(&user.id) {
            true => "was forgotten before",
            false => "is not in the dataset; the id, or the user key, is another",
        };
        return Err(Error::input(format!("{}: the user {known}", dir.display())));
    }
    if user.pseudonym.is_some() {
        forgotten.pseudonyms.insert(user.id.clone());
    }
    forgotten.write(writer.dir())?;

    let songs = dataset.songs()?;
    if let Some(songs) = &songs {
        let place = writer.path(SONGS_DIR);
        seal_songs(&place, &recount(songs, &place, &format!("{SONGS_DIR}/"), &removed)?)?;
    }
    let info = recount(&dataset, writer.dir(), "", &removed)?;
    let datasets: Vec<&Dataset> = std::iter::once(&dataset).chain(&songs).collect();
    let stale = find_stale(&options.runs, &datasets, &user)?;
    writer.publish(MAGIC, VERSION, &info)?;
    Ok(Forgotten { user: user.id, removed, info, stale })
}

/// What a column says about whose a row is.
#[derive(Clone, Copy)]
enum Owner {
    /// The row number is the user's index.
    RowNumber,
    /// A column of indices.
    Index(usize),
    /// A column of ids.
    Id(usize),
    /// A column of pseudonyms.
    Pseudonym(usize),
}

/// How the rows of a file say whose they are; nothing if they belong to nobody.
fn owner(path: &str, fields: &[(String, DataType)]) -> Option<Owner> {
    let name = path.rsplit('/').next().unwrap_or(path);
    if [USERS_FILE, ORACLE_USERS_FILE].contains(&name) {
        return Some(Owner::RowNumber);
    }
    fields.iter().enumerate().find_map(|(column, (name, kind))| match (name.as_str(), kind) {
        ("user", DataType::UInt32) => Some(Owner::Index(column)),
        ("user", DataType::FixedSizeBinary(16)) => Some(Owner::Pseudonym(column)),
        ("user_id", DataType::Utf8) => Some(Owner::Id(column)),
        _ => None,
    })
}

impl User {
    /// Writes a file without the user's rows, and says how many there were.
    fn remove_from(&self, name: &str, from: &Path, to: &Path) -> Result<u64> {
        let reader = Reader::open(from)?;
        let Some(owner) = owner(name, &reader.fields()) else { return link_file(from, to).map(|()| 0) };
        let unchanged = match owner {
            Owner::RowNumber | Owner::Index(_) => self.row.is_none(),
            // Most files of days hold nothing of the user and stay as they are.
            Owner::Id(column) | Owner::Pseudonym(column) => {
                let mut rows = Reader::open(from)?.batches(Some(&[column]))?;
                let owner = match owner {
                    Owner::Id(_) => Owner::Id(0),
                    _ => Owner::Pseudonym(0),
                };
                !rows.try_fold(false, |any, batch| Ok::<_, Error>(any || self.keep(owner, &batch?, 0).has_false()))?
            }
        };
        if unchanged {
            return link_file(from, to).map(|()| 0);
        }
        let schema = reader.schema();
        let mut writer =
            Writer::create(to.to_path_buf(), schema.fields().iter().map(|field| (**field).clone()).collect())?;
        let (mut first_row, mut removed) = (0, 0);
        for batch in reader.batches(None)? {
            let batch = batch?;
            let keep = self.keep(owner, &batch, first_row);
            first_row += batch.num_rows();
            removed += keep.false_count() as u64;
            let mut kept = filter_record_batch(&batch, &keep)
                .map_err(|error| Error::Internal(format!("{}: {error}", from.display())))?;
            if let Owner::Index(column) = owner {
                kept = self.move_down(kept, column)?;
            }
            writer.write(kept.columns().to_vec())?;
        }
        writer.finish()?;
        Ok(removed)
    }

    /// Which rows of a batch stay.
    fn keep(&self, owner: Owner, batch: &RecordBatch, first_row: usize) -> BooleanArray {
        let rows = 0..batch.num_rows();
        let keep: Vec<bool> = match owner {
            Owner::RowNumber => rows.map(|row| self.row != Some((first_row + row) as u32)).collect(),
            Owner::Index(column) => {
                let users = batch.column(column).as_primitive::<UInt32Type>();
                rows.map(|row| users.is_null(row) || Some(users.value(row)) != self.row).collect()
            }
            Owner::Id(column) => {
                let ids = batch.column(column).as_string::<i32>();
                rows.map(|row| ids.is_null(row) || ids.value(row) != self.id).collect()
            }
            Owner::Pseudonym(column) => {
                let users = batch.column(column).as_fixed_size_binary();
                let wanted = self.pseudonym.as_ref().map(|pseudonym| &pseudonym.0[..]);
                rows.map(|row| users.is_null(row) || Some(users.value(row)) != wanted).collect()
            }
        };
        BooleanArray::from(keep)
    }

    /// Indices above the removed row move down by one.
    fn move_down(&self, batch: RecordBatch, column: usize) -> Result<RecordBatch> {
        let users = batch.column(column).as_primitive::<UInt32Type>();
        let moved: UInt32Array = users
            .iter()
            .map(|user| user.map(|user| user - u32::from(self.row.is_some_and(|removed| user > removed))))
            .collect();
        let mut columns: Vec<ArrayRef> = batch.columns().to_vec();
        columns[column] = Arc::new(moved);
        RecordBatch::try_new(batch.schema(), columns).map_err(|error| Error::Internal(format!("indices: {error}")))
    }
}

/// The manifest's body for the new files in `dir`, which `removed` knows with `prefix` before their names; reading them is also the
/// check that they fit together.
fn recount(old: &Dataset, dir: &Path, prefix: &str, removed: &BTreeMap<String, u64>) -> Result<DatasetInfo> {
    let gone = |name: &str| removed.get(&format!("{prefix}{name}")).copied().unwrap_or(0);
    let mut info = old.info.clone();
    info.counts.users -= gone(USERS_FILE);
    info.counts.events -= gone(TIMELINE_FILE);
    info.counts.test_events -= gone(TEST_FILE);
    info.counts.test_users -= u64::from(gone(TEST_FILE) > 0);
    let new = Dataset { dir: dir.to_path_buf(), info: info.clone(), fingerprint: String::new() };
    new.history()?;
    let parts = DatasetParts {
        users: new.users()?,
        items: new.items()?,
        timeline: new.timeline()?,
        test: new.test()?,
        oracle: new.oracle()?,
        info: new.info,
    };
    info.split.hash = split_hash(&parts);
    Ok(info)
}

/// The records of an artifact, and the key of its dataset's fingerprint.
const RECORDS: [&str; 2] = [MANIFEST, "run.json"];

/// Runs, bundles and evaluations below the directories that were made from one of the datasets.
fn find_stale(runs: &[PathBuf], datasets: &[&Dataset], user: &User) -> Result<Vec<Stale>> {
    let mut stale = BTreeSet::new();
    let datasets: Vec<Source<'_>> = datasets
        .iter()
        .map(|dataset| {
            let place = std::path::absolute(&dataset.dir).map_err(Error::io(&dataset.dir))?;
            Ok(Source { place, fingerprint: &dataset.fingerprint })
        })
        .collect::<Result<_>>()?;
    for directory in runs {
        search(directory, &mut |directory| {
            for record in RECORDS {
                if let Some(kind) = made_from(directory, &directory.join(record), &datasets, user)? {
                    stale.insert(Stale { path: directory.to_path_buf(), kind });
                }
            }
            Ok(())
        })?;
    }
    Ok(stale.into_iter().collect())
}

/// A dataset as the records of what was made from it have it.
struct Source<'a> {
    place: PathBuf,
    fingerprint: &'a str,
}

fn search(directory: &Path, each: &mut dyn FnMut(&Path) -> Result<()>) -> Result<()> {
    each(directory)?;
    for entry in fs::read_dir(directory).map_err(Error::io(directory))? {
        let entry = entry.map_err(Error::io(directory))?;
        if entry.file_type().map_err(Error::io(directory))?.is_dir() {
            search(&entry.path(), each)?;
        }
    }
    Ok(())
}

/// The kind of an artifact, if it was made from one of the datasets: this state of it, or an earlier one at the same place, or
/// one that holds the user's vector.
fn made_from(directory: &Path, record: &Path, datasets: &[Source<'_>], user: &User) -> Result<Option<String>> {
    if !record.is_file() {
        return Ok(None);
    }
    let text = fs::read_to_string(record).map_err(Error::io(record))?;
    let Ok(manifest) = serde_json::from_str::<Manifest<serde_json::Value>>(&text) else { return Ok(None) };
    let field = |name: &str| manifest.body.get(name).and_then(serde_json::Value::as_str);
    let same_state =
        field("dataset_fingerprint").is_some_and(|found| datasets.iter().any(|one| one.fingerprint == found));
    let same_place = field("dataset_dir").is_some_and(|dir| {
        let dir = Path::new(dir);
        std::path::absolute(dir).is_ok_and(|dir| datasets.iter().any(|one| one.place == dir))
    });
    let users = directory.join(USERS_FILE);
    let holds_user =
        manifest.magic != MAGIC && manifest.files.contains_key(USERS_FILE) && users.is_file() && has_id(&users, user)?;
    Ok((same_state || same_place || holds_user).then_some(manifest.magic))
}

/// Whether a table has a row of the user.
fn has_id(path: &Path, user: &User) -> Result<bool> {
    let reader = Reader::open(path)?;
    let column = reader.fields().iter().position(|(name, kind)| name == "id" && kind == &DataType::Utf8);
    let Some(column) = column else { return Ok(false) };
    for batch in reader.batches(Some(&[column]))? {
        if user.keep(Owner::Id(0), &batch?, 0).has_false() {
            return Ok(true);
        }
    }
    Ok(false)
}
