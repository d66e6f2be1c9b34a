//! A line of the raw zone as one binary value: what the plans of [`super::normalise`] carry and sort.
//!
//! The order of the bytes is the order of a day: lines put aside first, by file and line; then events by user, time, event
//! and everything else. One short value a line instead of a struct of fourteen columns makes the sort a comparison of
//! bytes, and any engine can carry it.
//!
//! ```text
//! 0  file  0x00  line:u64  reason  0x00  field                                               put aside
//! 1  user:16  ts_ms:u64  event:16  type:u8  kind:u8  flags:u8  position:u32  request:u64  ms_played:u64  item    event
//! ```
//!
//! Numbers are big-endian. Bits of the flags: late, then whether position, request and ms_played are there (0 if not).

const ASIDE: u8 = 0;
const EVENT: u8 = 1;
/// Where the item id starts.
const ITEM: usize = 64;
const LATE: u8 = 1;
const POSITION: u8 = 1 << 1;
const REQUEST: u8 = 1 << 2;
const MS_PLAYED: u8 = 1 << 3;

/// An event that keeps the contract, its user a pseudonym.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct EventRow<'a> {
    pub(super) user: [u8; 16],
    /// Milliseconds since 1970-01-01 UTC, never before it.
    pub(super) ts_ms: i64,
    /// First 128 bits of SHA-256 of the event id: what duplicates are found by, and what breaks ties of time.
    pub(super) event: [u8; 16],
    /// Code of the [`duet_core::event::EventType`].
    pub(super) event_type: u8,
    /// Code of the [`duet_core::event::ItemKind`].
    pub(super) item_kind: u8,
    /// Whether it arrived after its day.
    pub(super) late: bool,
    pub(super) position: Option<u32>,
    /// First 64 bits of SHA-256 of the request id.
    pub(super) request: Option<u64>,
    pub(super) ms_played: Option<u64>,
    pub(super) item: &'a str,
}

/// A line put aside, and why.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct AsideRow<'a> {
    pub(super) file: &'a str,
    pub(super) line: u64,
    pub(super) reason: &'a str,
    pub(super) field: &'a str,
}

/// A line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Row<'a> {
    Aside(AsideRow<'a>),
    Event(EventRow<'a>),
}

impl EventRow<'_> {
    /// Appends the value's bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        let mut fixed = [0; ITEM];
        let flag = |there: bool, flag: u8| if there { flag } else { 0 };
        fixed[0] = EVENT;
        fixed[1..17].copy_from_slice(&self.user);
        fixed[17..25].copy_from_slice(&self.ts_ms.to_be_bytes());
        fixed[25..41].copy_from_slice(&self.event);
        fixed[41] = self.event_type;
        fixed[42] = self.item_kind;
        fixed[43] = flag(self.late, LATE)
            | flag(self.position.is_some(), POSITION)
            | flag(self.request.is_some(), REQUEST)
            | flag(self.ms_played.is_some(), MS_PLAYED);
        fixed[44..48].copy_from_slice(&self.position.unwrap_or(0).to_be_bytes());
        fixed[48..56].copy_from_slice(&self.request.unwrap_or(0).to_be_bytes());
        fixed[56..64].copy_from_slice(&self.ms_played.unwrap_or(0).to_be_bytes());
        out.extend_from_slice(&fixed);
        out.extend_from_slice(self.item.as_bytes());
    }
}

impl AsideRow<'_> {
    /// Appends the value's bytes.
    pub(super) fn encode(&self, out: &mut Vec<u8>) {
        out.push(ASIDE);
        // A name with a zero byte does not exist on any file system; one of a stream ends there.
        out.extend_from_slice(self.file.split('\0').next().unwrap_or_default().as_bytes());
        out.push(0);
        out.extend_from_slice(&self.line.to_be_bytes());
        out.extend_from_slice(self.reason.as_bytes());
        out.push(0);
        out.extend_from_slice(self.field.as_bytes());
    }
}

