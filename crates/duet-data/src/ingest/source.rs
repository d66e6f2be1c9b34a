//! What ingest needs of a source. NATS JetStream and standard input are such; Kafka would be: an offset is a sequence, a
//! partition a source, a committed offset an acknowledgement.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use duet_core::Result;

/// An event as a source hands it out. Until it is acknowledged it may be handed out again.
#[derive(Debug, Clone)]
pub struct Delivery<Ticket> {
    /// Unique within the source, whatever happens to source and reader.
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

    /// The events' `source` in the zone.
    fn name(&self) -> Arc<str>;

    /// What must be the same when the zone meets a source of this name again, so that its sequences mean the same events.
    fn identity(&self) -> Option<Arc<str>>;

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
