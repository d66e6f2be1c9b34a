//! `duet ingest`.

use std::{
    io::Write,
    path::PathBuf,
    time::{Duration, Instant},
};

use anyhow::Result;
use clap::{Args, ValueEnum};
use duet_core::Error;
use duet_data::{
    ingest::{IngestOptions, IngestSummary, NatsOptions, Origin, run as ingest},
    raw::{Granularity, ZoneOptions},
    store::Location,
};

use crate::{
    Outcome, interrupt,
    kafka::KafkaArgs,
    nats::NatsArgs,
    values::{self, grouped},
};

/// Land events, unchanged and each exactly once, in a raw zone: a directory or a bucket.
///
/// From a live stream it runs until it is stopped (Ctrl-C or SIGTERM: what was taken is committed first), or with --until-empty
/// until it has caught up. An event is acknowledged once it is durable; after a kill the next run goes on where the zone
/// is. A server or store that goes away is tried again for --patience.
#[derive(Debug, Clone, Args)]
pub(crate) struct IngestArgs {
    /// The zone: a directory, s3://BUCKET/PREFIX, gs://BUCKET/PREFIX or az://CONTAINER/PREFIX. Credentials and endpoint
    /// come from the variables AWS_*, GOOGLE_* and AZURE_*. Made if it is not there.
    #[arg(long, value_name = "URL")]
    to: String,
    /// Where the events come from.
    #[arg(long, value_enum, default_value_t = Source::Nats, value_name = "SOURCE")]
    from: Source,
    /// Zones by hour are for good, zones by day for staging.
    #[arg(long, value_enum, default_value_t = Partition::Hour, value_name = "PERIOD")]
    partition: Partition,
    /// With --from files: a file of JSON lines, or a directory searched for *.jsonl, *.ndjson and *.json.
    #[arg(long, value_name = "PATH", required_if_eq("from", "files"))]
    files: Option<PathBuf>,
    #[command(flatten)]
    nats: NatsArgs,
    /// Make the stream, for --subject, if it is not there.
    #[arg(long, requires = "subject", help_heading = "NATS")]
    create_stream: bool,
    /// Stop when all that the stream had at the start is in the zone.
    #[arg(long, visible_alias = "once", help_heading = "NATS")]
    until_empty: bool,
    /// How long the server waits for an acknowledgement before it sends an event again.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = values::duration, help_heading = "NATS")]
    ack_wait: Duration,
    /// Events that may be on their way at most: the server stops there until some are committed.
    #[arg(long, default_value_t = 500_000, value_name = "N", value_parser = at_least_two, help_heading = "NATS")]
    max_unacknowledged: usize,
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Commit a batch when it has so many MiB of events.
    #[arg(long, default_value_t = 64, value_name = "MIB", value_parser = clap::value_parser!(u32).range(1..=1024), help_heading = "Batches")]
    batch_size: u32,
    /// Commit a batch when its first event has waited so long.
    #[arg(long, default_value = "30s", value_name = "TIME", value_parser = values::duration, help_heading = "Batches")]
    batch_age: Duration,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Source {
    /// A NATS JetStream stream.
    Nats,
    /// Kafka topics; --topic alone says so too.
    #[cfg(feature = "kafka")]
    Kafka,
    /// Files of JSON lines; lines that the zone has are not copied again.
    Files,
    /// Standard input, a line an event.
    Stdin,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Partition {
    /// A part for each hour (UTC) of a batch.
    Hour,
    /// A part for each day (UTC) of a batch.
    Day,
}

fn at_least_two(text: &str) -> Result<usize, String> {
    text.parse().ok().filter(|number| *number >= 2).ok_or_else(|| "expected a whole number of at least 2".to_owned())
}

impl IngestArgs {
    fn source(&self) -> Result<Origin> {
        let kafka = self.kafka.origin(self.nats.patience)?;
        Ok(match (self.from, &self.files, kafka, self.nats.options()) {
            (Source::Files, Some(path), None, _) => Origin::Files(path.clone()),
            (Source::Stdin, _, None, _) => Origin::Stdin,
            (Source::Files | Source::Stdin, _, Some(_), _) => {
                return Err(Error::input("--topic names a source, and --from another one").into());
            }
            (_, _, Some(kafka), _) => kafka,
            (Source::Nats, _, None, Some(options)) => Origin::Nats(NatsOptions {
                create_stream: self.create_stream,
                ack_wait: self.ack_wait,
                max_unacknowledged: self.max_unacknowledged,
                ..options
            }),
            #[cfg(feature = "kafka")]
            (Source::Kafka, ..) => return Err(Error::input("--from kafka needs --topic").into()),
            #[cfg(feature = "kafka")]
            _ => {
                return Err(
                    Error::input("give --stream, or --topic, or --from files with --files, or --from stdin").into()
                );
            }
            #[cfg(not(feature = "kafka"))]
            _ => return Err(Error::input("give --stream, or --from files with --files, or --from stdin").into()),
        })
    }
}

pub(crate) fn run(args: &IngestArgs, out: &mut dyn Write) -> Result<Outcome> {
    let started = Instant::now();
    let granularity = match args.partition {
        Partition::Hour => Granularity::Hour,
        Partition::Day => Granularity::Day,
    };
    let zone = ZoneOptions { granularity, ..ZoneOptions::default() };
    let to = Location::parse_with(&args.to, &[], args.nats.patience)?;
    let options = IngestOptions {
        batch_bytes: (args.batch_size as usize) << 20,
        batch_age: args.batch_age,
        // Two batches are on their way: one fills while the other is written.
        batch_events: args.max_unacknowledged / 2,
        until_empty: args.until_empty,
        stop: interrupt::stop_flag(),
    };
    let summary = ingest(&args.source()?, &to, zone, &options)?;
    writeln!(out, "{to}: {}, in {:.1} s", describe(&summary), started.elapsed().as_secs_f64())?;
    Ok(Outcome::Done)
}

/// What came in, in one phrase.
fn describe(summary: &IngestSummary) -> String {
    let megabytes = |bytes: u64| bytes as f64 / 1e6;
    let mut text = format!(
        "{} events ({:.1} MB) in {} parts ({:.1} MB) of {} batches",
        grouped(summary.events),
        megabytes(summary.bytes),
        grouped(summary.parts),
        megabytes(summary.stored_bytes),
        grouped(summary.batches)
    );
    if summary.known > 0 {
        text.push_str(&format!(", {} were there already", grouped(summary.known)));
    }
    if summary.orphans > 0 {
        text.push_str(&format!(", {} parts of an interrupted run removed", grouped(summary.orphans)));
    }
    if let Some(lag) = summary.lag {
        text.push_str(&format!("; lag {}", grouped(lag)));
    }
    text
}
