//! The flags of Kafka topics, the same wherever events are taken from some. A build without Kafka knows the flags too, to say
//! what it lacks; its help leaves them out.

#[cfg(feature = "kafka")]
pub(crate) use with::KafkaArgs;
#[cfg(not(feature = "kafka"))]
pub(crate) use without::KafkaArgs;

#[cfg(feature = "kafka")]
mod with {
    use std::{path::PathBuf, time::Duration};

    use clap::Args;
    use duet_core::{Error, Result};
    use duet_data::ingest::{KafkaOptions, Origin};

    use crate::values;

    /// Topics, and who reads them.
    #[derive(Debug, Clone, Args)]
    #[command(next_help_heading = "Kafka")]
    pub(crate) struct KafkaArgs {
        /// The topics; this makes Kafka the source. Each partition is read from where the zone ends, or, for a new zone, from
        /// its first event. One ingest reads all of them, for a zone has one writer: of two ingests into a zone one ends
        /// with an error, and nothing is lost or doubled.
        #[arg(long = "topic", value_name = "TOPIC,...", value_delimiter = ',', conflicts_with = "stream")]
        topics: Vec<String>,
        /// Brokers to begin with.
        #[arg(
            long,
            env = "KAFKA_BOOTSTRAP_SERVERS",
            default_value = "127.0.0.1:9092",
            hide_env_values = true,
            value_name = "HOST:PORT,..."
        )]
        kafka: String,
        /// Consumer group that is told how far the zone is, so that Kafka's tools show the lag. The zone decides where to
        /// begin, not the group. Each zone needs one of its own.
        #[arg(long, default_value = "duet-ingest", value_name = "NAME", requires = "topics")]
        group: String,
        /// A file of librdkafka's settings, a line each: security.protocol=sasl_ssl, sasl.username=..., # for comments.
        #[arg(long, value_name = "FILE", requires = "topics")]
        kafka_config: Option<PathBuf>,
        /// Change one of librdkafka's settings. Passwords are better in --kafka-config: everybody sees the command line.
        #[arg(long, value_name = "KEY=VALUE", value_parser = values::setting, requires = "topics")]
        kafka_set: Vec<String>,
        /// Go on without events that were removed from a topic (retention) before the zone had them. Otherwise that is an
        /// error that says how many.
        #[arg(long, requires = "topics")]
        allow_gaps: bool,
    }

    impl KafkaArgs {
        /// How the topics are read, where some are named.
        pub(crate) fn origin(&self, patience: Duration) -> Result<Option<Origin>> {
            if self.topics.is_empty() {
                return Ok(None);
            }
            let mut settings = Vec::new();
            if let Some(file) = &self.kafka_config {
                let text = fs_err::read_to_string(file).map_err(Error::io(file))?;
                for (line, row) in text.lines().map(str::trim).zip(1..) {
                    if line.is_empty() || line.starts_with('#') {
                        continue;
                    }
                    let pair = pair(line).ok_or_else(|| Error::data_row(file, row, "expected KEY=VALUE"))?;
                    settings.push(pair);
                }
            }
            settings.extend(self.kafka_set.iter().filter_map(|setting| pair(setting)));
            let topics: Vec<&str> = self.topics.iter().map(|topic| topic.trim()).collect();
            Ok(Some(Origin::Kafka(KafkaOptions {
                settings,
                allow_gaps: self.allow_gaps,
                patience,
                ..KafkaOptions::new(&self.kafka, &topics, &self.group)
            })))
        }
    }

    fn pair(text: &str) -> Option<(String, String)> {
        let (key, value) = text.split_once('=')?;
        let pair = (key.trim().to_owned(), value.trim().to_owned());
        (!pair.0.is_empty()).then_some(pair)
    }
}

#[cfg(not(feature = "kafka"))]
mod without {
    use std::time::Duration;

    use clap::Args;
    use duet_core::{Error, Result};
    use duet_data::ingest::Origin;

    /// What asks for Kafka.
    #[derive(Debug, Clone, Args)]
    pub(crate) struct KafkaArgs {
        #[arg(long = "topic", hide = true)]
        topics: Vec<String>,
        #[arg(long, hide = true)]
        kafka: Option<String>,
    }

    impl KafkaArgs {
        /// Nothing, or what the build lacks.
        pub(crate) fn origin(&self, _: Duration) -> Result<Option<Origin>> {
            if self.topics.is_empty() && self.kafka.is_none() {
                return Ok(None);
            }
            Err(Error::input(
                "this build of duet lacks Kafka: build it with `cargo build --release --locked --features kafka`",
            ))
        }
    }
}
