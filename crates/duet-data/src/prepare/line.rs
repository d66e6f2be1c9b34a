//! One line of the stream to one event, or the reason why not. Never the line itself: it may hold personal data.
//!
//! Only the contract of [`duet_core::event`] counts here. Whether a user or an item is known is a question for later,
//! when accounts and catalogue are read: an event of an artist who is listed tomorrow is no broken line.

use std::borrow::Cow;

use duet_core::event::{EventType, ItemKind};
use serde::Deserialize;

use super::flat_object::{self, Plain};
use crate::raw::Rfc3339;

/// Longest id accepted, in bytes: what is longer is no id.
const MAX_ID_BYTES: usize = 1_024;
/// 9999-12-31T23:59:59.999Z.
const LAST_MS: i64 = 253_402_300_799_999;

/// Why a line is put aside, and about which field.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(super) struct Reject {
    pub(super) reason: &'static str,
    pub(super) field: &'static str,
}

impl Reject {
    const fn new(reason: &'static str, field: &'static str) -> Self {
        Self { reason, field }
    }
}

/// A line that keeps the contract.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Line<'a> {
    /// What duplicates are found by.
    pub(super) event_id: Cow<'a, str>,
    pub(super) event_type: EventType,
    /// The raw id; it becomes a pseudonym before anything is stored.
    pub(super) user_id: Cow<'a, str>,
    pub(super) item_kind: ItemKind,
    pub(super) item_id: Cow<'a, str>,
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) ts_ms: i64,
    /// Local day (days since 1970-01-01), for counting late events.
    pub(super) local_day: i32,
    pub(super) position: Option<u32>,
    pub(super) request_id: Option<Cow<'a, str>>,
    pub(super) ms_played: Option<u64>,
}

#[derive(Debug, PartialEq, Deserialize)]
struct Fields<'a> {
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
    #[serde(default, borrow)]
    request_id: Option<Text<'a>>,
    #[serde(default)]
    position: Option<u32>,
    #[serde(default)]
    ms_played: Option<u64>,
}

/// Serde copies the text of an `Option<Cow<str>>`, and of this only where it has escapes.
#[derive(Debug, PartialEq, Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'a> Fields<'a> {
    /// The fields of a plain object that has each once, of the right type. Anything else is for serde to judge.
    fn plain(line: &'a str) -> Option<Self> {
        fn set<T>(field: &mut Option<T>, value: T) -> Option<()> {
            field.replace(value).is_none().then_some(())
        }
        let (mut event_id, mut event_type, mut user_id, mut item_kind, mut item_id, mut ts) =
            (None, None, None, None, None, None);
        let (mut request_id, mut position, mut ms_played) = (None, None, None);
        flat_object::each_field(line, |key, value| match (key, value) {
            ("event_id", Plain::Text(text)) => set(&mut event_id, text),
            ("type", Plain::Text(text)) => {
                set(&mut event_type, EventType::ALL.into_iter().find(|known| known.as_str() == text)?)
            }
            ("user_id", Plain::Text(text)) => set(&mut user_id, text),
            ("item_kind", Plain::Text(text)) => {
                set(&mut item_kind, [ItemKind::Artist, ItemKind::Song].into_iter().find(|kind| kind.as_str() == text)?)
            }
            ("item_id", Plain::Text(text)) => set(&mut item_id, text),
            ("ts", Plain::Text(text)) => set(&mut ts, text),
            ("request_id", Plain::Text(text)) => set(&mut request_id, text),
            ("position", Plain::Number(number)) => set(&mut position, u32::try_from(number).ok()?),
            ("ms_played", Plain::Number(number)) => set(&mut ms_played, number),
            (
                "event_id" | "type" | "user_id" | "item_kind" | "item_id" | "ts" | "request_id" | "position"
                | "ms_played",
                _,
            ) => None,
            _ => Some(()),
        })?;
        Some(Self {
            event_id: Cow::Borrowed(event_id?),
            event_type: event_type?,
            user_id: Cow::Borrowed(user_id?),
            item_kind: item_kind?,
            item_id: Cow::Borrowed(item_id?),
            ts: Cow::Borrowed(ts?),
            request_id: request_id.map(|text| Text(Cow::Borrowed(text))),
            position,
            ms_played,
        })
    }
}

