//! A whole ingest in one call, for callers without a runtime.

use std::path::PathBuf;

use duet_core::{Error, Result};

use super::{FilesOptions, IngestOptions, IngestSummary, LineSource, NatsOptions, NatsSource, ingest, ingest_files};
#[cfg(feature = "kafka")]
use super::{KafkaOptions, KafkaSource};
use crate::{
    raw::{RawZone, ZoneOptions},
    store::Location,
};

/// Where events come from.
#[derive(Debug, Clone)]
pub enum Origin {
    /// A NATS JetStream stream.
    Nats(NatsOptions),
    /// Kafka topics.
    #[cfg(feature = "kafka")]
    Kafka(KafkaOptions),
    /// A file of JSON lines, or a directory of such.
    Files(PathBuf),
    /// Standard input.
    Stdin,
}

/// Ingests into the zone at a place, which is made if it is not there. Blocks; not to be called within a runtime.
///
/// # Errors
/// Those of [`Location::parse`], [`RawZone::create_or_open`], [`ingest`] and [`ingest_files`].
pub fn run(from: &Origin, to: &Location, zone: ZoneOptions, options: &IngestOptions) -> Result<IngestSummary> {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let runtime = runtime.map_err(|error| Error::Internal(format!("no runtime: {error}")))?;
    let summary = runtime.block_on(async {
        let mut zone = RawZone::create_or_open(to.clone(), zone).await?;
        match from {
            Origin::Nats(nats) => {
                let mut source = NatsSource::open(nats.clone()).await?;
                Ok(ingest(&mut source, zone, options).await?.1)
            }
            #[cfg(feature = "kafka")]
            Origin::Kafka(kafka) => {
                let mut source = KafkaSource::open(kafka.clone()).await?;
                Ok(ingest(&mut source, zone, options).await?.1)
            }
            Origin::Stdin => Ok(ingest(&mut LineSource::stdin(), zone, options).await?.1),
            Origin::Files(path) => {
                let options = FilesOptions { batch_bytes: options.batch_bytes, stop: options.stop.clone() };
                ingest_files(path, &mut zone, &options).await
            }
        }
    });
    // A thread that waits for standard input would keep the runtime, and with it the process.
    runtime.shutdown_background();
    summary
}
