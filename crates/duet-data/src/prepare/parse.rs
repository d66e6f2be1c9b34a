//! One line to one event in compact form, or the reason why not. Never the line itself: it may hold personal data.

use std::{borrow::Cow, collections::HashMap};

use chrono::DateTime;
use duet_core::event::{EventType, ItemKind};
use serde::Deserialize;
use sha2::{Digest, Sha256};

/// Why a line is put aside, and about which field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Reject {
    pub(super) reason: &'static str,
    pub(super) field: &'static str,
}

/// An event as everything after parsing needs it.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) struct Parsed {
    /// First 128 bits of SHA-256 of the event id: what duplicates are found by, and what breaks ties of time.
    pub(super) id: u128,
    pub(super) event_type: EventType,
    /// Row of the accounts.
    pub(super) user: u32,
    pub(super) item_kind: ItemKind,
    /// Row of the catalogue's artists: of the artist, or of the song's artist.
    pub(super) artist: u32,
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) at_ms: i64,
    /// For listens: whether enough was heard to count as liking.
    pub(super) heard: bool,
    /// Local day (days since 1970-01-01), for counting late events.
    pub(super) local_day: i32,
}

/// What ids are known.
#[derive(Debug, Default)]
pub(super) struct Known {
    /// User id to row of the accounts.
    pub(super) users: HashMap<String, u32>,
    /// Artist id to row of the catalogue.
    pub(super) artists: HashMap<String, u32>,
    /// Song id to its artist's row and its length in milliseconds.
    pub(super) songs: HashMap<String, (u32, u64)>,
}

#[derive(Deserialize)]
struct Line<'a> {
    #[serde(borrow)]
    event_id: Cow<'a, str>,
    #[serde(rename = "type")]
    event_type: EventType,
    #[serde(borrow)]
    user_id: Cow<'a, str>,
    item_kind: ItemKind,
    #[serde(borrow)]
    item_id: Cow<'a, str>,
    #[serde(borrow)]
    ts: Cow<'a, str>,
    #[serde(default)]
    ms_played: Option<u64>,
}

/// A song counts as liked when heard for so long, or for half of its length.
const HEARD_MS: u64 = 30_000;

impl Known {
    /// Parses a line (without its line end).
    pub(super) fn parse(&self, line: &[u8]) -> Result<Parsed, Reject> {
        let event: Line<'_> = serde_json::from_slice(line).map_err(|_| diagnose(line))?;
        for (field, value) in [("event_id", &event.event_id), ("user_id", &event.user_id), ("item_id", &event.item_id)]
        {
            if value.is_empty() {
                return Err(Reject { reason: "empty", field });
            }
        }
        let ts = DateTime::parse_from_rfc3339(&event.ts).map_err(|_| Reject { reason: "not RFC 3339", field: "ts" })?;
        let &user = self.users.get(event.user_id.as_ref()).ok_or(Reject { reason: "unknown id", field: "user_id" })?;
        let unknown_item = Reject { reason: "unknown id", field: "item_id" };
        let (artist, length) = match event.item_kind {
            ItemKind::Artist => (*self.artists.get(event.item_id.as_ref()).ok_or(unknown_item)?, u64::MAX),
            ItemKind::Song => *self.songs.get(event.item_id.as_ref()).ok_or(unknown_item)?,
        };
        let played = event.ms_played.unwrap_or(0);
        let heard = event.event_type == EventType::Listen && (played >= HEARD_MS || played >= length.div_ceil(2));
        let digest = Sha256::digest(event.event_id.as_bytes());
        let mut id = [0; 16];
        id.copy_from_slice(&digest[..16]);
        Ok(Parsed {
            id: u128::from_be_bytes(id),
            event_type: event.event_type,
            user,
            item_kind: event.item_kind,
            artist,
            at_ms: ts.timestamp_millis(),
            heard,
            local_day: ts.naive_local().date().to_epoch_days(),
        })
    }
}

/// Why a line does not fit the contract; only for lines that do not, so it may be slow.
fn diagnose(line: &[u8]) -> Reject {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(line) else {
        return Reject { reason: "not valid JSON", field: "" };
    };
    let Some(object) = value.as_object() else {
        return Reject { reason: "not a JSON object", field: "" };
    };
    for field in ["event_id", "type", "user_id", "item_kind", "item_id", "ts"] {
        match object.get(field) {
            None => return Reject { reason: "missing field", field },
            Some(value) if !value.is_string() => return Reject { reason: "wrong type", field },
            Some(value) => {
                let valid = match field {
                    "type" => EventType::deserialize(value).is_ok(),
                    "item_kind" => ItemKind::deserialize(value).is_ok(),
                    _ => true,
                };
                if !valid {
                    return Reject { reason: "unknown value", field };
                }
            }
        }
    }
    match object.get("ms_played") {
        Some(value) if !value.is_u64() && !value.is_null() => Reject { reason: "wrong type", field: "ms_played" },
        _ => Reject { reason: "a field occurs twice", field: "" },
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    const GOOD: &str = r#"{"event_id":"e1","type":"listen","user_id":"u1","item_kind":"song","item_id":"s1","ts":"2025-01-01T00:30:00+05:45","ms_played":20000,"extra":[1]}"#;

    fn known() -> Known {
        Known {
            users: HashMap::from([("u1".into(), 3)]),
            artists: HashMap::from([("a1".into(), 5)]),
            songs: HashMap::from([("s1".into(), (5, 40_000))]),
        }
    }

    #[test]
    fn offsets_and_halves_are_read_right() {
        let event = known().parse(GOOD.as_bytes()).unwrap();
        assert_eq!((event.user, event.artist, event.heard), (3, 5, true));
        // 2024-12-31T18:45Z; the local day is 2025-01-01, day 20,089.
        assert_eq!((event.at_ms, event.local_day), (1_735_670_700_000, 20_089));
        assert!(!known().parse(GOOD.replace("20000", "19999").as_bytes()).unwrap().heard);
    }

    #[test]
    fn each_flaw_has_its_reason_and_field() {
        for (from, to, reason, field) in [
            ("}", "", "not valid JSON", ""),
            (r#""type":"listen""#, r#""type":7"#, "wrong type", "type"),
            (r#""type":"listen""#, r#""type":"hum""#, "unknown value", "type"),
            (r#""item_id":"s1","#, "", "missing field", "item_id"),
            (r#""ms_played":20000"#, r#""ms_played":-1"#, "wrong type", "ms_played"),
            ("2025-01-01T", "2025-13-01T", "not RFC 3339", "ts"),
            ("u1", "", "empty", "user_id"),
            ("u1", "u9", "unknown id", "user_id"),
            ("s1", "s9", "unknown id", "item_id"),
        ] {
            let line = GOOD.replace(from, to);
            assert_eq!(known().parse(line.as_bytes()), Err(Reject { reason, field }), "{line}");
        }
        assert_eq!(known().parse(b"[1]").unwrap_err().reason, "not a JSON object");
        assert_eq!(known().parse(b"\xff\xfe").unwrap_err().reason, "not valid JSON");
    }
}