/// Parses a line (without its line end).
pub(super) fn parse(line: &[u8]) -> Result<Line<'_>, Reject> {
    // Checked once as a whole, the text needs no check string by string.
    let fields: Result<Fields<'_>, _> = match simdutf8::basic::from_utf8(line) {
        Ok(line) => Fields::plain(line).map_or_else(|| serde_json::from_str(line), Ok),
        // What nobody reads may be anything.
        Err(_) => serde_json::from_slice(line),
    };
    let fields = fields.map_err(|_| diagnose(line))?;
    let ids = [("event_id", &fields.event_id), ("user_id", &fields.user_id), ("item_id", &fields.item_id)];
    for (field, value) in ids {
        if value.is_empty() {
            return Err(Reject::new("empty", field));
        }
        if value.len() > MAX_ID_BYTES {
            return Err(Reject::new("longer than 1024 bytes", field));
        }
    }
    let ts = Rfc3339::parse(fields.ts.as_bytes()).ok_or(Reject::new("not RFC 3339", "ts"))?;
    let ts_ms = ts.milliseconds();
    if !(0..=LAST_MS).contains(&ts_ms) {
        return Err(Reject::new("not between 1970 and 9999", "ts"));
    }
    Ok(Line {
        event_id: fields.event_id,
        event_type: fields.event_type,
        user_id: fields.user_id,
        item_kind: fields.item_kind,
        item_id: fields.item_id,
        ts_ms,
        local_day: ts.local_day() as i32,
        position: fields.position,
        request_id: fields.request_id.map(|id| id.0),
        ms_played: fields.ms_played,
    })
}

