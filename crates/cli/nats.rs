//! The flags of a NATS JetStream stream, the same wherever events are taken from one.

use std::{path::PathBuf, time::Duration};

use clap::Args;
use duet_data::ingest::NatsOptions;

use crate::values;

/// A stream, and who reads it.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "NATS")]
pub(crate) struct NatsArgs {
    /// The JetStream stream.
    #[arg(long, value_name = "STREAM")]
    pub(crate) stream: Option<String>,
    /// The server.
    #[arg(long, env = "NATS_URL", default_value = "nats://127.0.0.1:4222", hide_env_values = true, value_name = "URL")]
    nats: String,
    /// A credentials file, as NATS's own tools use them.
    #[arg(long, value_name = "FILE", requires = "stream")]
    credentials: Option<PathBuf>,
    /// Only events of this subject of the stream.
    #[arg(long, value_name = "SUBJECT", requires = "stream")]
    subject: Option<String>,
    /// Name of the durable consumer; each zone needs one of its own.
    #[arg(long, default_value = "duet-ingest", value_name = "NAME", requires = "stream")]
    consumer: String,
    /// How long a server or store that is gone is waited for.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = values::duration)]
    pub(crate) patience: Duration,
}

impl NatsArgs {
    /// How the stream is read, where one is named.
    pub(crate) fn options(&self) -> Option<NatsOptions> {
        self.stream.as_ref().map(|stream| NatsOptions {
            credentials: self.credentials.clone(),
            subject: self.subject.clone(),
            patience: self.patience,
            ..NatsOptions::new(&self.nats, stream, &self.consumer)
        })
    }
}
