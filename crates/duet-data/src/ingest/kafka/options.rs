//! Which topics of which cluster, and how the client is set up.

use std::{fmt, path::PathBuf, time::Duration};

use duet_core::{Error, Result};
use rdkafka::{ClientConfig, error::KafkaError};

use crate::store::PATIENCE;

/// Settings that the source makes itself, for its promises rest on them, and what to use instead.
const OURS: [(&str, &str); 8] = [
    ("bootstrap.servers", "give --kafka"),
    ("metadata.broker.list", "give --kafka"),
    ("group.id", "give --group"),
    ("enable.auto.commit", "offsets are committed once their events are durable"),
    ("enable.auto.offset.store", "offsets are committed once their events are durable"),
    ("auto.offset.reset", "a new zone begins at the first event there is, any other where it ended"),
    ("enable.partition.eof", "the source does not use it"),
    ("allow.auto.create.topics", "a topic that is not there is an error"),
];

/// Bytes fetched and not taken yet, at most, in KiB.
const QUEUED_KIB: &str = "65536";

/// Which topics of which cluster.
#[derive(Clone)]
pub struct KafkaOptions {
    /// Brokers to begin with: `HOST:PORT,...`.
    pub servers: String,
    /// The topics; all of their partitions are read.
    pub topics: Vec<String>,
    /// The consumer group under which it is told how far the zone is.
    pub group: String,
    /// Settings of librdkafka, as `security.protocol` and `sasl.password`.
    pub settings: Vec<(String, String)>,
    /// Whether to go on without events that were removed from the topic before the zone had them.
    pub allow_gaps: bool,
    /// How long a cluster that is gone is waited for.
    pub patience: Duration,
}

/// Without the values of settings: some are passwords.
impl fmt::Debug for KafkaOptions {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        let settings: Vec<&str> = self.settings.iter().map(|(key, _)| key.as_str()).collect();
        formatter
            .debug_struct("KafkaOptions")
            .field("servers", &self.servers)
            .field("topics", &self.topics)
            .field("group", &self.group)
            .field("settings", &settings)
            .field("allow_gaps", &self.allow_gaps)
            .field("patience", &self.patience)
            .finish()
    }
}

impl KafkaOptions {
    /// Topics of a cluster, with the usual settings.
    pub fn new(servers: &str, topics: &[&str], group: &str) -> Self {
        Self {
            servers: servers.to_owned(),
            topics: topics.iter().map(|topic| (*topic).to_owned()).collect(),
            group: group.to_owned(),
            settings: Vec::new(),
            allow_gaps: false,
            patience: PATIENCE,
        }
    }

    /// The settings of the client.
    pub(super) fn client(&self) -> Result<ClientConfig> {
        if self.topics.is_empty() || self.topics.iter().any(String::is_empty) {
            return Err(Error::input("give the name of a topic"));
        }
        if let Some(twice) = self.topics.iter().enumerate().find(|(at, topic)| self.topics[..*at].contains(topic)) {
            return Err(Error::input(format!("topic {:?} is named twice", twice.1)));
        }
        let mut config = ClientConfig::new();
        config
            .set("client.id", "duet-ingest")
            .set("socket.keepalive.enable", "true")
            .set("reconnect.backoff.max.ms", "5000")
            .set("queued.max.messages.kbytes", QUEUED_KIB)
            .set("check.crcs", "true");
        for (key, value) in &self.settings {
            let key = key.trim();
            if let Some((_, instead)) = OURS.iter().find(|(ours, _)| *ours == key) {
                return Err(Error::input(format!("Kafka setting {key} is not to be changed: {instead}")));
            }
            if cfg!(not(feature = "kafka-tls")) && needs_tls(key, value) {
                return Err(Error::input(format!(
                    "Kafka setting {key} needs TLS, which this build of duet lacks; build it with --features kafka-tls"
                )));
            }
            config.set(key, value.trim());
        }
        config
            .set("bootstrap.servers", &self.servers)
            .set("group.id", &self.group)
            .set("enable.auto.commit", "false")
            .set("enable.auto.offset.store", "false")
            .set("auto.offset.reset", "error")
            .set("enable.partition.eof", "false")
            .set("allow.auto.create.topics", "false");
        Ok(config)
    }