/// Why a line does not fit the contract; only for lines that do not, so it may be slow.
fn diagnose(line: &[u8]) -> Reject {
    let Ok(value) = serde_json::from_slice::<serde_json::Value>(line) else {
        return Reject::new(if line.is_empty() { "empty line" } else { "not valid JSON" }, "");
    };
    let Some(object) = value.as_object() else {
        return Reject::new("not a JSON object", "");
    };
    for field in ["event_id", "type", "user_id", "item_kind", "item_id", "ts"] {
        match object.get(field) {
            None => return Reject::new("missing field", field),
            Some(value) if !value.is_string() => return Reject::new("wrong type", field),
            Some(value) => {
                let valid = match field {
                    "type" => EventType::deserialize(value).is_ok(),
                    "item_kind" => ItemKind::deserialize(value).is_ok(),
                    _ => true,
                };
                if !valid {
                    return Reject::new("unknown value", field);
                }
            }
        }
    }
    let wrong = |field: &str, valid: fn(&serde_json::Value) -> bool| {
        object.get(field).is_some_and(|value| !value.is_null() && !valid(value))
    };
    if wrong("request_id", serde_json::Value::is_string) {
        return Reject::new("wrong type", "request_id");
    }
    if wrong("position", |value| value.as_u64().is_some_and(|value| u32::try_from(value).is_ok())) {
        return Reject::new("wrong type", "position");
    }
    if wrong("ms_played", serde_json::Value::is_u64) {
        return Reject::new("wrong type", "ms_played");
    }
    Reject::new("a field occurs twice", "")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    /// Objects of fields that are known or not, with values that fit or not, in any order and spacing.
    fn objects() -> impl Strategy<Value = String> {
        let keys = [
            "event_id",
            "type",
            "user_id",
            "item_kind",
            "item_id",
            "ts",
            "request_id",
            "position",
            "ms_played",
            "extra",
            "Type",
            "",
            "\\u0074s",
        ];
        let texts =
            ["", "e1", "listen", "song", "2025-01-01T00:30:00+05:45", "\u{fc}\u{1f3b5}", "a b", "\\n", "\\\"", "\t"];
        let others = [
            "0",
            "7",
            "4294967295",
            "4294967296",
            "999999999999999999",
            "1000000000000000000",
            "18446744073709551615",
            "07",
            "-1",
            "1.5",
            "1e3",
            "null",
            "true",
            "false",
            "nul",
            "truely",
            "[]",
            "{\"a\":1}",
            "",
        ];
        let value = prop_oneof![
            6 => prop::sample::select(texts.to_vec()).prop_map(|text| format!("\"{text}\"")),
            4 => prop::sample::select(others.to_vec()).prop_map(str::to_owned),
        ];
        let space = || prop::sample::select(&["", "", "", " ", "  ", "\t", "\n"][..]);
        let field = (prop::sample::select(keys.to_vec()), value, space(), space())
            .prop_map(|(key, value, before, after)| format!("{before}\"{key}\"{after}:{before}{value}{after}"));
        let end = prop::sample::select(&["}", "}", "}", "} ", "}x", "", ",}"][..]);
        (prop::collection::vec(field, 0..12), space(), end)
            .prop_map(|(fields, space, end)| format!("{space}{{{}{end}", fields.join(",")))
    }

    /// A whole event of which one field is another one.
    fn events() -> impl Strategy<Value = String> {
        (objects(), any::<prop::sample::Index>(), prop::bool::ANY).prop_map(|(other, at, replace)| {
            let mut fields: Vec<&str> = GOOD[1..GOOD.len() - 1].split(',').collect();
            let other =
                other.trim_start().trim_start_matches('{').trim_end_matches('}').split(',').next().unwrap_or("");
            match (replace, at.index(fields.len())) {
                (true, at) => fields[at] = other,
                (false, at) => fields.insert(at, other),
            }
            format!("{{{}}}", fields.join(","))
        })
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn what_is_read_as_plain_reads_the_same_in_full(line in prop_oneof![objects(), events()]) {
            if let Some(plain) = Fields::plain(&line) {
                let full: Fields<'_> = serde_json::from_str(&line).map_err(|error| {
                    TestCaseError::fail(format!("{line}: {error}"))
                })?;
                prop_assert_eq!(plain, full, "{}", line);
            }
        }
    }

    #[test]
    fn usual_lines_are_plain() {
        let line = GOOD.replace("[1]", "null");
        assert!(Fields::plain(&line).is_some());
        assert!(Fields::plain(&line.replace(",\"", " ,  \"").replace("\":", "\" : ")).is_some());
        assert!(Fields::plain(GOOD).is_none());
    }

    const GOOD: &str = r#"{"event_id":"e1","type":"listen","user_id":"u1","item_kind":"song","item_id":"s1","ts":"2025-01-01T00:30:00+05:45","request_id":"r1","position":3,"ms_played":20000,"extra":[1]}"#;

    #[test]
    fn offsets_are_read_right() {
        let line = parse(GOOD.as_bytes()).unwrap();
        assert_eq!((line.user_id.as_ref(), line.item_id.as_ref()), ("u1", "s1"));
        // 2024-12-31T18:45Z; the local day is 2025-01-01, day 20,089.
        assert_eq!((line.ts_ms, line.local_day), (1_735_670_700_000, 20_089));
        assert_eq!((line.position, line.ms_played), (Some(3), Some(20_000)));
        let same = GOOD.replace("00:30:00+05:45", "00:30:00.000+05:45");
        assert_eq!(line, parse(same.as_bytes()).unwrap());
    }

    #[test]
    fn each_flaw_has_its_reason_and_field() {
        let long = "u".repeat(MAX_ID_BYTES + 1);
        for (from, to, reason, field) in [
            ("}", "", "not valid JSON", ""),
            (r#""type":"listen""#, r#""type":7"#, "wrong type", "type"),
            (r#""type":"listen""#, r#""type":"hum""#, "unknown value", "type"),
            (r#""item_kind":"song""#, r#""item_kind":"album""#, "unknown value", "item_kind"),
            (r#""item_id":"s1","#, "", "missing field", "item_id"),
            (r#""ms_played":20000"#, r#""ms_played":-1"#, "wrong type", "ms_played"),
            (r#""position":3"#, r#""position":4294967296"#, "wrong type", "position"),
            (r#""request_id":"r1""#, r#""request_id":1"#, "wrong type", "request_id"),
            (r#""position":3"#, r#""position":3,"position":3"#, "a field occurs twice", ""),
            ("2025-01-01T", "2025-13-01T", "not RFC 3339", "ts"),
            ("2025-01-01T", "1969-01-01T", "not between 1970 and 9999", "ts"),
            ("u1", "", "empty", "user_id"),
            ("u1", long.as_str(), "longer than 1024 bytes", "user_id"),
        ] {
            let line = GOOD.replace(from, to);
            assert_eq!(parse(line.as_bytes()), Err(Reject { reason, field }), "{line}");
        }
        assert_eq!(parse(b"[1]").unwrap_err().reason, "not a JSON object");
        assert_eq!(parse(b"\xff\xfe").unwrap_err().reason, "not valid JSON");
        assert_eq!(parse(b"").unwrap_err().reason, "empty line");
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        assert_eq!(parse(deep.as_bytes()).unwrap_err().reason, "not valid JSON");
        // Depth inside a field that nobody reads is nobody's business.
        let deep = GOOD.replace("[1]", &format!("{}{}", "[".repeat(100), "]".repeat(100)));
        assert!(parse(deep.as_bytes()).is_ok());
    }
}
