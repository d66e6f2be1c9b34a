//! When an event happened, read from its raw JSON without parsing the rest of it.

use memchr::memmem::Finder;
use serde::Deserialize;
use std::{borrow::Cow, sync::LazyLock};

use super::rfc3339::Rfc3339;

const KEY: &[u8] = b"\"ts\"";

/// The event's UTC hour, counted from 1970-01-01T00Z, or `None` where `ts` can't be read as RFC 3339 or lies outside the
/// years 1970 to 9999.
///
/// An object in which `"ts"` occurs once, as a key before a plain string, is read from that place: the rest may be
/// malformed, for this decides where a line is stored, not whether it is valid. All others go through a JSON parser.
pub fn event_hour(payload: &[u8]) -> Option<i64> {
    static FINDER: LazyLock<Finder<'static>> = LazyLock::new(|| Finder::new(KEY));
    let seconds = match FINDER.find(payload) {
        // A key can be written with escapes; without one there is no key.
        None => memchr::memchr(b'\\', payload).and_then(|_| parsed(payload)),
        Some(at) => {
            let rest = &payload[at + KEY.len()..];
            match FINDER.find(rest) {
                None => match plain_string(rest) {
                    Some(text) => Rfc3339::parse(text).map(Rfc3339::seconds),
                    None => parsed(payload),
                },
                Some(_) => parsed(payload),
            }
        }
    }?;
    let hour = seconds.div_euclid(3_600);
    (0..END_HOUR).contains(&hour).then_some(hour)
}

/// The first hour of the year 10000.
const END_HOUR: i64 = 2_932_897 * 24;

/// The string of `: "..."`, if it is one without escapes.
fn plain_string(rest: &[u8]) -> Option<&[u8]> {
    let rest = skip_space(rest).strip_prefix(b":")?;
    let rest = skip_space(rest).strip_prefix(b"\"")?;
    let end = memchr::memchr2(b'"', b'\\', rest)?;
    (rest[end] == b'"').then(|| &rest[..end])
}

fn skip_space(text: &[u8]) -> &[u8] {
    let start = text.iter().position(|byte| !matches!(byte, b' ' | b'\t' | b'\n' | b'\r')).unwrap_or(text.len());
    &text[start..]
}

fn parsed(payload: &[u8]) -> Option<i64> {
    #[derive(Deserialize)]
    struct Line<'a> {
        #[serde(borrow)]
        ts: Cow<'a, str>,
    }
    let line: Line<'_> = serde_json::from_slice(payload).ok()?;
    Rfc3339::parse(line.ts.as_bytes()).map(Rfc3339::seconds)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::{super::rfc3339::tests::times, *};

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn agrees_with_a_parser_on_whole_objects(text in times(), before in "[a-z]{0,9}", space in "[ \t]{0,2}") {
            let line = format!("{{\"a\":\"{before}\",\"ts\"{space}:{space}\"{text}\",\"b\":1}}");
            let hour = parsed(line.as_bytes()).map(|s| s.div_euclid(3_600)).filter(|hour| (0..END_HOUR).contains(hour));
            prop_assert_eq!(event_hour(line.as_bytes()), hour, "{}", line);
        }

        #[test]
        fn never_panics(bytes in prop::collection::vec(any::<u8>(), 0..80), at in 0_usize..80) {
            let mut bytes = bytes;
            let at = at.min(bytes.len());
            bytes.splice(at..at, *KEY.first_chunk::<4>().expect("four bytes"));
            let _ = event_hour(&bytes);
        }
    }

    #[test]
    fn the_roads_to_the_time() {
        let hour = Some(482_000);
        // 2024-12-26T08Z.
        for line in [
            r#"{"ts":"2024-12-26T08:59:60Z"}"#,
            r#"{"ts" : "2024-12-26T13:45:00+05:45", "x": [}"#,
            r#"{"type":"ts","ts":"2024-12-26 08:00:00.000-00:00"}"#,
            r#"{"\u0074s":"2024-12-26T08:00:00Z"}"#,
            r#"{"ts":"2024-12-26T08:00:00\u005a"}"#,
        ] {
            assert_eq!(event_hour(line.as_bytes()), hour, "{line}");
        }
        for line in [
            "",
            "{}",
            r#"{"ts":1735200000}"#,
            r#"{"ts":null}"#,
            r#"{"ts":"2024-12-26"}"#,
            r#"{"ts":"2024-12-26T08:00:00"}"#,
            r#"{"ts":"2024-12-26T08:00:00Z","ts":"2024-12-26T08:00:00Z"}"#,
            r#"{"ts":"1969-12-31T23:59:59Z"}"#,
            r#"{"ts":"9999-12-31T23:59:59-00:01"}"#,
            r#"{"type":"ts"}"#,
            r#"{"ts""#,
            r#"{"ts":"2024"#,
        ] {
            assert_eq!(event_hour(line.as_bytes()), None, "{line}");
        }
        assert_eq!(event_hour(br#"{"ts":"1970-01-01T00:00:00Z"}"#), Some(0));
        assert_eq!(event_hour(br#"{"ts":"9999-12-31T23:59:59Z"}"#), Some(END_HOUR - 1));
    }
}