impl<'a> Row<'a> {
    /// Reads a value; nothing if it is none.
    pub(super) fn decode(bytes: &'a [u8]) -> Option<Self> {
        match bytes.split_first()? {
            (&ASIDE, rest) => {
                let (file, rest) = rest.split_at(memchr::memchr(0, rest)?);
                let (line, rest) = rest[1..].split_first_chunk::<8>()?;
                let (reason, field) = rest.split_at(memchr::memchr(0, rest)?);
                let text = |bytes| std::str::from_utf8(bytes).ok();
                let line = u64::from_be_bytes(*line);
                Some(Self::Aside(AsideRow {
                    file: text(file)?,
                    line,
                    reason: text(reason)?,
                    field: text(&field[1..])?,
                }))
            }
            (&EVENT, _) => {
                let (fixed, item) = bytes.split_first_chunk::<ITEM>()?;
                let flags = fixed[43];
                Some(Self::Event(EventRow {
                    user: array(fixed, 1),
                    ts_ms: i64::from_be_bytes(array(fixed, 17)),
                    event: array(fixed, 25),
                    event_type: fixed[41],
                    item_kind: fixed[42],
                    late: flags & LATE != 0,
                    position: (flags & POSITION != 0).then(|| u32::from_be_bytes(array(fixed, 44))),
                    request: (flags & REQUEST != 0).then(|| u64::from_be_bytes(array(fixed, 48))),
                    ms_played: (flags & MS_PLAYED != 0).then(|| u64::from_be_bytes(array(fixed, 56))),
                    item: std::str::from_utf8(item).ok()?,
                }))
            }
            _ => None,
        }
    }
}

fn array<const N: usize>(bytes: &[u8; ITEM], at: usize) -> [u8; N] {
    let mut array = [0; N];
    array.copy_from_slice(&bytes[at..at + N]);
    array
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Event = ([u8; 16], i64, [u8; 16], (u8, u8, bool), Option<u32>, Option<u64>, Option<u64>, String);

    fn event() -> impl Strategy<Value = Event> {
        // Small ranges, so that two events often agree in their first fields.
        let small = || prop::array::uniform16(0_u8..2);
        let option = prop::option::of(0_u64..3);
        let codes = (0_u8..6, 0_u8..2, any::<bool>());
        (small(), 0_i64..300, small(), codes, prop::option::of(0_u32..3), option.clone(), option, "[a-c]{0,3}")
    }

    fn row(event: &Event) -> EventRow<'_> {
        let (user, ts_ms, id, (event_type, item_kind, late), position, request, ms_played, item) = event;
        EventRow {
            user: *user,
            ts_ms: *ts_ms,
            event: *id,
            event_type: *event_type,
            item_kind: *item_kind,
            late: *late,
            position: *position,
            request: *request,
            ms_played: *ms_played,
            item,
        }
    }

    fn bytes(row: &Row<'_>) -> Vec<u8> {
        let mut out = Vec::new();
        match row {
            Row::Aside(row) => row.encode(&mut out),
            Row::Event(row) => row.encode(&mut out),
        }
        out
    }

    proptest! {
        #[test]
        fn a_value_is_read_as_it_was_written(event in event(), file in "[a-z/=.]{0,20}", line: u64, field in "[a-z]{0,9}") {
            for row in [
                Row::Event(row(&event)),
                Row::Aside(AsideRow { file: &file, line, reason: "not RFC 3339", field: &field }),
            ] {
                let bytes = bytes(&row);
                prop_assert_eq!(Row::decode(&bytes), Some(row));
            }
        }

        #[test]
        fn bytes_sort_by_user_time_and_event(a in event(), b in event()) {
            let key = |event: &Event| (event.0, event.1, event.2, event.3.0, event.3.1);
            let order = bytes(&Row::Event(row(&a))).cmp(&bytes(&Row::Event(row(&b))));
            prop_assert_eq!(key(&a).cmp(&key(&b)).then(order), order);
            prop_assert_eq!(order.is_eq(), a == b);
        }

        #[test]
        fn lines_put_aside_come_first_by_file_and_line(a in ("[a-c]{0,3}", 0_u64..400), b in ("[a-c]{0,3}", 0_u64..400), event in event()) {
            let value = |(file, line): &(String, u64)| {
                bytes(&Row::Aside(AsideRow { file, line: *line, reason: "empty", field: "ts" }))
            };
            prop_assert_eq!(a.cmp(&b), value(&a).cmp(&value(&b)));
            prop_assert!(value(&a) < bytes(&Row::Event(row(&event))));
        }

        #[test]
        fn other_bytes_are_no_value(bytes in prop::collection::vec(0_u8..4, 0..100)) {
            if let Some(row) = Row::decode(&bytes) {
                prop_assert_eq!(self::bytes(&row).len(), bytes.len());
            }
        }
    }
}
