//! A zone opened for reading, or for writing by one writer.

use std::{
    collections::{BTreeMap, HashSet},
    future::ready,
    hash::{BuildHasher, RandomState},
    time::Duration,
};

use bytes::Bytes;
use chrono::{DateTime, NaiveDate};
use duet_core::{Error, Result};
use futures::{StreamExt, TryStreamExt, stream};

use super::{
    Part, Ranges,
    encode::EncodedPart,
    log::{self, Entry, File, SourceState},
    part::UNKNOWN,
};
use crate::store::{Location, Mode, Put};

/// Objects written, read or removed at once.
const CONCURRENT: usize = 8;

/// Which events share a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Granularity {
    /// Those of a UTC hour: for zones that stay.
    #[default]
    Hour,
    /// Those of a UTC day: for staging.
    Day,
}

/// How the bytes of a part are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Compression {
    /// zstd, level 1: JSON events shrink to about a tenth.
    #[default]
    Zstd,
    /// As they are: for staging.
    None,
}

/// How a zone is written. Readers need none of it, and it may change between writers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct ZoneOptions {
    /// Which events share a part.
    pub granularity: Granularity,
    /// How the bytes of a part are kept.
    pub compression: Compression,
    /// Whether a committed batch must outlive a power failure. Not needed for a temporary zone.
    pub durable: bool,
}

impl Default for ZoneOptions {
    fn default() -> Self {
        Self { granularity: Granularity::default(), compression: Compression::default(), durable: true }
    }
}

/// A raw zone as its log says it was when it was opened, and with what this writer has committed since.
#[derive(Debug)]
pub struct RawZone {
    location: Location,
    options: ZoneOptions,
    parts: Vec<Part>,
    sources: BTreeMap<String, SourceState>,
    /// Number of the next entry.
    next: u64,
    /// Random; parts and entries bear it, so that two writers never write the same object.
    writer: String,
    /// Whether what a killed writer left has been looked for.
    tidy: bool,
}

impl RawZone {
    /// Opens a zone by reading its log.
    ///
    /// # Errors
    /// [`Error::Data`] if there is none at the place, or an entry of its log is damaged or missing.
    pub async fn open(location: Location) -> Result<Self> {
        match Self::read(&location, ZoneOptions::default()).await? {
            Some(zone) => Ok(zone),
            None => Err(Error::data(location.to_string(), format!("not a raw zone: it holds no {}", log::DIRECTORY))),
        }
    }

    /// Opens a zone, or makes an empty one.
    ///
    /// # Errors
    /// As [`RawZone::open`]; [`Error::Input`] if another process makes the zone at the same time.
    pub async fn create_or_open(location: Location, options: ZoneOptions) -> Result<Self> {
        if let Some(zone) = Self::read(&location, options).await? {
            return Ok(zone);
        }
        location.create_directory()?;
        let mut zone = Self::empty(location, options);
        zone.append(BTreeMap::new(), Vec::new()).await?;
        Ok(zone)
    }

    fn empty(location: Location, options: ZoneOptions) -> Self {
        let writer = format!("{:08x}", RandomState::new().hash_one(std::process::id()) as u32);
        Self { location, options, parts: Vec::new(), sources: BTreeMap::new(), next: 0, writer, tidy: false }
    }

    async fn read(location: &Location, options: ZoneOptions) -> Result<Option<Self>> {
        let (mut entries, mut checkpoint) = (Vec::new(), None);
        for (name, _) in location.list(log::DIRECTORY).await? {
            match log::parse_name(&name) {
                Some(File::Entry(batch)) => entries.push(batch),
                Some(File::Checkpoint(batch)) => checkpoint = checkpoint.max(Some(batch)),
                None => {}
            }
        }
        entries.sort_unstable();
        let mut zone = Self::empty(location.clone(), options);
        if let Some(batch) = checkpoint {
            let name = log::checkpoint_name(batch);
            zone.add(Entry::read(&location.name(&name), &zone.fetch(&name).await?, batch)?);
        }
        let first = zone.next;
        let after: Vec<u64> = entries.into_iter().filter(|batch| *batch >= first).collect();
        if after.is_empty() && first == 0 {
            return Ok(None);
        }
        for (expected, found) in (first..).zip(&after) {
            if expected != *found {
                let name = location.name(&log::entry_name(expected));
                return Err(Error::data(name, format!("missing, though entry {found} of the log is there")));
            }
        }
        let reads: Vec<_> = after.into_iter().map(|batch| zone.entry(batch)).collect();
        let read: Vec<Entry> = stream::iter(reads).buffered(CONCURRENT).try_collect().await?;
        read.into_iter().for_each(|entry| zone.add(entry));
        Ok(Some(zone))
    }

