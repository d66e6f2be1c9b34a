//! The rows: `rows.toml`, compiled in.

use duet_core::{Error, Result};
use serde::Deserialize;

/// The name of the configuration as it is.
pub const DEFAULT_ROW: &str = "default";

/// A variant of the configuration.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Row {
    /// Its name.
    pub name: String,
    /// Settings over the configuration, `key=value`.
    pub set: Vec<String>,
    /// Draw this share of the items as uniform negatives.
    #[serde(default)]
    pub uniform_share: Option<f64>,
    /// The row that it is compared with.
    #[serde(default = "default_row")]
    pub against: String,
}

fn default_row() -> String {
    DEFAULT_ROW.to_owned()
}

impl Row {
    /// The settings for a dataset of so many items.
    pub fn settings(&self, items: u64) -> Vec<String> {
        let mut settings = self.set.clone();
        let negatives = self.uniform_share.map(|share| (share * items as f64).round() as u64);
        settings.extend(negatives.map(|count| format!("loss.uniform_negatives={count}")));
        settings
    }
}

/// All rows, in the order of the table; the first is the configuration as it is.
#[derive(Debug, Clone, PartialEq)]
pub struct Rows(Vec<Row>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    row: Vec<Row>,
}

impl Rows {
    /// The compiled-in ones.
    ///
    /// # Errors
    /// [`Error::Internal`] if they are not valid, which a test rules out.
    pub fn shipped() -> Result<Self> {
        let file: File = toml::from_str(include_str!("rows.toml"))
            .map_err(|error| Error::Internal(format!("ablate/rows.toml: {error}")))?;
        let default = Row { name: default_row(), set: Vec::new(), uniform_share: None, against: default_row() };
        Ok(Self(std::iter::once(default).chain(file.row).collect()))
    }

    /// The rows, the configuration as it is first.
    pub fn all(&self) -> &[Row] {
        &self.0
    }

    /// The places of the rows that are asked for, in the order of the table, with those that they are compared with. Nothing
    /// asked for: all.
    ///
    /// # Errors
    /// [`Error::Input`] listing the names.
    pub fn choose(&self, names: &[String]) -> Result<Vec<usize>> {
        if names.is_empty() {
            return Ok((0..self.0.len()).collect());
        }
        let mut chosen = vec![0];
        for name in names {
            let mut at = self.place(name)?;
            // The chain ends at the default, which is compared with itself.
            while !chosen.contains(&at) {
                chosen.push(at);
                at = self.place(&self.0[at].against)?;
            }
        }
        chosen.sort_unstable();
        Ok(chosen)
    }

    /// The place of a row by its name.
    ///
    /// # Errors
    /// [`Error::Input`] listing the names.
    pub fn place(&self, name: &str) -> Result<usize> {
        let found = self.0.iter().position(|row| row.name == name);
        found.ok_or_else(|| Error::unknown("row", name, self.0.iter().map(|row| row.name.as_str())))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::collections::HashSet;

    use duet_core::config::Config;

    use super::*;

    const SHIPPED: [(&str, &str); 3] = [
        ("events.toml", include_str!("../../../../configs/events.toml")),
        ("sequences.toml", include_str!("../../../../configs/sequences.toml")),
        ("sets.toml", include_str!("../../../../configs/sets.toml")),
    ];

    #[test]
    fn every_row_is_valid_for_every_kind_of_data() {
        let rows = Rows::shipped().unwrap();
        for kind in SHIPPED {
            for row in rows.all() {
                let resolved = Config::resolve(&[kind], &row.settings(1000));
                assert!(resolved.is_ok(), "{} with {}: {resolved:?}", row.name, kind.0);
            }
        }
    }

    #[test]
    fn every_row_changes_something_for_some_kind_and_has_a_name_of_its_own() {
        let rows = Rows::shipped().unwrap();
        let names: HashSet<&str> = rows.all().iter().map(|row| row.name.as_str()).collect();
        assert_eq!(names.len(), rows.all().len());
        for (at, row) in rows.all().iter().enumerate().skip(1) {
            assert!(rows.place(&row.against).unwrap() != at, "{} is compared with itself", row.name);
            // Over a configuration with another encoder too: all shipped ones have the mean.
            let changes = |base: &[String]| {
                SHIPPED.into_iter().any(|kind| {
                    let settings = [base, &row.settings(1000)].concat();
                    Config::resolve(&[kind], &settings).unwrap() != Config::resolve(&[kind], base).unwrap()
                })
            };
            let bases = [Vec::new(), vec!["model.encoder=transformer".to_owned()]];
            assert!(bases.iter().any(|base| changes(base)), "{} changes nothing anywhere", row.name);
            let safe = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-';
            assert!(row.name.chars().all(safe), "{} is a directory's name", row.name);
        }
    }

    #[test]
    fn a_choice_brings_its_counterparts() {
        let rows = Rows::shipped().unwrap();
        let names = |wanted: &[&str]| -> Vec<String> {
            let wanted: Vec<String> = wanted.iter().map(|&name| name.to_owned()).collect();
            rows.choose(&wanted).unwrap().into_iter().map(|at| rows.all()[at].name.clone()).collect()
        };
        assert_eq!(
            names(&["trend-off", "negatives-32"]),
            ["default", "sampled", "in-batch", "negatives-32", "trend-off"]
        );
        assert_eq!(names(&[]).len(), rows.all().len());
        let error = rows.choose(&["magic".to_owned()]).unwrap_err().to_string();
        assert!(error.contains("magic") && error.contains("masks-off"), "{error}");
    }

    #[test]
    fn shares_are_of_the_items() {
        let rows = Rows::shipped().unwrap();
        let row = &rows.all()[rows.place("negatives-32").unwrap()];
        assert_eq!(row.settings(1682).last().map(String::as_str), Some("loss.uniform_negatives=538"));
    }
}
