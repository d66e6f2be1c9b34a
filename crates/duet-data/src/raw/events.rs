//! Some events on their way into the zone: payloads in one buffer, and what is known about each.

use std::sync::Arc;

use bytes::Bytes;

use super::Ranges;

/// [`Row::received_ms`] where no broker received the event.
pub(crate) const NOT_RECEIVED: i64 = i64::MIN;

/// An event: where its payload lies, and what it is known by.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Row {
    /// Unique within its source.
    pub(crate) sequence: u64,
    /// Milliseconds since 1970-01-01 UTC, or [`NOT_RECEIVED`].
    pub(crate) received_ms: i64,
    pub(crate) start: u32,
    pub(crate) length: u32,
}

/// Events of one source.
#[derive(Debug, Clone)]
pub(crate) struct Events {
    /// As the column `source` has it.
    pub(crate) source: Arc<str>,
    /// What the source must still be when it is read again.
    pub(crate) identity: Option<Arc<str>>,
    /// The payloads, perhaps with other bytes between.
    pub(crate) bytes: Bytes,
    pub(crate) rows: Vec<Row>,
    /// The sequences of the rows, and those between that will never come.
    pub(crate) covered: Ranges,
}

impl Events {
    pub(crate) fn payload(&self, row: usize) -> &[u8] {
        let row = &self.rows[row];
        &self.bytes[row.start as usize..][..row.length as usize]
    }
}
