//! When an event happened, read from its raw JSON without parsing the rest of it.

use chrono::DateTime;
use memchr::memmem::Finder;
use serde::Deserialize;
use std::{borrow::Cow, sync::LazyLock};

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
                    Some(text) => seconds(text),
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
    Some(DateTime::parse_from_rfc3339(&line.ts).ok()?.timestamp())
}

/// Seconds since 1970-01-01 UTC of an RFC 3339 text, as [`DateTime::parse_from_rfc3339`] reads it: any case of T and Z, a
/// space for T, any number of decimals, a leap second (which has the number of the second before it), U+2212 for minus.
fn seconds(text: &[u8]) -> Option<i64> {
    let (fixed, mut rest) = text.split_at_checked(19)?;
    let digit = |at: usize| {
        let digit = fixed[at].wrapping_sub(b'0');
        (digit < 10).then_some(i64::from(digit))
    };
    let pair = |at: usize| Some(digit(at)? * 10 + digit(at + 1)?);
    let year = pair(0)? * 100 + pair(2)?;
    let (month, day, hour, minute, second) = (pair(5)?, pair(8)?, pair(11)?, pair(14)?, pair(17)?);
    let separated = fixed[4] == b'-' && fixed[7] == b'-' && matches!(fixed[10], b'T' | b't' | b' ');
    if !separated || fixed[13] != b':' || fixed[16] != b':' {
        return None;
    }
    if !(1..=12).contains(&month) || day < 1 || day > days_in_month(year, month) {
        return None;
    }
    if hour > 23 || minute > 59 || second > 60 {
        return None;
    }
    if let Some(decimals) = rest.strip_prefix(b".") {
        let digits = decimals.iter().take_while(|byte| byte.is_ascii_digit()).count();
        if digits == 0 {
            return None;
        }
        rest = &decimals[digits..];
    }
    let offset = match rest {
        b"Z" | b"z" => 0,
        [b'+', offset @ ..] => offset_seconds(offset)?,
        [b'-', offset @ ..] | [0xE2, 0x88, 0x92, offset @ ..] => -offset_seconds(offset)?,
        _ => return None,
    };
    Some(days(year, month, day) * 86_400 + hour * 3_600 + minute * 60 + second.min(59) - offset)
}

/// `HH:MM`, up to 23:59.
fn offset_seconds(text: &[u8]) -> Option<i64> {
    let &[h1, h2, b':', m1, m2] = text else { return None };
    if ![h1, h2, m1, m2].iter().all(u8::is_ascii_digit) {
        return None;
    }
    let pair = |a: u8, b: u8| i64::from(a - b'0') * 10 + i64::from(b - b'0');
    let (hours, minutes) = (pair(h1, h2), pair(m1, m2));
    (hours < 24 && minutes < 60).then_some(hours * 3_600 + minutes * 60)
}

fn is_leap(year: i64) -> bool {
    year % 4 == 0 && (year % 100 != 0 || year % 400 == 0)
}

fn days_in_month(year: i64, month: i64) -> i64 {
    match month {
        2 => 28 + i64::from(is_leap(year)),
        4 | 6 | 9 | 11 => 30,
        _ => 31,
    }
}

/// Days since 1970-01-01 of a day of the Gregorian calendar, years counted from March so that the leap day is the last.
fn days(year: i64, month: i64, day: i64) -> i64 {
    let year = if month <= 2 { year - 1 } else { year };
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let (era, year_of_era) = (year.div_euclid(400), year.rem_euclid(400));
    era * 146_097 + year_of_era * 365 + year_of_era / 4 - year_of_era / 100 + day_of_year - 719_468
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn by_chrono(text: &str) -> Option<i64> {
        DateTime::parse_from_rfc3339(text).ok().map(|at| at.timestamp())
    }

    /// Mostly valid times, with every part now and then out of its range.
    fn times() -> impl Strategy<Value = String> {
        let offsets = prop_oneof![
            Just("Z".to_owned()),
            Just("z".to_owned()),
            (prop_oneof!["[+-]", Just("\u{2212}".to_owned())], 0..26, 0..62)
                .prop_map(|(sign, hours, minutes)| format!("{sign}{hours:02}:{minutes:02}")),
            "[+-]?[0-9:]{0,5}",
        ];
        let decimals = prop_oneof![Just(String::new()), "\\.[0-9]{1,12}", "\\.?[0-9]{0,2}"];
        let day = (0..10_000, 0..14, 0..33).prop_map(|(year, month, day)| format!("{year:04}-{month:02}-{day:02}"));
        let time =
            (0..26, 0..62, 0..63).prop_map(|(hour, minute, second)| format!("{hour:02}:{minute:02}:{second:02}"));
        (day, "[Tt _]", time, decimals, offsets).prop_map(|(a, b, c, d, e)| [a, b, c, d, e].concat())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(20_000))]
        #[test]
        fn agrees_with_chrono(text in times()) {
            prop_assert_eq!(seconds(text.as_bytes()), by_chrono(&text), "{}", text);
        }

        #[test]
        fn agrees_with_chrono_on_damaged_times(text in times(), at in 0_usize..30, to in "\\PC") {
            let damaged: String =
                text.chars().enumerate().map(|(i, c)| if i == at { to.clone() } else { c.to_string() }).collect();
            prop_assert_eq!(seconds(damaged.as_bytes()), by_chrono(&damaged), "{}", damaged);
        }

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
    fn every_day_has_its_number() {
        let first = chrono::NaiveDate::from_ymd_opt(1, 1, 1).expect("a day");
        for day in first.iter_days().step_by(13).take(280_000) {
            use chrono::Datelike;
            let number = days(i64::from(day.year()), i64::from(day.month()), i64::from(day.day()));
            assert_eq!(number, i64::from(day.to_epoch_days()), "{day}");
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
