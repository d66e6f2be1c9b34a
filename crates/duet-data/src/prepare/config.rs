//! `configs/prepare.toml`: the settings of `prepare` that are no places and no secrets.

use std::path::Path;

use duet_core::{Error, Result, layers};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use super::{
    fate::RateLimits,
    options::{HeldOut, PrepareOptions, Strengths},
};
use crate::{
    accounts::{AccountColumns, TableName},
    quality::Thresholds,
};

/// The commented default configuration.
const DEFAULT: &str = include_str!("../../../../configs/prepare.toml");

/// A resolved configuration; see `configs/prepare.toml` for what each key means.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/prepare.toml documents every key")]
pub struct PrepareConfig {
    pub privacy: PrivacyConfig,
    pub accounts: AccountsConfig,
    pub split: SplitConfig,
    pub strengths: Strengths,
    pub rate_limits: RateLimits,
    pub quality: QualityConfig,
    pub engine: EngineConfig,
}

/// `[privacy]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/prepare.toml documents every key")]
pub struct PrivacyConfig {
    pub age_edges: Vec<u32>,
    pub min_users_per_place: usize,
}

/// `[accounts]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/prepare.toml documents every key")]
pub struct AccountsConfig {
    pub table: String,
    pub user_id: String,
    pub age: String,
    pub birth_date: String,
    pub gender: String,
    pub lat: String,
    pub lon: String,
    pub country: String,
    pub created_at: String,
}

/// `[split]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/prepare.toml documents every key")]
pub struct SplitConfig {
    pub held_out: String,
    pub gap_days: u32,
    pub new_artists_only: bool,
    pub new_songs_only: bool,
}

/// `[quality]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/prepare.toml documents every key")]
pub struct QualityConfig {
    pub max_quarantined_share: f64,
    pub max_duplicate_share: f64,
    pub max_filtered_share: f64,
    pub max_late_share: f64,
    pub max_null_share: f64,
    pub max_psi: f64,
    pub min_events_per_day_ratio: f64,
}

/// `[engine]`
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
#[expect(missing_docs, reason = "configs/prepare.toml documents every key")]
pub struct EngineConfig {
    pub memory_mib: usize,
}

impl PrepareConfig {
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
        layers::resolve(("configs/prepare.toml", DEFAULT), &texts, settings)
    }

    /// The table with the accounts and its columns.
    ///
    /// # Errors
    /// [`Error::Input`] for a table name that is none, or columns that don't go together.
    pub fn account_table(&self) -> Result<(TableName, AccountColumns)> {
        let config = &self.accounts;
        let column = |name: &str| Some(name.to_owned()).filter(|name| !name.is_empty());
        let columns = AccountColumns {
            user_id: config.user_id.clone(),
            age: column(&config.age),
            birth_date: column(&config.birth_date),
            gender: column(&config.gender),
            lat: column(&config.lat),
            lon: column(&config.lon),
            country: column(&config.country),
            created_at: column(&config.created_at),
        };
        Ok((config.table.parse()?, columns))
    }

    /// Puts the settings into `options`.
    ///
    /// # Errors
    /// [`Error::Input`] naming the key that is not what it must be.
    pub fn apply(&self, options: &mut PrepareOptions) -> Result<()> {
        options.age_edges.clone_from(&self.privacy.age_edges);
        options.min_users_per_place = self.privacy.min_users_per_place;
        options.held_out = HeldOut::parse(&self.split.held_out)?;
        options.gap_days = self.split.gap_days;
        options.new_artists_only = self.split.new_artists_only;
        options.new_songs_only = self.split.new_songs_only;
        options.strengths = self.strengths;
        options.rate_limits = self.rate_limits;
        let quality = &self.quality;
        let share = |limit: f64| Some(limit).filter(|limit| *limit != 1.0);
        let above_zero = |limit: f64| Some(limit).filter(|limit| *limit != 0.0);
        options.thresholds = Thresholds {
            max_quarantined_share: share(quality.max_quarantined_share),
            max_duplicate_share: share(quality.max_duplicate_share),
            max_filtered_share: share(quality.max_filtered_share),
            max_late_share: share(quality.max_late_share),
            max_psi: above_zero(quality.max_psi),
            min_events_per_day_ratio: above_zero(quality.min_events_per_day_ratio),
            ..Thresholds::default()
        };
        options.thresholds.max_null_share.default = share(quality.max_null_share);
        options.thresholds.validate()?;
        options.memory_bytes = self.engine.memory_mib << 20;
        Ok(())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn settings_change_what_they_name_and_errors_list_what_is_valid() {
        let settings = |text: &str| vec![text.to_owned()];
        let config = PrepareConfig::load(None, &settings("split.held_out=from:2025-05-01")).unwrap();
        assert_eq!(HeldOut::parse(&config.split.held_out).unwrap(), HeldOut::From("2025-05-01".parse().unwrap()));
        assert!(config.split.new_artists_only && !config.split.new_songs_only);
        let error = PrepareConfig::load(None, &settings("privacy.edges=[1]")).unwrap_err().to_string();
        assert!(error.contains("privacy.edges") && error.contains("privacy.age_edges"), "{error}");
        let error = PrepareConfig::load(Some(Path::new("no.toml")), &[]).unwrap_err().to_string();
        assert!(error.contains("no.toml"), "{error}");
    }
}
