//! What an ingest did.

/// Figures of an ingest, or of the part of it that is done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct IngestSummary {
    /// Events committed to the zone.
    pub events: u64,
    /// Their payloads, in bytes.
    pub bytes: u64,
    /// Parts written.
    pub parts: u64,
    /// Their size, in bytes.
    pub stored_bytes: u64,
    /// Batches committed.
    pub batches: u64,
    /// Events that came although the zone had them; they were dropped.
    pub known: u64,
    /// Parts of a killed run that were removed.
    pub orphans: u64,
    /// Events of the source that the zone does not have yet, where the source can tell.
    pub lag: Option<u64>,
}

impl IngestSummary {
    /// Counts a committed batch.
    pub(super) fn add(&mut self, parts: &[crate::raw::Part]) {
        self.batches += 1;
        self.parts += parts.len() as u64;
        for part in parts {
            self.events += part.rows;
            self.bytes += part.payload_bytes;
            self.stored_bytes += part.bytes;
        }
    }
}
