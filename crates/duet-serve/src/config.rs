//! `configs/serve.toml`: the settings of the service that are no secrets.
//!
//! Three layers, later ones win key by key: the compiled-in file, a config file, `--set key=value`. An unknown key is an error that
//! lists the valid ones.

use std::{
    net::{SocketAddr, ToSocketAddrs},
    path::{Path, PathBuf},
};

use duet_core::{Error, Result, layers};
use fs_err as fs;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{engine::RetrieverOptions, variants::Variants};

/// The commented default configuration.
pub const DEFAULT: &str = include_str!("../../../configs/serve.toml");

/// The recommender of a variant that is no baseline.
pub const TWO_TOWER: &str = "two-tower";

/// A resolved, validated configuration; see `configs/serve.toml` for what each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct ServeConfig {
    pub bundle: String,
    pub listen: String,
    #[serde(deserialize_with = "path_or_none", serialize_with = "path_or_empty")]
    pub user_key: Option<PathBuf>,
    pub lists: ListsConfig,
    pub engine: EngineConfig,
    pub limits: LimitsConfig,
    pub tls: TlsConfig,
    pub keys: KeysConfig,
    pub events: EventsConfig,
    pub served_log: ServedLogConfig,
    pub variants: Vec<VariantConfig>,
    pub precomputed: PrecomputedConfig,
    pub page: PageConfig,
    pub swap: SwapConfig,
    pub monitor: MonitorConfig,
}

/// `[lists]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct ListsConfig {
    pub default_k: usize,
    pub max_k: usize,
    pub exclude_seen_artists: bool,
    pub segment_column: String,
    pub precomputed_first: bool,
    pub max_per_group: usize,
    pub diversity_column: String,
    pub live_history: usize,
}

/// `[engine]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct EngineConfig {
    pub workers: usize,
    pub max_batch: usize,
    pub short_us: u64,
    pub rerank_candidates: usize,
    pub rerank_budget_ms: u64,
    pub filter_cache: usize,
    pub retriever: String,
    pub retriever_table: String,
    pub retriever_budget_ms: u64,
    pub retriever_ef_search: usize,
}

/// `[limits]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct LimitsConfig {
    pub queue: usize,
    pub deadline_ms: u64,
    pub concurrent: usize,
    pub concurrent_bodies: usize,
    pub body_kib: usize,
    pub header_kib: usize,
    pub header_timeout_s: u64,
    pub body_timeout_s: u64,
    pub filter_bytes: usize,
    pub filters: usize,
    pub connections: usize,
    pub batch: usize,
    pub history: usize,
    pub notice_s: u64,
    pub drain_s: u64,
}

/// `[tls]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct TlsConfig {
    pub certificate: String,
    pub key: String,
}

/// `[keys]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct KeysConfig {
    pub file: String,
    pub allow_anonymous: bool,
}

/// `[events]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct EventsConfig {
    pub dir: String,
    pub segment_mib: u64,
    pub segment_minutes: u64,
    pub users: usize,
}

/// `[served_log]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct ServedLogConfig {
    pub dir: String,
    pub segment_mib: u64,
    pub segment_minutes: u64,
}

/// One of `[[variants]]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct VariantConfig {
    pub name: String,
    pub share: f64,
    pub recommender: String,
    pub rerank: bool,
}

/// `[precomputed]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct PrecomputedConfig {
    pub file: String,
    pub redis: String,
    pub redis_prefix: String,
}

/// `[page]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct PageConfig {
    pub enabled: bool,
}

/// `[swap]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct SwapConfig {
    pub poll_ms: u64,
    pub self_check_users: usize,
    pub cache: String,
}

/// `[monitor]`
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/serve.toml documents every key")]
pub struct MonitorConfig {
    pub file: String,
}

fn path_or_none<'de, D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Option<PathBuf>, D::Error> {
    let text = String::deserialize(deserializer)?;
    Ok(Some(text).filter(|text| !text.is_empty()).map(PathBuf::from))
}

fn path_or_empty<S: Serializer>(path: &Option<PathBuf>, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    path.clone().unwrap_or_default().serialize(serializer)
}

impl ServeConfig {
    /// Resolves a configuration from TOML texts (each with the name used in messages) and `key=value` settings.
    ///
    /// # Errors
    /// [`Error::Input`] naming the text or setting and what would be valid.
    pub fn resolve(texts: &[(&str, &str)], settings: &[String]) -> Result<Self> {
        let config: Self = layers::resolve(("configs/serve.toml", DEFAULT), texts, settings)?;
        config.validate()?;
        Ok(config)
    }

