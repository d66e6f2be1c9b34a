//! Where everything comes from: the served-list logs, the events, the tables of the dataset.

use std::{
    borrow::Cow,
    collections::HashMap,
    path::{Path, PathBuf},
};

use arrow::array::AsArray;
use chrono::NaiveDate;
use duet_core::{
    Error, Result,
    artifact::MANIFEST,
    event::{Event, EventType, ItemKind},
    table::{ColumnValues, FeatureTable},
};
use duet_data::{
    accounts::UserKey,
    dataset::{Dataset, DatasetInfo, SONGS_DIR},
    raw::{Part, RawZone},
    store::Location,
};
use parquet::arrow::arrow_reader::ParquetRecordBatchReaderBuilder;

use super::{
    ledger::{Days, Ledger, ServedLine},
    lines::{Tally, files, read},
};
use crate::bundle;

/// The key of a served-list log whose server has no user key of its own.
const LOG_KEY: &str = ".key";
/// The column of songs with their milliseconds.
const LENGTH: &str = "duration_ms";

/// How the ids of events and of the dataset become those of the served-list log.
pub(super) enum Identity {
    /// As they are.
    Same,
    /// Events have the ids of the source system, the log and the dataset pseudonyms.
    Key(UserKey),
    /// Events and dataset have the same ids, the log pseudonyms under a key of its own.
    LogKey(UserKey),
}

impl Identity {
    /// By the user key, where one is given; else by the key that lies in the logs.
    ///
    /// # Errors
    /// [`Error::Input`] where logs have different keys; those of [`UserKey::from_file`].
    pub(super) fn find(key: Option<UserKey>, logs: &[PathBuf]) -> Result<Self> {
        if let Some(key) = key {
            return Ok(Self::Key(key));
        }
        let mut found: Option<(PathBuf, UserKey)> = None;
        for path in logs.iter().map(|log| log.join(LOG_KEY)).filter(|path| path.is_file()) {
            let key = UserKey::from_file(&path)?;
            match &found {
                Some((other, before)) if before.check() != key.check() => {
                    return Err(Error::input(format!(
                        "{} and {} are different keys: a user has another name in each log; give the servers one user key, or look at \
                         the logs one by one",
                        other.display(),
                        path.display()
                    )));
                }
                Some(_) => {}
                None => found = Some((path, key)),
            }
        }
        Ok(found.map_or(Self::Same, |(_, key)| Self::LogKey(key)))
    }

    /// The user of an event as the log has them.
    fn of_event<'a>(&self, id: &'a str) -> Cow<'a, str> {
        match self {
            Self::Same => Cow::Borrowed(id),
            Self::Key(key) | Self::LogKey(key) => Cow::Owned(key.pseudonym_bytes(id).to_string()),
        }
    }

    /// The rows of the log's users in a table.
    pub(super) fn rows(&self, users: &[String], table: &FeatureTable) -> Vec<Option<u32>> {
        match self {
            Self::Same | Self::Key(_) => users.iter().map(|user| table.ids.get(user)).collect(),
            Self::LogKey(key) => {
                let named = |(row, id): (usize, &String)| (key.pseudonym_bytes(id).to_string(), row as u32);
                let rows: HashMap<String, u32> = table.ids.ids().iter().enumerate().map(named).collect();
                users.iter().map(|user| rows.get(user).copied()).collect()
            }
        }
    }
}

/// What the dataset knows.
pub(super) struct Tables {
    pub(super) users: FeatureTable,
    /// Milliseconds of each song.
    pub(super) songs: HashMap<String, u64>,
}

/// Opens the tables of a dataset, or those that a bundle carries; songs come from the dataset that the bundle's run was trained on, where
/// that is still there.
///
/// # Errors
/// Those of [`Dataset::open`] and of reading a table.
pub(super) fn tables(dataset: Option<&Path>, bundle: Option<&Path>) -> Result<Option<Tables>> {
    let (users, dir, info) = match (dataset, bundle) {
        (Some(dir), _) => {
            let dataset = Dataset::open(dir)?;
            (dataset.users()?, dataset.dir, dataset.info)
        }
        (None, Some(dir)) => {
            let (dataset, run) = bundle::open_tables(dir)?;
            (dataset.users()?, run.dataset_dir, run.dataset)
        }
        (None, None) => return Ok(None),
    };
    Ok(Some(Tables { users, songs: song_lengths(&dir, &info)? }))
}

/// Milliseconds of each song that the dataset at `dir` knows: its items, or those of the dataset of songs inside it.
fn song_lengths(dir: &Path, info: &DatasetInfo) -> Result<HashMap<String, u64>> {
    let inner = dir.join(SONGS_DIR);
    let place: &Path = if info.schema.items.contains_key(LENGTH) { dir } else { &inner };
    if !place.join(MANIFEST).is_file() {
        return Ok(HashMap::new());
    }
    let songs = Dataset::open(place)?.items()?;
    let ColumnValues::Number(lengths) = &songs.column(LENGTH)?.values else { return Ok(HashMap::new()) };
    let known = songs.ids.ids().iter().zip(lengths).filter(|(_, length)| **length > 0.0);
    Ok(known.map(|(id, length)| (id.clone(), *length as u64)).collect())
}

/// Reads all served-list logs.
///
/// # Errors
/// [`Error::Io`]; [`Error::Input`] for a place with nothing.
pub(super) fn read_served(logs: &[PathBuf], ledger: &mut Ledger) -> Result<Tally> {
    let mut tally = Tally::default();
    for log in logs {
        for path in files(log)? {
            read(&path, "a served list", &mut tally, &mut |line: ServedLine| ledger.serve(line))?;
        }
    }
    Ok(tally)
}