    /// Takes over what an entry says.
    fn add(&mut self, entry: Entry) {
        for (name, state) in entry.sources {
            let known = self.sources.entry(name).or_default();
            known.identity = state.identity.or(known.identity.take());
            known.ranges.extend(&state.ranges);
        }
        self.parts.extend(entry.parts);
        self.next = entry.batch + 1;
    }

    /// The committed parts, in the order in which they were committed.
    pub fn parts(&self) -> &[Part] {
        &self.parts
    }

    /// Where the zone lies.
    pub fn location(&self) -> &Location {
        &self.location
    }

    /// How this writer writes.
    pub fn options(&self) -> ZoneOptions {
        self.options
    }

    /// The sources with their committed sequences. Sequences between those of two events that can't belong to an event
    /// (of another subject, or deleted) may be among them.
    pub fn committed(&self) -> impl Iterator<Item = (&str, &Ranges)> {
        self.sources.iter().map(|(name, state)| (name.as_str(), &state.ranges))
    }

    pub(crate) fn source(&self, name: &str) -> Option<&SourceState> {
        self.sources.get(name)
    }

    /// Reads the bytes of a part and checks them.
    ///
    /// # Errors
    /// [`Error::Data`] naming a part that is missing, truncated or damaged.
    pub async fn read_part(&self, part: &Part) -> Result<Bytes> {
        let bytes = self.fetch(&part.path).await?;
        let name = self.location.name(&part.path);
        if bytes.len() as u64 != part.bytes {
            let found = bytes.len();
            return Err(Error::data(name, format!("{found} bytes long, the zone's log says {}", part.bytes)));
        }
        let found = format!("{:08x}", crc32fast::hash(&bytes));
        if found != part.crc32 {
            return Err(Error::data(name, format!("damaged: CRC-32 {found} where the zone's log says {}", part.crc32)));
        }
        Ok(bytes)
    }

    /// Checks that every part is there with its size; the content is not read.
    ///
    /// # Errors
    /// [`Error::Data`] naming the first part that is missing or has another size.
    pub async fn verify(&self) -> Result<()> {
        let found: BTreeMap<String, u64> = self.location.list("").await?.into_iter().collect();
        for part in &self.parts {
            let name = || self.location.name(&part.path);
            match found.get(&part.path) {
                None => return Err(Error::data(name(), "missing, though the zone's log lists it")),
                Some(bytes) if *bytes != part.bytes => {
                    return Err(Error::data(name(), format!("{bytes} bytes long, the zone's log says {}", part.bytes)));
                }
                Some(_) => {}
            }
        }
        Ok(())
    }

    async fn entry(&self, batch: u64) -> Result<Entry> {
        let name = log::entry_name(batch);
        Entry::read(&self.location.name(&name), &self.fetch(&name).await?, batch)
    }

    async fn fetch(&self, name: &str) -> Result<Bytes> {
        let found = self.location.get(name).await?;
        found.ok_or_else(|| Error::data(self.location.name(name), "missing, though the zone's log lists it"))
    }

    /// Removes the parts that a killed writer left without an entry; gives their number. The first call does the work.
    ///
    /// A writer that is still alive may be about to commit such parts, so an empty entry is put into the log first: that
    /// writer's own entry then fails, and it never commits what is removed here.
    ///
    /// # Errors
    /// [`Error::Input`] if another writer commits at the same time; [`Error::Io`].
    pub async fn remove_orphans(&mut self) -> Result<usize> {
        if self.tidy {
            return Ok(0);
        }
        let listed: HashSet<&str> = self.parts.iter().map(|part| part.path.as_str()).collect();
        let objects = self.location.list("").await?;
        let orphans: Vec<(String, Option<u64>)> = objects
            .into_iter()
            .filter(|(name, _)| !listed.contains(name.as_str()))
            .filter_map(|(name, _)| written_by(&name).map(|batch| (name, batch)))
            .collect();
        if !orphans.is_empty() {
            let fence = self.next;
            self.append(BTreeMap::new(), Vec::new()).await?;
            tracing::info!(zone = %self.location, orphans = orphans.len(), "removing what an interrupted run left");
            let location = &self.location;
            // A part of a later batch belongs to a writer that came after the fence.
            let ours = orphans.iter().filter(|(_, batch)| batch.is_none_or(|batch| batch <= fence));
            let deletions: Vec<_> = ours.map(|(name, _)| location.delete(name)).collect();
            stream::iter(deletions).buffer_unordered(CONCURRENT).try_for_each(|()| ready(Ok(()))).await?;
        }
        self.tidy = true;
        Ok(orphans.len())
    }

