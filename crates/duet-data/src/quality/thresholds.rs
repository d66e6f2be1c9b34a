//! The limits of a report, as a configuration file has them.

use std::collections::BTreeMap;

use duet_core::{Error, Result};
use serde::{Deserialize, Serialize};

/// Limits that a report must keep; what is not given is not checked, but for `max_quarantined_share`, `max_duplicate_share`
/// and `max_filtered_share`, which have a default. Unknown keys are errors.
///
/// ```toml
/// max_quarantined_share = 0.05
/// max_duplicate_share = 0.25
/// max_filtered_share = 0.25
/// max_late_share = 0.2
/// max_psi = 0.25
/// min_events_per_day_ratio = 0.2
/// min_rows = { users = 1000, items = 100 }
/// max_null_share = { default = 0.9, columns = { "users.age_bucket" = 0.3 } }
/// ```
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Thresholds {
    /// Lines put aside over all lines; default 0.05.
    pub max_quarantined_share: Option<f64>,
    /// Duplicates over all lines; default 0.25.
    pub max_duplicate_share: Option<f64>,
    /// Lines left out over all lines; default 0.25.
    pub max_filtered_share: Option<f64>,
    /// Late events over valid ones, kept or left out.
    pub max_late_share: Option<f64>,
    /// Rows without a value over all rows, by column.
    pub max_null_share: NullShares,
    /// The population stability index of any column against the previous run, where it exceeds chance. With this limit a
    /// column that is gone or has changed its kind fails too.
    pub max_psi: Option<f64>,
    /// Rows by table (`users`, `items`, ...).
    pub min_rows: BTreeMap<String, u64>,
    /// Kept events of a day over those of the median day of the window; a day without a line has 0. Without a window: from the
    /// first to the last day that has half as many as the median day.
    pub min_events_per_day_ratio: Option<f64>,
}

/// Limits of the share of missing values.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct NullShares {
    /// For columns without a limit of their own.
    pub default: Option<f64>,
    /// By `table.column`.
    pub columns: BTreeMap<String, f64>,
}

impl Default for Thresholds {
    fn default() -> Self {
        Self {
            max_quarantined_share: Some(0.05),
            max_duplicate_share: Some(0.25),
            max_filtered_share: Some(0.25),
            max_late_share: None,
            max_null_share: NullShares::default(),
            max_psi: None,
            min_rows: BTreeMap::new(),
            min_events_per_day_ratio: None,
        }
    }
}

impl Thresholds {
    /// No limits at all.
    pub fn none() -> Self {
        Self { max_quarantined_share: None, max_duplicate_share: None, max_filtered_share: None, ..Self::default() }
    }

    /// Checks that shares lie between 0 and 1 and the others are not negative.
    ///
    /// # Errors
    /// [`Error::Input`] naming the limit and its valid range.
    pub fn validate(&self) -> Result<()> {
        let shares = [
            ("max_quarantined_share", self.max_quarantined_share),
            ("max_duplicate_share", self.max_duplicate_share),
            ("max_filtered_share", self.max_filtered_share),
            ("max_late_share", self.max_late_share),
            ("max_null_share.default", self.max_null_share.default),
            ("min_events_per_day_ratio", self.min_events_per_day_ratio),
        ];
        for (name, share) in shares {
            within(name, share, 1.0)?;
        }
        for (column, share) in &self.max_null_share.columns {
            within(&format!("max_null_share.columns.{column:?}"), Some(*share), 1.0)?;
        }
        within("max_psi", self.max_psi, f64::MAX)
    }
}

fn within(name: &str, value: Option<f64>, largest: f64) -> Result<()> {
    match value {
        Some(value) if !(0.0..=largest).contains(&value) => {
            let valid = if largest == 1.0 { "0 to 1" } else { "a number from 0" };
            Err(Error::input(format!("quality: {name} is {value}; valid: {valid}")))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_example_is_read_and_unknown_keys_are_named() {
        let text = r#"
            max_quarantined_share = 0.05
            max_psi = 0.25
            min_rows = { users = 1000 }
            max_null_share = { default = 0.9, columns = { "users.age_bucket" = 0.3 } }
        "#;
        let thresholds: Thresholds = toml::from_str(text).unwrap();
        thresholds.validate().unwrap();
        assert_eq!((thresholds.max_psi, thresholds.max_late_share), (Some(0.25), None));
        assert_eq!(thresholds.max_duplicate_share, Some(0.25), "a default");
        assert_eq!(thresholds.max_null_share.columns["users.age_bucket"], 0.3);
        let error = toml::from_str::<Thresholds>("max_quarantine = 1").unwrap_err().to_string();
        assert!(error.contains("max_quarantine") && error.contains("max_quarantined_share"), "{error}");
    }

    #[test]
    fn impossible_limits_are_named_with_their_range() {
        let bad = Thresholds { max_late_share: Some(1.5), ..Thresholds::default() };
        let error = bad.validate().unwrap_err().to_string();
        assert_eq!(error, "quality: max_late_share is 1.5; valid: 0 to 1");
        let bad = Thresholds { max_psi: Some(f64::NAN), ..Thresholds::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("a number from 0"));
        let columns = BTreeMap::from([("users.city".to_owned(), -0.1)]);
        let bad = Thresholds { max_null_share: NullShares { default: None, columns }, ..Thresholds::default() };
        assert!(bad.validate().unwrap_err().to_string().contains("users.city"));
    }
}