    /// Resolves a configuration from a file, if one is given, and `key=value` settings.
    ///
    /// # Errors
    /// [`Error::Io`] with the path; [`Error::Input`] naming file or setting, and what would be valid.
    pub fn load(path: Option<&Path>, settings: &[String]) -> Result<Self> {
        let text = match path {
            Some(path) => Some((path.display().to_string(), fs::read_to_string(path).map_err(Error::io(path))?)),
            None => None,
        };
        let texts: Vec<(&str, &str)> = text.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        Self::resolve(&texts, settings)
    }

    /// The address to listen on; a host name is looked up.
    ///
    /// # Errors
    /// [`Error::Input`] naming the key.
    pub fn address(&self) -> Result<SocketAddr> {
        let bad = |why: &str| {
            Error::input(format!(
                "configuration: listen must be HOST:PORT, as in 127.0.0.1:8080, not {:?}{why}",
                self.listen
            ))
        };
        let mut found = self.listen.to_socket_addrs().map_err(|error| bad(&format!(" ({error})")))?;
        found.next().ok_or_else(|| bad(" (the name has no address)"))
    }

    /// Checks what the types don't: bounds, and settings that belong together. `Server::bind` does it again, for settings may have been
    /// changed by hand.
    ///
    /// # Errors
    /// [`Error::Input`] naming the key and what would be valid.
    pub fn validate(&self) -> Result<()> {
        let check = |ok: bool, key: &str, valid: &str| {
            if ok { Ok(()) } else { Err(Error::input(format!("configuration: {key} must be {valid}"))) }
        };
        let Self { lists, engine, limits, tls, keys, events, served_log, variants, precomputed, swap, .. } = self;
        check(!self.bundle.is_empty(), "bundle", "a directory, a link to one, or a URL like s3://bucket/prefix")?;
        check((1..=10_000).contains(&lists.max_k), "lists.max_k", "between 1 and 10000")?;
        check(
            (1..=lists.max_k).contains(&lists.default_k),
            "lists.default_k",
            &format!("between 1 and lists.max_k ({})", lists.max_k),
        )?;
        check(lists.live_history >= 1, "lists.live_history", "at least 1")?;
        check(
            lists.max_per_group == 0 || !lists.diversity_column.is_empty(),
            "lists.diversity_column",
            "a column of the items where lists.max_per_group is not 0",
        )?;
        check(engine.workers <= 4096, "engine.workers", "at most 4096")?;
        check((1..=1024).contains(&engine.max_batch), "engine.max_batch", "between 1 and 1024")?;
        check(engine.short_us <= 1_000_000, "engine.short_us", "at most 1000000")?;
        check(engine.rerank_candidates >= 1, "engine.rerank_candidates", "at least 1")?;
        RetrieverOptions::of(engine)?;
        check((1..=10_000).contains(&engine.retriever_budget_ms), "engine.retriever_budget_ms", "between 1 and 10000")?;
        check((1..=1_000).contains(&engine.retriever_ef_search), "engine.retriever_ef_search", "between 1 and 1000")?;
        for (key, value) in [
            ("limits.queue", limits.queue),
            ("limits.concurrent", limits.concurrent),
            ("limits.concurrent_bodies", limits.concurrent_bodies),
            ("limits.connections", limits.connections),
            ("limits.filter_bytes", limits.filter_bytes),
            ("limits.filters", limits.filters),
            ("limits.batch", limits.batch),
            ("limits.history", limits.history),
        ] {
            check((1..=1_000_000).contains(&value), key, "between 1 and 1000000")?;
        }
        check((1..=1 << 20).contains(&limits.body_kib), "limits.body_kib", "between 1 and 1048576")?;
        check((1..=1024).contains(&limits.header_kib), "limits.header_kib", "between 1 and 1024")?;
        for (key, value) in [
            ("limits.deadline_ms", limits.deadline_ms),
            ("limits.header_timeout_s", limits.header_timeout_s),
            ("limits.body_timeout_s", limits.body_timeout_s),
            ("events.segment_mib", events.segment_mib),
            ("events.segment_minutes", events.segment_minutes),
            ("served_log.segment_mib", served_log.segment_mib),
            ("served_log.segment_minutes", served_log.segment_minutes),
            ("swap.poll_ms", swap.poll_ms),
        ] {
            check((1..=1_000_000).contains(&value), key, "between 1 and 1000000")?;
        }
        for (key, value) in [("limits.notice_s", limits.notice_s), ("limits.drain_s", limits.drain_s)] {
            check(value <= 86_400, key, "at most 86400")?;
        }
        check(events.users >= 1, "events.users", "at least 1")?;
        check(
            tls.certificate.is_empty() == tls.key.is_empty(),
            "tls.key",
            "given with tls.certificate, and only with it",
        )?;
        Variants::check(variants)?;
        check(
            precomputed.file.is_empty() || precomputed.redis.is_empty(),
            "precomputed.redis",
            "empty where precomputed.file is given: lists come from one place",
        )?;
        let address = self.address()?;
        if keys.file.is_empty() && !keys.allow_anonymous && !address.ip().is_loopback() {
            return Err(Error::input(format!(
                "configuration: {address} can be reached from other machines, and there are no keys: whoever does may read every list \
                 and post events. Give keys.file, or say keys.allow_anonymous=true"
            )));
        }
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn resolve(text: &str, settings: &[&str]) -> Result<ServeConfig> {
        let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        ServeConfig::resolve(&[("test.toml", text)], &settings)
    }

    #[test]
    fn the_default_is_valid_and_survives_a_round_trip() {
        let config = resolve("", &[]).unwrap();
        assert_eq!((config.user_key.as_ref(), config.lists.default_k), (None, 10));
        assert_eq!(config.variants[0].recommender, TWO_TOWER);
        let text = toml::to_string(&config).unwrap();
        assert_eq!(resolve(&text, &[]).unwrap(), config);
    }

    #[test]
    fn later_layers_win() {
        let config = resolve(
            "user_key = \"user.key\"\n[limits]\nqueue = 9\n[[variants]]\nname = \"a\"\nshare = 0.5\nrecommender = \"trending\"\nrerank = false\n\
             [[variants]]\nname = \"b\"\nshare = 0.5\nrecommender = \"two-tower\"\nrerank = true",
            &["limits.queue=7", "lists.default_k=5", "listen=127.0.0.1:0"],
        )
        .unwrap();
        assert_eq!((config.limits.queue, config.lists.default_k, config.variants.len()), (7, 5, 2));
        assert_eq!(config.user_key.as_deref(), Some(Path::new("user.key")));
        assert_eq!(config.address().unwrap().port(), 0);
    }

    #[test]
    fn errors_say_what_would_be_valid() {
        let message = |text: &str, settings: &[&str]| resolve(text, settings).unwrap_err().to_string();
        let error = message("[limits]\nqueues = 3", &[]);
        assert!(
            error.contains("test.toml")
                && error.contains("limits.queues")
                && error.contains("limits.notice_s, limits.queue"),
            "{error}"
        );
        assert!(message("", &["limits.queue=many"]).contains("must be an integer"));
        assert!(message("", &["limits.queue=0"]).contains("limits.queue must be between 1"));
        assert!(message("", &["lists.default_k=101"]).contains("lists.max_k (100)"));
        assert!(message("", &["tls.key=key.pem"]).contains("tls.certificate"));
        assert!(message("", &["listen=here"]).contains("HOST:PORT"));
        assert!(message("", &["bundle="]).contains("s3://"));
        let error = message("", &["engine.retriever=http://user:secret@host/"]);
        assert!(
            error.contains("engine.retriever") && error.contains("postgres://") && !error.contains("secret"),
            "{error}"
        );
        let table = ["engine.retriever=postgres://host/db", "engine.retriever_table=a."];
        assert!(message("", &table).contains("SCHEMA.TABLE"));
        assert!(message("", &["engine.retriever_budget_ms=0"]).contains("between 1"));
        let variant = |share: &str, more: &str| {
            format!("[[variants]]\nname = \"a\"\nshare = {share}\nrecommender = \"trending\"\nrerank = false\n{more}")
        };
        assert!(message(&variant("0.5", ""), &[]).contains("add up to 0.5, not to 1"));
        assert!(message(&variant("0.5", &variant("0.5", "")), &[]).contains("twice"));
        assert!(message(&variant("1.0", "colour = 1"), &[]).contains("colour"));
        let unknown = message(&variant("1.0", "").replace("trending", "trends"), &[]);
        assert!(unknown.contains("\"trends\"") && unknown.contains("two-tower, random"), "{unknown}");
        let error = ServeConfig::load(Some(Path::new("no.toml")), &[]).unwrap_err().to_string();
        assert!(error.contains("no.toml"), "{error}");
    }

    #[test]
    fn other_machines_need_a_key_or_a_word() {
        let error = resolve("", &["listen=0.0.0.0:0"]).unwrap_err().to_string();
        assert!(error.contains("keys.allow_anonymous"), "{error}");
        resolve("", &["listen=0.0.0.0:0", "keys.allow_anonymous=true"]).unwrap();
        resolve("", &["listen=0.0.0.0:0", "keys.file=keys.toml"]).unwrap();
        resolve("", &["listen=[::1]:0"]).unwrap();
    }
}
