//! Writing events as JSON lines, by hand into a byte buffer: a serializer would cost more than making the events.

use duet_core::event::{EventType, ItemKind};

/// An event before it is written.
#[derive(Debug, Clone, Copy)]
pub(super) struct RawEvent {
    /// Unique number; written as 16 hex digits.
    pub(super) id: u64,
    pub(super) event_type: EventType,
    pub(super) user: u64,
    pub(super) item_kind: ItemKind,
    pub(super) item: u64,
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) at_ms: i64,
    pub(super) offset_minutes: i32,
    pub(super) session: u64,
    /// The served list and the position in it.
    pub(super) request: Option<(u64, u32)>,
    pub(super) ms_played: Option<u32>,
}

/// What is wrong with a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Flaw {
    None,
    WrongType,
    BadTime,
    MissingItem,
    UnknownUser,
    UnknownItem,
}

/// `u00000042`, `a000042`, `s0000042`: how ids look in every file of the world.
pub(super) fn push_user(out: &mut Vec<u8>, user: u64) {
    out.push(b'u');
    push_padded(out, user, 8);
}

pub(super) fn push_item(out: &mut Vec<u8>, kind: ItemKind, item: u64) {
    match kind {
        ItemKind::Artist => {
            out.push(b'a');
            push_padded(out, item, 6);
        }
        ItemKind::Song => {
            out.push(b's');
            push_padded(out, item, 7);
        }
    }
}

/// The id of a user as text.
pub(super) fn user_id(user: u64) -> String {
    format!("u{user:08}")
}

/// The id of an artist as text.
pub(super) fn artist_id(artist: usize) -> String {
    format!("a{artist:06}")
}

/// The id of a song as text.
pub(super) fn song_id(song: usize) -> String {
    format!("s{song:07}")
}

/// Decimal digits, at least `width` of them.
pub(super) fn push_padded(out: &mut Vec<u8>, mut value: u64, width: usize) {
    let mut digits = [b'0'; 20];
    let mut at = digits.len();
    while value > 0 {
        at -= 1;
        digits[at] = b'0' + (value % 10) as u8;
        value /= 10;
    }
    out.extend_from_slice(&digits[at.min(digits.len() - width)..]);
}

fn push_hex(out: &mut Vec<u8>, value: u64) {
    let digit = |shift: u32| b"0123456789abcdef"[(value >> shift & 15) as usize];
    out.extend((0..16).rev().map(|place| digit(place * 4)));
}

/// RFC 3339 with milliseconds and the local offset.
fn push_time(out: &mut Vec<u8>, at_ms: i64, offset_minutes: i32) {
    let local = at_ms + i64::from(offset_minutes) * 60_000;
    let (day, ms) = (local.div_euclid(86_400_000), local.rem_euclid(86_400_000) as u64);
    let (year, month, day) = civil(day);
    push_padded(out, year as u64, 4);
    for (mark, value, width) in [
        (b'-', month, 2),
        (b'-', day, 2),
        (b'T', ms / 3_600_000, 2),
        (b':', ms / 60_000 % 60, 2),
        (b':', ms / 1_000 % 60, 2),
        (b'.', ms % 1_000, 3),
    ] {
        out.push(mark);
        push_padded(out, value, width);
    }
    let minutes = u64::from(offset_minutes.unsigned_abs());
    out.push(if offset_minutes < 0 { b'-' } else { b'+' });
    push_padded(out, minutes / 60, 2);
    out.push(b':');
    push_padded(out, minutes % 60, 2);
}

