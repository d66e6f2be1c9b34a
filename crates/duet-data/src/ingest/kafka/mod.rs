//! Kafka topics as a source: every partition is a feed, an event's offset its sequence.
//!
//! * **The zone is the truth.** Each partition is read from the first offset that the zone lacks. The consumer group's offsets
//!   follow what is durable, for Kafka's own tools; nothing is read by them. A zone has one writer, so all partitions are
//!   taken, without the group's rebalances: what two ingests do to each other is decided by the zone's log.
//! * **Offsets without an event** (control records of transactions, what compaction removed) are known as such, for a partition
//!   is read in order: they are committed along with the events around them. Keys and headers are not kept; an event
//!   without a value (a tombstone) has no bytes.
//! * **What is gone is an error.** Events that retention removed before the zone had them stop the ingest, with their number
//!   ([`KafkaOptions::allow_gaps`]); so does a topic that was made anew, known by its topic id (Kafka 2.8 or later), or by
//!   offsets that it no longer has.
//! * A cluster that goes away is waited for; librdkafka connects again by itself. After the source's patience it is an error
//!   that names the servers.

mod describe;
mod options;
mod partition;
mod source;
mod trouble;

pub use options::KafkaOptions;
pub use source::KafkaSource;
