//! What ingest needs of a source: numbered sequences of events ([`Feed`]s), handed out until they are acknowledged.
//!
//! A NATS stream is one feed, a Kafka topic one a partition, standard input one. The zone keeps the events of each under the
//! feed's name, with their sequences.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use duet_core::Result;

use crate::raw::Ranges;

/// A numbered sequence of events.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Feed {
    /// The events' `source` in the zone.
    pub name: Arc<str>,
    /// What must be the same when the zone meets a feed of this name again, so that its sequences mean the same events.
    pub identity: Option<Arc<str>>,
}

/// An event as a source hands it out. Until it is acknowledged it may be handed out again.
#[derive(Debug, Clone)]
pub struct Delivery<Ticket> {
    /// Which of the source's feeds it belongs to.
    pub feed: usize,
    /// Unique within the feed, whatever happens to source and reader.
    pub sequence: u64,
    /// Sequences from this one to the event's own that no other event has or will have: its own, or the first of a gap.
    pub covers_from: u64,
    /// When the broker received it, in milliseconds since 1970-01-01 UTC.
    pub received_ms: Option<i64>,
    /// The event's bytes.
    pub payload: Bytes,
    /// What the source needs to acknowledge it.
    pub ticket: Ticket,
}

/// How a [`EventSource::receive`] ended, errors apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// More may come.
    Open,
    /// Nothing will come any more.
    Ended,
}

/// Payload bytes after which a [`EventSource::receive`] should end.
pub const RECEIVE_BYTES: usize = 8 << 20;

/// What a source still has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Lag {
    /// Events that were not handed out yet.
    pub waiting: u64,
    /// Events that were handed out, here or to an earlier run, and not acknowledged.
    pub unacknowledged: u64,
    /// Whether all that the source had when it was opened is acknowledged.
    pub caught_up: bool,
}

/// A source of events that hands them out again until they are acknowledged.
pub trait EventSource: Send {
    /// What the source needs to acknowledge an event.
    type Ticket: Send + 'static;

    /// The feeds. Their number may grow while the source is read; what is there stays as it is.
    fn feeds(&self) -> &[Feed];

    /// Says what the zone has of each feed. Called before the first event of a feed is handed out, so that a source that can
    /// choose where it begins begins behind that; again, for all feeds, when there are new ones.
    ///
    /// # Errors
    /// Those of the source; what it can't hand out any more although the zone lacks it.
    fn resume(&mut self, committed: &[Ranges]) -> impl Future<Output = Result<()>> + Send {
        let _ = committed;
        async { Ok(()) }
    }

    /// Waits for events at most so long, and appends up to `limit` of them, and not many after [`RECEIVE_BYTES`].
    ///
    /// # Errors
    /// Those of the source, after it was tried again for as long as its patience lasts.
    fn receive(
        &mut self,
        limit: usize,
        wait: Duration,
        into: &mut Vec<Delivery<Self::Ticket>>,
    ) -> impl Future<Output = Result<Flow>> + Send;

    /// Asked before all that was handed out is committed: for each feed the last sequence up to which every event was
    /// handed out now or is in the zone, where the source knows one; what is missing below it belongs to no event.
    ///
    /// # Errors
    /// [`Error::Input`](duet_core::Error::Input) if a feed is no longer what it was when it was opened.
    fn settle(&mut self) -> impl Future<Output = Result<Vec<Option<u64>>>> + Send {
        async { Ok(Vec::new()) }
    }

    /// Says that events are durable in the zone. What does not get through is handed out again, and dropped then.
    ///
    /// # Errors
    /// Those of the source.
    fn acknowledge(&mut self, tickets: Vec<Self::Ticket>) -> impl Future<Output = Result<()>> + Send;

    /// Says that events are still being worked on.
    ///
    /// # Errors
    /// Those of the source.
    fn hold(&mut self, tickets: &[Self::Ticket]) -> impl Future<Output = Result<()>> + Send;

    /// How often [`EventSource::hold`] must be called; never for nothing.
    fn hold_every(&self) -> Option<Duration>;

    /// Gives back what was taken from the source and not handed out, so that the next run has it at once. The end.
    fn release(&mut self) -> impl Future<Output = ()> + Send;

    /// What the source still has, where it can tell.
    ///
    /// # Errors
    /// Those of the source.
    fn lag(&mut self) -> impl Future<Output = Result<Option<Lag>>> + Send;
}