/// Takes events in.
pub(super) struct EventReader<'a> {
    pub(super) identity: &'a Identity,
    pub(super) songs: &'a HashMap<String, u64>,
    pub(super) ledger: &'a mut Ledger,
    pub(super) tally: Tally,
}

impl EventReader<'_> {
    fn add(ledger: &mut Ledger, identity: &Identity, songs: &HashMap<String, u64>, event: &Event) {
        ledger.add(event, &identity.of_event(&event.user_id), share_heard(event, songs));
    }

    /// Reads a file or directory of JSON lines.
    ///
    /// # Errors
    /// [`Error::Io`]; [`Error::Input`] for a place with nothing.
    pub(super) fn read_place(&mut self, place: &Path) -> Result<()> {
        if duet_data::raw::is_zone(place) {
            return Err(Error::input(format!("{} is a raw zone: give it as --raw", place.display())));
        }
        let Self { identity, songs, ledger, tally } = self;
        for path in files(place)? {
            let mut take = |event: Event| {
                Self::add(ledger, identity, songs, &event);
                Ok(())
            };
            read(&path, "an event", tally, &mut take)?;
        }
        Ok(())
    }

    /// Reads the parts of a raw zone that hold events of the days, or of unknown days.
    ///
    /// # Errors
    /// Those of [`RawZone::open`] and [`RawZone::read_part`].
    pub(super) fn read_zone(&mut self, place: &str, days: Days) -> Result<()> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(|error| Error::Internal(format!("no runtime: {error}")))?;
        let zone = runtime.block_on(RawZone::open(Location::parse(place)?))?;
        let is_wanted = |part: &&Part| {
            let day = part.date.map(|date: NaiveDate| date.to_epoch_days());
            day.is_none_or(|day| (days.from..=days.to).contains(&day))
        };
        for part in zone.parts().iter().filter(is_wanted) {
            let bytes = runtime.block_on(zone.read_part(part))?;
            let name = zone.location().name(&part.path);
            let bad = |why: String| Error::data(&name, why);
            let reader = ParquetRecordBatchReaderBuilder::try_new(bytes).and_then(|builder| builder.build());
            let reader = reader.map_err(|error| bad(error.to_string()))?;
            self.tally.files += 1;
            let (shown, mut number) = (name.display().to_string(), 0);
            let Self { identity, songs, ledger, tally } = self;
            let mut take = |event: Event| {
                Self::add(ledger, identity, songs, &event);
                Ok(())
            };
            for batch in reader {
                let batch = batch.map_err(|error| bad(error.to_string()))?;
                let payloads = batch.column_by_name("payload").and_then(|column| column.as_binary_opt::<i32>());
                let payloads = payloads.ok_or_else(|| bad("expected a column payload of bytes".to_owned()))?;
                for payload in payloads.iter().flatten() {
                    number += 1;
                    tally.take((&shown, number), payload, "an event", &mut take);
                }
            }
        }
        Ok(())
    }
}

/// The part of a song that was heard, where it can be told.
fn share_heard(event: &Event, songs: &HashMap<String, u64>) -> Option<f32> {
    let is_play = matches!(event.event_type, EventType::Listen | EventType::Skip);
    if !is_play || event.item_kind != ItemKind::Song {
        return None;
    }
    let (played, length) = (event.ms_played?, *songs.get(&event.item_id)?);
    Some((played as f64 / length as f64).min(1.0) as f32)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::monitor::ledger::tests::event;

    #[test]
    fn the_share_heard_needs_a_song_of_known_length() {
        let songs = HashMap::from([("s".to_owned(), 200_000)]);
        let mut listen = event("listen", None, None, "u", 2);
        (listen.item_kind, listen.item_id, listen.ms_played) = (ItemKind::Song, "s".to_owned(), Some(50_000));
        assert_eq!(share_heard(&listen, &songs), Some(0.25));
        listen.ms_played = Some(900_000);
        assert_eq!(share_heard(&listen, &songs), Some(1.0));
        assert_eq!(share_heard(&Event { ms_played: None, ..listen.clone() }, &songs), None);
        assert_eq!(share_heard(&Event { item_id: "t".into(), ..listen.clone() }, &songs), None);
        assert_eq!(share_heard(&Event { event_type: EventType::Click, ..listen }, &songs), None);
    }

    #[test]
    fn keys_of_logs_name_users() {
        let (one, two) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let logs = [one.path().to_path_buf(), two.path().to_path_buf()];
        assert_eq!(Identity::find(None, &logs).unwrap().of_event("u"), "u");
        std::fs::write(one.path().join(LOG_KEY), "0123456789abcdef").unwrap();
        let identity = Identity::find(None, &logs).unwrap();
        let name = identity.of_event("u").into_owned();
        assert!(name.len() == 32 && matches!(identity, Identity::LogKey(_)));
        let table = FeatureTable::from_ids(duet_core::ids::IdMap::new(vec!["t".into(), "u".into()]).unwrap());
        assert_eq!(identity.rows(&[name.clone(), "u".into()], &table), [Some(1), None]);
        std::fs::write(two.path().join(LOG_KEY), "another key of 16").unwrap();
        assert!(Identity::find(None, &logs).is_err_and(|error| error.to_string().contains("different keys")));
        let key = UserKey::new(b"0123456789abcdef").unwrap();
        let given = Identity::find(Some(key), &logs).unwrap();
        assert_eq!(given.of_event("u"), name.as_str());
        assert_eq!(given.rows(&["u".into()], &table), [Some(1)], "with a user key the dataset has pseudonyms itself");
    }
}
