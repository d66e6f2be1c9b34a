//! Event files into a zone: read, encoded and written at the same time, a batch each.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use duet_core::{Error, Result, progress};
use rayon::prelude::*;

use super::{IngestSummary, blocks::Blocks};
use crate::raw::{EncodedPart, Events, RawZone, SourceState, encode};

/// How files are read.
#[derive(Debug, Clone)]
pub struct FilesOptions {
    /// Bytes of a batch. About four batches are in memory at once.
    pub batch_bytes: usize,
    /// Once set, reading ends; what was read is committed.
    pub stop: Arc<AtomicBool>,
}

impl Default for FilesOptions {
    fn default() -> Self {
        Self { batch_bytes: 64 << 20, stop: Arc::default() }
    }
}

/// A batch between encoding and commit.
struct Encoded {
    parts: Vec<EncodedPart>,
    sources: BTreeMap<String, SourceState>,
    known: u64,
    /// Bytes of the files, for the bar.
    read: u64,
}

/// Copies event files into a zone: a file of JSON lines, or every `*.jsonl`, `*.ndjson` and `*.json` below a directory.
///
/// A line is an event: its bytes without the line end, whatever they are; an empty line is an event of no bytes. Its
/// source is the file's path below `path`, its sequence the line number. Lines that the zone has are not copied again, so
/// a stopped run is continued, and files that grew are caught up with.
///
/// Must be called within a tokio runtime; the work is done by rayon's threads.
///
/// # Errors
/// [`Error::Data`] for a line of more than 16 MiB, and for a file that is not the one of its name that the zone knows;
/// [`Error::Input`] if another process writes to the zone; [`Error::Io`].
pub async fn ingest_files(path: &Path, zone: &mut RawZone, options: &FilesOptions) -> Result<IngestSummary> {
    let orphans = zone.remove_orphans().await? as u64;
    let mut summary = IngestSummary { orphans, ..IngestSummary::default() };
    let mut blocks = Some(Blocks::new(path, zone)?);
    let bar = progress::bar("ingest", "bytes", blocks.as_ref().map_or(0, |blocks| blocks.total_bytes));
    let zone_options = zone.options();
    let (mut read, mut encoded) = (Vec::new(), None::<Encoded>);
    loop {
        // Three batches move on by one step each, at the same time.
        let reading = {
            let blocks = blocks.take().filter(|_| !options.stop.load(Ordering::SeqCst));
            let bytes = options.batch_bytes;
            async move {
                match blocks {
                    None => Ok((None, Vec::new())),
                    Some(mut blocks) => {
                        blocking(move || {
                            let batch = blocks.next_batch(bytes)?;
                            Ok(((!batch.is_empty()).then_some(blocks), batch))
                        })
                        .await
                    }
                }
            }
        };
        let encoding = async {
            if read.is_empty() {
                return Ok(None);
            }
            let read = std::mem::take(&mut read);
            blocking(move || {
                let bytes = read.iter().map(|block: &super::blocks::Block| block.bytes.len() as u64).sum();
                let (events, known): (Vec<Events>, Vec<u64>) =
                    read.into_par_iter().map(super::blocks::Block::split).unzip();
                let events: Vec<Events> = events.into_iter().filter(|events| !events.rows.is_empty()).collect();
                let parts = encode(&events, zone_options.granularity, zone_options.compression)?;
                Ok(Some(Encoded { parts, sources: sources(&events), known: known.into_iter().sum(), read: bytes }))
            })
            .await
        };
        let committing = async {
            let Some(encoded) = encoded.take() else { return Ok(()) };
            summary.known += encoded.known;
            if !encoded.parts.is_empty() {
                summary.add(zone.commit(encoded.parts, encoded.sources).await?);
            }
            bar.inc(encoded.read);
            Ok(())
        };
        let (reading, encoding, committing) = tokio::join!(reading, encoding, committing);
        committing?;
        encoded = encoding?;
        (blocks, read) = reading?;
        if blocks.is_none() && read.is_empty() && encoded.is_none() {
            bar.finish_and_clear();
            return Ok(summary);
        }
    }
}

/// What a batch commits of each source.
pub(super) fn sources(batch: &[Events]) -> BTreeMap<String, SourceState> {
    let mut sources: BTreeMap<String, SourceState> = BTreeMap::new();
    for events in batch {
        let state = sources.entry(events.source.to_string()).or_default();
        state.identity.clone_from(&events.identity);
        state.ranges.extend(&events.covered);
    }
    sources
}

/// Runs work for the CPU beside the runtime's own threads.
pub(super) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => Err(Error::Internal(format!("a task of ingest ended early: {error}"))),
    }
}
