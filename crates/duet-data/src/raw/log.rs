//! The log of the zone: numbered entries, each created once; what they add up to is what the zone holds.

use std::{collections::BTreeMap, path::Path, sync::Arc};

use duet_core::{Error, Result};
use serde::{Deserialize, Serialize};

use super::{Part, Ranges};

/// The directory of the log.
pub(super) const DIRECTORY: &str = "_log";
/// A checkpoint is written after so many entries.
pub(super) const CHECKPOINT_EVERY: u64 = 256;

const MAGIC: &str = "duet-raw-zone";
const VERSION: u32 = 1;
const NO_CRC: &str = "00000000";

/// What is known about a source.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SourceState {
    /// What the source must still be when it is read again: a stream made anew starts its sequences anew.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) identity: Option<Arc<str>>,
    /// Committed sequences.
    pub(crate) ranges: Ranges,
}

/// An entry, or, as a checkpoint, all entries up to one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(super) struct Entry {
    magic: String,
    version: u32,
    /// Number of the entry; 0 is the creation of the zone.
    pub(super) batch: u64,
    /// Who wrote it: a random number for each opened zone.
    pub(super) writer: String,
    /// When (RFC 3339), by the writer's clock.
    written: String,
    pub(super) sources: BTreeMap<String, SourceState>,
    pub(super) parts: Vec<Part>,
    /// CRC-32 of the text with these eight digits zeroed. The last field on purpose.
    crc32: String,
}

impl Entry {
    pub(super) fn new(batch: u64, writer: &str, sources: BTreeMap<String, SourceState>, parts: Vec<Part>) -> Self {
        Self {
            magic: MAGIC.to_owned(),
            version: VERSION,
            batch,
            writer: writer.to_owned(),
            written: chrono::Utc::now().to_rfc3339_opts(chrono::SecondsFormat::Millis, true),
            sources,
            parts,
            crc32: NO_CRC.to_owned(),
        }
    }

    pub(super) fn render(&self) -> Result<Vec<u8>> {
        let failed = |what: String| Error::Internal(format!("log entry {}: {what}", self.batch));
        let mut text = serde_json::to_string(self).map_err(|error| failed(error.to_string()))?;
        let at = text.rfind(NO_CRC).ok_or_else(|| failed("no place for its crc32".to_owned()))?;
        let crc32 = format!("{:08x}", crc32fast::hash(text.as_bytes()));
        text.replace_range(at..at + NO_CRC.len(), &crc32);
        Ok(text.into_bytes())
    }

    /// Reads and checks an entry; `name` is for messages.
    pub(super) fn read(name: &Path, bytes: &[u8], batch: u64) -> Result<Self> {
        let damaged = |what: &str| {
            Error::data(name, format!("damaged: {what}; put the file back from a copy, or start another zone"))
        };
        let text = std::str::from_utf8(bytes).map_err(|_| damaged("not UTF-8"))?;
        let entry: Self = serde_json::from_str(text).map_err(|error| damaged(&error.to_string()))?;
        if entry.magic != MAGIC {
            return Err(Error::data(name, format!("this is a {}, not a {MAGIC}", entry.magic)));
        }
        if entry.version != VERSION {
            let found = entry.version;
            return Err(Error::data(name, format!("{MAGIC} version {found}; this build reads version {VERSION}")));
        }
        let at = text.rfind(&entry.crc32).filter(|_| entry.crc32.len() == NO_CRC.len());
        let at = at.ok_or_else(|| damaged("its crc32 field is not where it must be"))?;
        let zeroed = [&text[..at], NO_CRC, &text[at + NO_CRC.len()..]].concat();
        let found = format!("{:08x}", crc32fast::hash(zeroed.as_bytes()));
        if found != entry.crc32 {
            return Err(damaged(&format!("CRC-32 {found} where it says {}", entry.crc32)));
        }
        if entry.batch != batch {
            return Err(damaged(&format!("it is entry {}", entry.batch)));
        }
        Ok(entry)
    }
}

/// The name of an entry below the zone.
pub(super) fn entry_name(batch: u64) -> String {
    format!("{DIRECTORY}/{batch:020}.json")
}

/// The name of a checkpoint below the zone.
pub(super) fn checkpoint_name(batch: u64) -> String {
    format!("{DIRECTORY}/{batch:020}.checkpoint.json")
}

/// What a file of the log is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum File {
    Entry(u64),
    Checkpoint(u64),
}

/// Reads the name of a file of the log; nothing for any other file.
pub(super) fn parse_name(name: &str) -> Option<File> {
    let name = name.strip_prefix(DIRECTORY)?.strip_prefix('/')?;
    let (digits, ending) = name.split_at_checked(20)?;
    let batch = digits.bytes().all(|byte| byte.is_ascii_digit()).then(|| digits.parse().ok())??;
    match ending {
        ".json" => Some(File::Entry(batch)),
        ".checkpoint.json" => Some(File::Checkpoint(batch)),
        _ => None,
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn an_entry_survives_and_no_flipped_or_missing_byte_does() {
        let state = SourceState { identity: Some("first".into()), ranges: vec![(1, 9), (11, 12)].into() };
        let part = Part {
            path: "date=unknown/x.parquet".to_owned(),
            date: None,
            hour: None,
            rows: 11,
            bytes: 100,
            payload_bytes: 70,
            crc32: "0123abcd".to_owned(),
        };
        let dated = Part { date: "2025-03-03".parse().ok(), hour: Some(7), ..part.clone() };
        let entry = Entry::new(42, "0badcafe", BTreeMap::from([("nats:S".to_owned(), state)]), vec![part, dated]);
        let text = entry.render().unwrap();
        let name = Path::new("zone/_log/42.json");
        let read = Entry::read(name, &text, 42).unwrap();
        assert_eq!((&read.sources, &read.parts), (&entry.sources, &entry.parts));
        assert!(Entry::read(name, &text, 43).unwrap_err().to_string().contains("it is entry 42"));
        for at in 0..text.len() {
            let mut bad = text.clone();
            bad[at] ^= 0x20;
            let error = Entry::read(name, &bad, 42).unwrap_err().to_string();
            assert!(error.contains("zone/_log/42.json"), "{at}: {error}");
            assert!(Entry::read(name, &text[..at], 42).is_err(), "{at}");
        }
    }

    #[test]
    fn names_are_read_back() {
        assert_eq!(parse_name(&entry_name(42)), Some(File::Entry(42)));
        assert_eq!(parse_name(&checkpoint_name(256)), Some(File::Checkpoint(256)));
        for other in
            ["_log/42.json", "x/00000000000000000042.json", "_log/.00000000000000000042.json.7.partial", "_log"]
        {
            assert_eq!(parse_name(other), None, "{other}");
        }
    }
}
