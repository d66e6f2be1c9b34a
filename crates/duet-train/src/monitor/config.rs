//! `configs/monitor.toml`: the settings of `monitor` that are no places.

use std::path::Path;

use duet_core::{Error, Result, layers};
use fs_err as fs;
use serde::{Deserialize, Serialize};

/// The commented default configuration.
const DEFAULT: &str = include_str!("../../../../configs/monitor.toml");

/// A resolved configuration; see `configs/monitor.toml` for what each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/monitor.toml documents every key")]
pub struct MonitorConfig {
    pub slices: SlicesConfig,
    pub watch: WatchConfig,
    pub drift: DriftConfig,
    pub over_fit: OverFitConfig,
    pub webhook: WebhookConfig,
}

/// `[slices]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/monitor.toml documents every key")]
pub struct SlicesConfig {
    pub columns: Vec<String>,
    pub min_users: usize,
    pub max_values: usize,
    pub positions: usize,
    pub churn_days: Vec<u32>,
}

/// `[watch]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/monitor.toml documents every key")]
pub struct WatchConfig {
    pub control: String,
    pub alpha: f64,
    pub windows: Vec<u32>,
    pub reference_days: u32,
    pub variant_tolerance: f64,
    pub past_tolerance: f64,
    pub min_users: usize,
}

/// `[drift]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/monitor.toml documents every key")]
pub struct DriftConfig {
    pub max_psi: f64,
    pub min_users: usize,
    pub score_users: usize,
    pub alarm: bool,
}

/// `[over_fit]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/monitor.toml documents every key")]
pub struct OverFitConfig {
    pub max_gap: f64,
}

/// `[webhook]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/monitor.toml documents every key")]
pub struct WebhookConfig {
    pub timeout_s: u64,
}

impl MonitorConfig {
    /// The defaults, what `file` changes in them, and what `settings` (`key=value`) change in that.
    ///
    /// # Errors
    /// [`Error::Input`] naming the key; [`Error::Io`] where the file can't be read.
    pub fn resolve(file: Option<&Path>, settings: &[String]) -> Result<Self> {
        let text = match file {
            Some(path) => Some((path.display().to_string(), fs::read_to_string(path).map_err(Error::io(path))?)),
            None => None,
        };
        let texts: Vec<(&str, &str)> = text.iter().map(|(name, text)| (name.as_str(), text.as_str())).collect();
        let config: Self = layers::resolve(("configs/monitor.toml", DEFAULT), &texts, settings)?;
        config.validate()?;
        Ok(config)
    }

    /// Checks every value.
    ///
    /// # Errors
    /// [`Error::Input`] naming the key and what would be valid.
    pub fn validate(&self) -> Result<()> {
        let Self { slices, watch, drift, over_fit, webhook } = self;
        let check = |ok: bool, key: &str, valid: &str| {
            if ok { Ok(()) } else { Err(Error::input(format!("configuration: {key} must be {valid}"))) }
        };
        let tolerance = |value: f64| (0.0..1.0).contains(&value);
        let are_days = |days: &[u32]| {
            !days.is_empty() && days.iter().all(|days| (1..=365).contains(days)) && days.is_sorted_by(|a, b| a < b)
        };
        let days = "days between 1 and 365, at least one, the lesser first";
        check(slices.min_users >= 1, "slices.min_users", "at least 1")?;
        check(slices.max_values >= 1, "slices.max_values", "at least 1")?;
        check((1..=1000).contains(&slices.positions), "slices.positions", "between 1 and 1000")?;
        check(are_days(&slices.churn_days), "slices.churn_days", days)?;
        check(watch.alpha > 0.0 && watch.alpha < 1.0, "watch.alpha", "above 0 and below 1")?;
        check(are_days(&watch.windows), "watch.windows", days)?;
        check((1..=3650).contains(&watch.reference_days), "watch.reference_days", "between 1 and 3650")?;
        check(tolerance(watch.variant_tolerance), "watch.variant_tolerance", "at least 0 and below 1")?;
        check(tolerance(watch.past_tolerance), "watch.past_tolerance", "at least 0 and below 1")?;
        check(watch.min_users >= 2, "watch.min_users", "at least 2")?;
        check(drift.max_psi.is_finite() && drift.max_psi > 0.0, "drift.max_psi", "positive")?;
        check(drift.min_users >= 1, "drift.min_users", "at least 1")?;
        check((0.0..=1.0).contains(&over_fit.max_gap), "over_fit.max_gap", "between 0 and 1")?;
        check((1..=600).contains(&webhook.timeout_s), "webhook.timeout_s", "between 1 and 600")
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn set(setting: &str) -> Result<MonitorConfig> {
        MonitorConfig::resolve(None, &[setting.to_owned()])
    }

    #[test]
    fn defaults_are_valid_and_keys_are_checked() {
        let config = MonitorConfig::resolve(None, &[]).unwrap();
        assert_eq!((config.watch.alpha, config.slices.churn_days.as_slice()), (0.05, [7, 14].as_slice()));
        assert_eq!(set("watch.alpha=0.01").unwrap().watch.alpha, 0.01);
        let error = set("watch.alhpa=0.01").unwrap_err().to_string();
        assert!(error.contains("watch.alhpa") && error.contains("watch.alpha"), "{error}");
        for setting in ["watch.alpha=0", "watch.windows=[]", "watch.windows=[14, 3]", "slices.positions=0"] {
            let key = setting.split('=').next().unwrap();
            assert!(set(setting).unwrap_err().to_string().contains(key), "{setting}");
        }
    }
}
