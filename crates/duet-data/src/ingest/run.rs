//! The loop between a source and a zone: one batch fills while the one before is written.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use duet_core::{Error, Result};
use tokio::task::JoinHandle;

use super::{
    IngestSummary,
    files::{blocking, sources},
    source::{Delivery, EventSource, Flow},
};
use crate::raw::{Events, NOT_RECEIVED, Ranges, RawZone, Row, encode};

/// How long a source is waited for before batch, stop flag and so on are looked at again.
const TICK: Duration = Duration::from_millis(50);
/// With [`IngestOptions::until_empty`], a batch is written when nothing has come for so long.
const IDLE: Duration = Duration::from_millis(200);
/// With [`IngestOptions::until_empty`], a batch is written at this age, so that the end is seen in a stream that goes on.
const FLUSH_AGE: Duration = Duration::from_secs(1);
/// How often the lag goes to the log.
const LAG_EVERY: Duration = Duration::from_secs(10);
/// Deliveries taken over at once.
const RECEIVED_AT_ONCE: usize = 4_096;

/// When a batch is complete, and when the ingest is.
#[derive(Debug, Clone)]
pub struct IngestOptions {
    /// A batch is written when its payloads have so many bytes...
    pub batch_bytes: usize,
    /// ... or when its first event is so old...
    pub batch_age: Duration,
    /// ... or when it has so many events.
    pub batch_events: usize,
    /// Ends when everything that the source had at the start is in the zone.
    pub until_empty: bool,
    /// Once set, nothing more is taken; what was taken is committed and acknowledged.
    pub stop: Arc<AtomicBool>,
}

impl Default for IngestOptions {
    fn default() -> Self {
        Self {
            batch_bytes: 64 << 20,
            batch_age: Duration::from_secs(30),
            batch_events: 250_000,
            until_empty: false,
            stop: Arc::default(),
        }
    }
}

/// A batch that fills.
struct Batch<Ticket> {
    /// Payloads of all feeds.
    bytes: Vec<u8>,
    feeds: Vec<Share>,
    events: usize,
    tickets: Vec<Ticket>,
    since: Instant,
}

/// What a feed has in a batch.
#[derive(Default)]
struct Share {
    rows: Vec<Row>,
    covered: Ranges,
}

impl<Ticket> Batch<Ticket> {
    fn new() -> Self {
        Self { bytes: Vec::new(), feeds: Vec::new(), events: 0, tickets: Vec::new(), since: Instant::now() }
    }

    fn push(&mut self, delivery: Delivery<Ticket>) {
        if self.events == 0 {
            self.since = Instant::now();
        }
        if self.feeds.len() <= delivery.feed {
            self.feeds.resize_with(delivery.feed + 1, Share::default);
        }
        let share = &mut self.feeds[delivery.feed];
        let (start, length) = (self.bytes.len() as u32, delivery.payload.len() as u32);
        self.bytes.extend_from_slice(&delivery.payload);
        let received_ms = delivery.received_ms.unwrap_or(NOT_RECEIVED);
        share.rows.push(Row { sequence: delivery.sequence, received_ms, start, length });
        share.covered.insert(delivery.covers_from, delivery.sequence);
        self.events += 1;
        self.tickets.push(delivery.ticket);
    }

    fn is_full(&self, options: &IngestOptions) -> bool {
        self.bytes.len() >= options.batch_bytes || self.events >= options.batch_events
    }

    fn contains(&self, feed: usize, sequence: u64) -> bool {
        self.feeds.get(feed).is_some_and(|share| share.covered.contains(sequence))
    }
}

/// A batch that is being written: the task gives the zone back.
struct Writing<Ticket> {
    task: JoinHandle<(RawZone, Result<IngestSummary>)>,
    tickets: Vec<Ticket>,
}

/// Copies events from a source into a zone until the source ends, the stop flag is set, or, where asked, the source is
/// caught up with. Each event is acknowledged once its part and the log's entry are durable.
///
/// # Errors
/// [`Error::Input`] if another process writes to the zone, or a feed is not the one of its name that the zone knows;
/// those of source and store. A batch that is being written is completed first; what was received beyond it is not
/// acknowledged, so it comes again.
pub async fn ingest<S: EventSource>(
    source: &mut S,
    mut zone: RawZone,
    options: &IngestOptions,
) -> Result<(RawZone, IngestSummary)> {
    // Offsets of a batch are 32 bits wide.
    if options.batch_bytes == 0 || options.batch_bytes > 1 << 30 || options.batch_events == 0 {
        return Err(Error::input("a batch must have from 1 byte to 1 GiB, and from 1 event"));
    }
    let orphans = zone.remove_orphans().await? as u64;
    let mut run = Run {
        source,
        options,
        batch: Batch::new(),
        seen: Vec::new(),
        zone: Some(zone),
        writing: None,
        summary: IngestSummary { orphans, ..IngestSummary::default() },
        last_event: Instant::now(),
        last_hold: Instant::now(),
        last_lag: Instant::now(),
    };
    let done = run.until_done().await;
    // Whatever happened: a batch on its way to the zone arrives there, or its failure is told.
    let written = match run.writing.take() {
        Some(writing) => run.finish(writing).await,
        None => Ok(()),
    };
    done.and(written)?;
    run.source.release().await;
    run.summary.lag = run.last_lag().await;
    let zone = run.zone.ok_or_else(|| Error::Internal("the zone was not given back".to_owned()))?;
    Ok((zone, run.summary))
}