    /// Writes the parts of a batch and commits them; gives the new parts. Either the entry is in the log afterwards, or the
    /// parts are gone again (unless the store itself is gone; the next writer removes them then).
    pub(crate) async fn commit(
        &mut self,
        encoded: Vec<EncodedPart>,
        sources: BTreeMap<String, SourceState>,
    ) -> Result<&[Part]> {
        let parts: Vec<(Part, Bytes)> = encoded
            .into_iter()
            .enumerate()
            .map(|(number, encoded)| {
                let (date, hour) = self.period(encoded.period);
                let directory = match (date, hour) {
                    (None, _) => format!("date={UNKNOWN}"),
                    (Some(date), None) => format!("date={date}"),
                    (Some(date), Some(hour)) => format!("date={date}/hour={hour:02}"),
                };
                let part = Part {
                    path: format!("{directory}/{:020}-{}-{number:02}.parquet", self.next, self.writer),
                    date,
                    hour,
                    rows: encoded.rows,
                    bytes: encoded.bytes.len() as u64,
                    payload_bytes: encoded.payload_bytes,
                    crc32: encoded.crc32,
                };
                (part, encoded.bytes)
            })
            .collect();
        let (location, durable) = (&self.location, self.options.durable);
        // Of an object that is there already an earlier try got through and its answer was lost: only this writer uses its
        // names.
        let puts: Vec<_> =
            parts.iter().map(|(part, bytes)| location.put(&part.path, bytes.clone(), Mode::Create, durable)).collect();
        let written = stream::iter(puts).buffer_unordered(CONCURRENT).try_for_each(|_| ready(Ok(()))).await;
        let parts: Vec<Part> = parts.into_iter().map(|(part, _)| part).collect();
        let paths: Vec<String> = parts.iter().map(|part| part.path.clone()).collect();
        let before = self.parts.len();
        let committed = match written {
            Ok(()) => self.append(sources, parts).await,
            Err(error) => {
                self.withdraw(&paths).await;
                return Err(error);
            }
        };
        match committed {
            Ok(()) => Ok(&self.parts[before..]),
            // Another writer's entry: ours is not there and never will be.
            Err(error @ Error::Input(_)) => {
                self.withdraw(&paths).await;
                Err(error)
            }
            // The entry may have reached the store though no answer came. The next writer will see.
            Err(error) => Err(error),
        }
    }

    /// Removes parts that will not be committed, as far as it goes: the next writer removes the rest.
    async fn withdraw(&self, paths: &[String]) {
        let location = self.location.clone().with_patience(Duration::ZERO);
        for path in paths {
            if location.delete(path).await.is_err() {
                break;
            }
        }
    }

    fn period(&self, period: Option<i32>) -> (Option<NaiveDate>, Option<u8>) {
        let Some(period) = period.map(i64::from) else { return (None, None) };
        let (day, hour) = match self.options.granularity {
            Granularity::Hour => (period.div_euclid(24), Some(period.rem_euclid(24) as u8)),
            Granularity::Day => (period, None),
        };
        (DateTime::from_timestamp(day * 86_400, 0).map(|at| at.date_naive()), hour)
    }

    /// Puts the next entry into the log, and a checkpoint where one is due.
    async fn append(&mut self, sources: BTreeMap<String, SourceState>, parts: Vec<Part>) -> Result<()> {
        let entry = Entry::new(self.next, &self.writer, sources, parts);
        let name = log::entry_name(entry.batch);
        let put = self.location.put(&name, entry.render()?.into(), Mode::Create, self.options.durable).await?;
        if put == Put::Taken {
            let found = self.entry(entry.batch).await?;
            // Our own: an earlier try got through, and its answer was lost.
            if found.writer != self.writer {
                return Err(Error::input(format!(
                    "{}: another process writes to this zone (batch {} is its own); nothing is lost, but only one may write: \
                     stop the other, then run again",
                    self.location, entry.batch
                )));
            }
        }
        self.add(entry);
        let last = self.next - 1;
        if last > 0 && last.is_multiple_of(log::CHECKPOINT_EVERY) {
            let all = Entry::new(last, &self.writer, self.sources.clone(), self.parts.clone());
            let name = log::checkpoint_name(last);
            // Only a short cut: the entries stay.
            if let Err(error) =
                self.location.put(&name, all.render()?.into(), Mode::Replace, self.options.durable).await
            {
                tracing::warn!(%error, "no checkpoint of the log");
            }
        }
        Ok(())
    }
}

/// The batch of a part, or of what became of it, by its name; nothing for files that no writer of zones made.
fn written_by(name: &str) -> Option<Option<u64>> {
    let (directory, file) = name.rsplit_once('/')?;
    if file.starts_with('.') && file.ends_with(crate::store::PARTIAL) {
        return (directory == log::DIRECTORY || directory.starts_with("date=")).then_some(None);
    }
    let batch = file.get(..20).filter(|digits| digits.bytes().all(|byte| byte.is_ascii_digit()))?;
    let ours = directory.starts_with("date=") && file.as_bytes().get(20) == Some(&b'-') && file.ends_with(".parquet");
    ours.then(|| batch.parse().ok())
}