    pub(super) fn failed(&self, what: impl fmt::Display) -> Error {
        let path = PathBuf::from(format!("kafka://{}", self.servers));
        Error::Io { path, source: std::io::Error::other(what.to_string()) }
    }
}

/// What librdkafka has against the settings; without their values, of which some are passwords.
pub(super) fn refused(error: &KafkaError) -> Error {
    match error {
        KafkaError::ClientConfig(_, why, key, value) if !value.is_empty() && why.contains(value) && is_secret(key) => {
            Error::input(format!("Kafka setting {key} has a value that can't be used"))
        }
        KafkaError::ClientConfig(_, why, key, _) => Error::input(format!("Kafka setting {key}: {why}")),
        KafkaError::ClientCreation(why) => Error::input(format!("the settings of Kafka don't fit together: {why}")),
        other => Error::input(format!("the settings of Kafka can't be used: {other}")),
    }
}

fn is_secret(key: &str) -> bool {
    ["password", "secret", "jaas", "key.pem", "config"].iter().any(|word| key.contains(word))
}

fn needs_tls(key: &str, value: &str) -> bool {
    let value = value.to_ascii_lowercase();
    match key {
        "security.protocol" => value.contains("ssl"),
        "sasl.mechanism" | "sasl.mechanisms" => value.contains("scram") || value.contains("oauthbearer"),
        _ => key.starts_with("ssl.") && key != "ssl.endpoint.identification.algorithm",
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn with(key: &str, value: &str) -> KafkaOptions {
        let settings = vec![(key.to_owned(), value.to_owned())];
        KafkaOptions { settings, ..KafkaOptions::new("localhost:1", &["events"], "zone") }
    }

    #[test]
    fn settings_that_promises_rest_on_stay() {
        for (key, instead) in OURS {
            let error = with(key, "x").client().unwrap_err().to_string();
            assert!(error.contains(key) && error.contains(instead), "{error}");
        }
        let config = with("fetch.wait.max.ms", "20").client().unwrap();
        assert_eq!((config.get("fetch.wait.max.ms"), config.get("enable.auto.commit")), (Some("20"), Some("false")));
        for topics in [&[][..], &[""], &["a", "b", "a"]] {
            assert!(KafkaOptions::new("localhost:1", topics, "zone").client().is_err(), "{topics:?}");
        }
    }

    #[cfg(not(feature = "kafka-tls"))]
    #[test]
    fn what_needs_tls_names_the_feature() {
        for (key, value) in
            [("security.protocol", "SASL_SSL"), ("ssl.ca.location", "ca.pem"), ("sasl.mechanisms", "SCRAM-SHA-512")]
        {
            let error = with(key, value).client().unwrap_err().to_string();
            assert!(error.contains(key) && error.contains("--features kafka-tls"), "{error}");
        }
        assert!(with("security.protocol", "sasl_plaintext").client().is_ok());
    }

    #[test]
    fn no_message_tells_a_password() {
        let options = with("sasl.password", "hunter2");
        assert!(!format!("{options:?}").contains("hunter2"));
        let native =
            |key: &str, value: &str| refused(&with(key, value).client().unwrap().create_native_config().err().unwrap());
        assert!(native("no.such.setting", "1").to_string().contains("no.such.setting"));
        assert!(native("fetch.wait.max.ms", "soon").to_string().contains("fetch.wait.max.ms"));
        let jaas = native("sasl.jaas.config", "login required password=\"hunter2\";").to_string();
        assert!(jaas.contains("sasl.jaas.config") && !jaas.contains("hunter2"), "{jaas}");
    }
}