/// Year, month and day of a day number (days since 1970-01-01), for years 0 to 9999: the Gregorian calendar repeats
/// every 146,097 days; within such an era years start in March, so that the leap day comes last.
fn civil(day: i64) -> (i64, u64, u64) {
    let day = day + 719_468;
    let era = day.div_euclid(146_097);
    let of_era = day.rem_euclid(146_097);
    let year = (of_era - of_era / 1_460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let of_month = of_year - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    (year + era * 400 + i64::from(month <= 2), month as u64, of_month as u64)
}

/// Appends the event as one line.
pub(super) fn push_event(out: &mut Vec<u8>, event: &RawEvent, flaw: Flaw) {
    out.extend_from_slice(b"{\"event_id\":\"");
    push_hex(out, event.id);
    if flaw == Flaw::WrongType {
        out.extend_from_slice(b"\",\"type\":7,\"user_id\":\"");
    } else {
        out.extend_from_slice(b"\",\"type\":\"");
        out.extend_from_slice(event.event_type.as_str().as_bytes());
        out.extend_from_slice(b"\",\"user_id\":\"");
    }
    push_user(out, event.user);
    if flaw == Flaw::UnknownUser {
        out.push(b'x');
    }
    out.extend_from_slice(b"\",\"item_kind\":\"");
    out.extend_from_slice(event.item_kind.as_str().as_bytes());
    if flaw != Flaw::MissingItem {
        out.extend_from_slice(b"\",\"item_id\":\"");
        push_item(out, event.item_kind, event.item);
        if flaw == Flaw::UnknownItem {
            out.push(b'x');
        }
    }
    out.extend_from_slice(b"\",\"ts\":\"");
    if flaw == Flaw::BadTime {
        out.extend_from_slice(b"2025-13-45T99:00");
    } else {
        push_time(out, event.at_ms, event.offset_minutes);
    }
    out.push(b'"');
    if let Some((request, position)) = event.request {
        out.extend_from_slice(b",\"request_id\":\"");
        push_hex(out, request);
        out.extend_from_slice(b"\",\"position\":");
        push_padded(out, u64::from(position), 1);
        out.extend_from_slice(b",\"surface\":\"home\"");
    }
    if let Some(ms) = event.ms_played {
        out.extend_from_slice(b",\"ms_played\":");
        push_padded(out, u64::from(ms), 1);
    }
    out.extend_from_slice(b",\"session_id\":\"");
    push_hex(out, event.session);
    out.extend_from_slice(b"\"}\n");
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use chrono::{DateTime, Datelike, NaiveDate};
    use duet_core::event::Event;

    use super::*;

    #[test]
    fn lines_parse_to_what_was_meant() {
        let event = RawEvent {
            id: 0xab,
            event_type: EventType::Listen,
            user: 42,
            item_kind: ItemKind::Song,
            item: 12_345_678,
            at_ms: 1_740_960_000_007,
            offset_minutes: -210,
            session: 7,
            request: Some((9, 0)),
            ms_played: Some(0),
        };
        let mut out = Vec::new();
        push_event(&mut out, &event, Flaw::None);
        let parsed: Event = serde_json::from_slice(&out).unwrap();
        assert_eq!(parsed.event_id, "00000000000000ab");
        assert_eq!((parsed.user_id.as_str(), parsed.item_id.as_str()), ("u00000042", "s12345678"));
        assert_eq!(parsed.ts, DateTime::parse_from_rfc3339("2025-03-02T20:30:00.007-03:30").unwrap());
        assert_eq!(parsed.ts.offset().local_minus_utc(), -210 * 60);
        assert_eq!((parsed.position, parsed.ms_played), (Some(0), Some(0)));
        for flaw in [Flaw::WrongType, Flaw::BadTime, Flaw::MissingItem] {
            out.clear();
            push_event(&mut out, &event, flaw);
            assert!(serde_json::from_slice::<Event>(&out).is_err(), "{flaw:?}");
        }
    }

    #[test]
    fn calendar_agrees_with_chrono() {
        let epoch = NaiveDate::from_ymd_opt(1970, 1, 1).unwrap();
        for day in (-30_000..80_000).step_by(13).chain([-1, 0, 10_956, 11_016, 11_017, 20_148]) {
            let date = epoch + chrono::Duration::days(day);
            let expected = (i64::from(date.year()), u64::from(date.month()), u64::from(date.day()));
            assert_eq!(civil(day), expected, "{day}");
        }
    }
}