struct Run<'a, S: EventSource> {
    source: &'a mut S,
    options: &'a IngestOptions,
    batch: Batch<S::Ticket>,
    /// Sequences of each feed that are in the zone, or in a batch.
    seen: Vec<Ranges>,
    /// Not here while a batch is written.
    zone: Option<RawZone>,
    writing: Option<Writing<S::Ticket>>,
    summary: IngestSummary,
    last_event: Instant,
    last_hold: Instant,
    last_lag: Instant,
}

impl<S: EventSource> Run<'_, S> {
    async fn until_done(&mut self) -> Result<()> {
        let (mut ended, mut deliveries) = (false, Vec::new());
        let options = self.options;
        let age = if options.until_empty { options.batch_age.min(FLUSH_AGE) } else { options.batch_age };
        loop {
            self.meet_feeds().await?;
            if self.writing.as_ref().is_some_and(|writing| writing.task.is_finished())
                && let Some(writing) = self.writing.take()
            {
                self.finish(writing).await?;
                ended |= options.until_empty && self.is_caught_up().await?;
            }
            let stopping = ended || options.stop.load(Ordering::SeqCst);
            let idle = options.until_empty && self.last_event.elapsed() >= IDLE;
            let due = self.batch.is_full(options) || stopping || idle || self.batch.since.elapsed() >= age;
            if due && self.batch.events > 0 {
                self.write().await?;
            }
            let at_rest = self.batch.events == 0 && self.writing.is_none();
            if at_rest && (stopping || (idle && self.is_caught_up().await?)) {
                return Ok(());
            }
            self.keep_hold().await?;
            self.tell_lag().await?;
            if stopping || self.batch.is_full(options) {
                // Nothing to do until the batch before is written.
                self.wait_for_writing().await;
                continue;
            }
            let room = options.batch_events - self.batch.events;
            ended = self.source.receive(room.min(RECEIVED_AT_ONCE), TICK, &mut deliveries).await? == Flow::Ended;
            self.take(&mut deliveries).await?;
        }
    }

    /// Looks up what the zone has of feeds that are new, and lets the source begin behind that.
    async fn meet_feeds(&mut self) -> Result<()> {
        if self.source.feeds().len() == self.seen.len() {
            return Ok(());
        }
        if let Some(writing) = self.writing.take() {
            self.finish(writing).await?;
        }
        let zone =
            self.zone.as_ref().ok_or_else(|| Error::Internal("the zone is away, and nothing is written".into()))?;
        for feed in self.source.feeds().iter().skip(self.seen.len()) {
            let mut seen = Ranges::default();
            if let Some(state) = zone.source(&feed.name) {
                if let (Some(known), Some(found)) = (&state.identity, &feed.identity)
                    && known != found
                {
                    return Err(Error::input(format!(
                        "{}: the zone has events of another {} ({known}; now it is {found}): their sequences would be mixed \
                         up; take another zone",
                        zone.location(),
                        feed.name
                    )));
                }
                seen.extend(&state.ranges);
            }
            self.seen.push(seen);
        }
        self.source.resume(&self.seen).await
    }

    /// Puts what is new into the batch; acknowledges what the zone has.
    async fn take(&mut self, deliveries: &mut Vec<Delivery<S::Ticket>>) -> Result<()> {
        if deliveries.is_empty() {
            return Ok(());
        }
        self.last_event = Instant::now();
        let mut known = Vec::new();
        for delivery in deliveries.drain(..) {
            let seen = self.seen.get_mut(delivery.feed);
            let seen = seen.ok_or_else(|| Error::Internal("an event of a feed that is not known".into()))?;
            if !seen.contains(delivery.sequence) {
                seen.insert(delivery.covers_from, delivery.sequence);
                self.batch.push(delivery);
            } else if self.batch.contains(delivery.feed, delivery.sequence) {
                // Came again before it was written: acknowledged with its batch, by either ticket.
            } else {
                known.push(delivery.ticket);
            }
        }
        // One that is being written comes here too; if that fails, this run ends, and its acknowledgement must not be out.
        if self.writing.is_none() && !known.is_empty() {
            self.summary.known += known.len() as u64;
            self.source.acknowledge(known).await?;
        } else if let Some(writing) = &mut self.writing {
            self.summary.known += known.len() as u64;
            writing.tickets.append(&mut known);
        }
        Ok(())
    }

    /// Starts writing the batch, if none is being written.
    async fn write(&mut self) -> Result<()> {
        if self.zone.is_none() {
            return Ok(());
        }
        let settled = self.source.settle().await?;
        let Some(mut zone) = self.zone.take() else { return Ok(()) };
        let batch = std::mem::replace(&mut self.batch, Batch::new());
        let bytes = Bytes::from(batch.bytes);
        let mut shares = batch.feeds.into_iter();
        let mut events = Vec::new();
        for (index, (feed, seen)) in self.source.feeds().iter().zip(&mut self.seen).enumerate() {
            let Share { mut rows, mut covered } = shares.next().unwrap_or_default();
            if let Some(Some(last)) = settled.get(index).copied()
                && seen.first_absent(0).is_some_and(|absent| absent <= last)
            {
                seen.insert(0, last);
                covered.insert(0, last);
            }
            if covered.is_empty() {
                continue;
            }
            rows.sort_unstable_by_key(|row| row.sequence);
            let (source, identity) = (Arc::clone(&feed.name), feed.identity.clone());
            events.push(Events { source, identity, bytes: bytes.clone(), rows, covered });
        }
        let task = tokio::spawn(async move {
            let written = write(&mut zone, events).await;
            (zone, written)
        });
        self.writing = Some(Writing { task, tickets: batch.tickets });
        Ok(())
    }

    async fn finish(&mut self, writing: Writing<S::Ticket>) -> Result<()> {
        let (zone, written) = writing
            .task
            .await
            .map_err(|error| Error::Internal(format!("the task that writes a batch ended early: {error}")))?;
        self.zone = Some(zone);
        let written = written?;
        let summary = &mut self.summary;
        summary.events += written.events;
        summary.bytes += written.bytes;
        summary.parts += written.parts;
        summary.stored_bytes += written.stored_bytes;
        summary.batches += written.batches;
        tracing::debug!(events = written.events, parts = written.parts, "batch committed");
        self.source.acknowledge(writing.tickets).await
    }

    async fn wait_for_writing(&mut self) {
        match &mut self.writing {
            // Not longer than a tick: events may have to be held.
            Some(writing) => drop(tokio::time::timeout(TICK, finished(&writing.task)).await),
            None => tokio::task::yield_now().await,
        }
    }

    /// Tells the source, where it must be told, that events in batches are not forgotten.
    async fn keep_hold(&mut self) -> Result<()> {
        if self.source.hold_every().is_some_and(|every| self.last_hold.elapsed() >= every) {
            self.last_hold = Instant::now();
            if let Some(writing) = &self.writing {
                self.source.hold(&writing.tickets).await?;
            }
            self.source.hold(&self.batch.tickets).await?;
        }
        Ok(())
    }

    async fn tell_lag(&mut self) -> Result<()> {
        if self.last_lag.elapsed() >= LAG_EVERY {
            self.last_lag = Instant::now();
            if let Some(lag) = self.source.lag().await? {
                let (events, batches) = (self.summary.events, self.summary.batches);
                tracing::info!(events, batches, lag = lag.waiting, unacknowledged = lag.unacknowledged, "ingested");
            }
        }
        Ok(())
    }

    /// What is left at the end, given the source a moment to take the last acknowledgements in.
    async fn last_lag(&mut self) -> Option<u64> {
        let mut least = u64::MAX;
        loop {
            // All is done; a server that just went away changes nothing about it.
            let lag = self.source.lag().await.ok().flatten()?;
            if lag.unacknowledged == 0 || lag.unacknowledged >= least {
                return Some(lag.waiting + lag.unacknowledged);
            }
            least = lag.unacknowledged;
            tokio::time::sleep(2 * TICK).await;
        }
    }

    async fn is_caught_up(&mut self) -> Result<bool> {
        let lag = self.source.lag().await?;
        let done = lag.is_none_or(|lag| lag.caught_up);
        if !done {
            // Acknowledgements on their way, or events handed to a run that was killed, which come again later.
            tokio::time::sleep(TICK).await;
        }
        Ok(done)
    }
}

async fn finished<T>(task: &JoinHandle<T>) {
    while !task.is_finished() {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

async fn write(zone: &mut RawZone, events: Vec<Events>) -> Result<IngestSummary> {
    let options = zone.options();
    let sources = sources(&events);
    let parts = blocking(move || encode(&events, options.granularity, options.compression)).await?;
    let mut summary = IngestSummary::default();
    summary.add(zone.commit(parts, sources).await?);
    Ok(summary)
}
