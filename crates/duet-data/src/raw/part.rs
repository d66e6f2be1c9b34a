//! A part of the zone as its log describes it.

use chrono::NaiveDate;
use serde::{Deserialize, Serialize};

/// A Parquet file of the zone.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Part {
    /// Relative to the zone, with `/`.
    pub path: String,
    /// UTC day of its events; nothing where their time can't be read.
    #[serde(with = "date")]
    pub date: Option<NaiveDate>,
    /// UTC hour of its events; nothing in a zone by day.
    pub hour: Option<u8>,
    /// Events.
    pub rows: u64,
    /// Size of the file.
    pub bytes: u64,
    /// Size of all payloads.
    pub payload_bytes: u64,
    /// CRC-32 (IEEE) of the file, eight hex digits.
    pub crc32: String,
}

/// The directory of events without a readable time, and how the log writes their date.
pub(super) const UNKNOWN: &str = "unknown";

mod date {
    use chrono::NaiveDate;
    use serde::{Deserialize, Deserializer, Serializer, de::Error};

    use super::UNKNOWN;

    pub(super) fn serialize<S: Serializer>(date: &Option<NaiveDate>, serializer: S) -> Result<S::Ok, S::Error> {
        match date {
            Some(date) => serializer.collect_str(date),
            None => serializer.serialize_str(UNKNOWN),
        }
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<NaiveDate>, D::Error> {
        match String::deserialize(deserializer)?.as_str() {
            UNKNOWN => Ok(None),
            text => text.parse().map(Some).map_err(D::Error::custom),
        }
    }
}
