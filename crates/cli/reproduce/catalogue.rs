//! What can be reproduced: `published.toml`, compiled in. Sets, their files, protocols, and published figures with their sources.

use std::{collections::BTreeMap, path::Path};

use duet_core::{Error, Result};
use duet_retrieval::metrics::Metric;
use duet_train::evaluate::Table;
use serde::Deserialize;

/// The names, in the order of `published.toml`.
pub(super) const NAMES: [&str; 5] = ["ml-1m-loo", "gowalla", "yelp2018", "amazon-book", "hetrec-lastfm"];

/// All of it.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Catalogue {
    /// Where figures were read, by the key that figures name.
    pub(super) sources: BTreeMap<String, Source>,
    #[serde(rename = "set")]
    pub(super) sets: Vec<Set>,
}

/// Where figures were read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Source {
    title: String,
    address: String,
    /// File, revision and table.
    place: String,
}

/// A public set with a protocol.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Set {
    pub(super) name: String,
    pub(super) title: String,
    pub(super) form: Form,
    /// What the publisher allows.
    pub(super) terms: String,
    pub(super) protocol: String,
    /// The columns of the table, e.g. `ndcg@20`.
    pub(super) metrics: Vec<String>,
    /// The files it is published as.
    pub(super) files: Vec<FileNeed>,
    /// Files that serve in their place, all of them together: a ready split.
    #[serde(default)]
    pub(super) instead: Vec<FileNeed>,
    #[serde(default)]
    pub(super) published: Vec<Figure>,
}

/// The form of a set's files.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
pub(super) enum Form {
    /// `user::item::rating::seconds`.
    #[serde(rename = "movielens-1m")]
    MovieLens1m,
    /// `user item item ...` a line, training and test apart.
    #[serde(rename = "lightgcn")]
    LightGcn,
    /// Tabs, a header, play counts.
    #[serde(rename = "hetrec")]
    HetRec,
}

/// A file that is read.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct FileNeed {
    /// The name it is published under.
    pub(super) name: String,
    /// Where it is published.
    pub(super) from: String,
    /// What a line looks like.
    pub(super) layout: String,
}

/// A published figure.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Figure {
    pub(super) model: String,
    /// Whom the source credits with it.
    #[serde(default)]
    pub(super) paper: Option<String>,
    pub(super) metric: Metric,
    pub(super) k: usize,
    pub(super) value: f64,
    /// A key of [`Catalogue::sources`].
    pub(super) source: String,
}

impl Catalogue {
    /// The compiled-in one.
    ///
    /// # Errors
    /// [`Error::Internal`] if it is no valid TOML, which a test rules out.
    pub(super) fn shipped() -> Result<Self> {
        toml::from_str(include_str!("published.toml"))
            .map_err(|error| Error::Internal(format!("published.toml: {error}")))
    }

    /// The set of that name.
    ///
    /// # Errors
    /// [`Error::Input`] listing the names.
    pub(super) fn set(&self, name: &str) -> Result<&Set> {
        let found = self.sets.iter().find(|set| set.name == name);
        found.ok_or_else(|| Error::unknown("name", name, self.sets.iter().map(|set| set.name.as_str())))
    }

    /// A source in words: title, place and address.
    pub(super) fn source(&self, key: &str) -> String {
        match self.sources.get(key) {
            Some(Source { title, address, place }) => format!("{title}; {place}; {address}"),
            None => key.to_owned(),
        }
    }

    /// Names, files, terms, protocols and published rows, to read.
    pub(super) fn to_text(&self) -> String {
        self.sets.iter().map(|set| self.describe(set)).collect::<Vec<_>>().join("\n")
    }

    fn describe(&self, set: &Set) -> String {
        let mut text = format!("{}: {}\n\nFiles:\n{}", set.name, set.title, list(&set.files));
        if !set.instead.is_empty() {
            text += &format!("or\n{}", list(&set.instead));
        }
        text += &format!("Terms: {}.\nProtocol: {}\n", set.terms, set.protocol);
        if set.published.is_empty() {
            return text;
        }
        let header = Table::new().text("published");
        let mut table = set.metrics.iter().fold(header, |table, metric| table.number(heading(metric))).text("source");
        let rows = set.rows();
        for row in &rows {
            let cells = set.metrics.iter().map(|metric| row.value(metric).map_or_else(String::new, digits));
            table.push(std::iter::once(row.name()).chain(cells).chain([row.source.to_owned()]));
        }
        text += &format!("\n{}\n", table.to_text());
        for key in self.sources.keys().filter(|key| rows.iter().any(|row| row.source == key.as_str())) {
            text += &format!("{key}: {}\n", self.source(key));
        }
        text
    }
}

/// The published figures of one model from one source.
#[derive(Debug, Clone)]
pub(super) struct PublishedRow<'a> {
    model: &'a str,
    paper: Option<&'a str>,
    /// A key of [`Catalogue::sources`].
    pub(super) source: &'a str,
    /// The metric's column name, and the value.
    pub(super) values: Vec<(String, f64)>,
}

impl PublishedRow<'_> {
    /// The model, with whom the source credits.
    pub(super) fn name(&self) -> String {
        match self.paper {
            Some(paper) => format!("{} ({paper})", self.model),
            None => self.model.to_owned(),
        }
    }

    fn value(&self, metric: &str) -> Option<f64> {
        self.values.iter().find(|(name, _)| name == metric).map(|(_, value)| *value)
    }
}

impl Set {
    /// The published figures by model and source, in the order of the file.
    pub(super) fn rows(&self) -> Vec<PublishedRow<'_>> {
        let mut rows: Vec<PublishedRow<'_>> = Vec::new();
        for figure in &self.published {
            let value = (figure.metric.at(figure.k), figure.value);
            match rows.iter_mut().find(|row| row.model == figure.model && row.source == figure.source) {
                Some(row) => row.values.push(value),
                None => rows.push(PublishedRow {
                    model: &figure.model,
                    paper: figure.paper.as_deref(),
                    source: &figure.source,
                    values: vec![value],
                }),
            }
        }
        rows
    }

    /// What it wants and where that is published, for messages.
    pub(super) fn wants(&self, dir: Option<&Path>) -> String {
        let place = dir.map_or_else(|| "a directory for --files".to_owned(), |dir| dir.display().to_string());
        let mut text = format!("{} needs in {place}:\n{}", self.name, list(&self.files));
        if !self.instead.is_empty() {
            text += &format!("or\n{}", list(&self.instead));
        }
        text + &format!("Nothing is downloaded. Terms: {}.", self.terms)
    }
}

/// A line a file.
pub(super) fn list<'a>(needs: impl IntoIterator<Item = &'a FileNeed>) -> String {
    let line = |need: &FileNeed| format!("  {} ({}) from {}\n", need.name, need.layout, need.from);
    needs.into_iter().map(line).collect()
}

/// A metric's column name as it is read, e.g. `NDCG@20`.
pub(super) fn heading(metric: &str) -> String {
    match metric.split_once('@') {
        Some(("ndcg", k)) => format!("NDCG@{k}"),
        Some(("recall", k)) => format!("Recall@{k}"),
        Some(("hit_rate", k)) => format!("HR@{k}"),
        _ => metric.to_owned(),
    }
}

/// A figure as the field prints it.
pub(super) fn digits(value: f64) -> String {
    format!("{value:.4}")
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn every_figure_has_value_metric_cut_off_and_source() {
        let catalogue = Catalogue::shipped().unwrap();
        let names: Vec<&str> = catalogue.sets.iter().map(|set| set.name.as_str()).collect();
        assert_eq!(names, NAMES);
        for set in &catalogue.sets {
            assert!(!set.files.is_empty() && !set.terms.is_empty() && !set.protocol.is_empty(), "{}", set.name);
            assert!(set.files.iter().all(|need| need.from.starts_with("https://") && !need.layout.is_empty()));
            for figure in &set.published {
                let Figure { model, metric, k, value, source, .. } = figure;
                assert!(*value > 0.0 && *value < 1.0 && !model.is_empty(), "{}: {figure:?}", set.name);
                assert!(set.metrics.contains(&metric.at(*k)), "{}: {figure:?} is in no column", set.name);
                assert!(catalogue.sources.contains_key(source), "{}: {figure:?}", set.name);
            }
            // No figure twice.
            for row in set.rows() {
                let mut metrics: Vec<&String> = row.values.iter().map(|(metric, _)| metric).collect();
                metrics.sort();
                metrics.dedup();
                assert_eq!(metrics.len(), row.values.len(), "{}: {row:?}", set.name);
            }
        }
        for Source { title, address, place } in catalogue.sources.values() {
            assert!(!title.is_empty() && address.starts_with("https://") && !place.is_empty());
        }
        let used =
            |key: &String| catalogue.sets.iter().flat_map(|set| &set.published).any(|figure| figure.source == *key);
        assert!(catalogue.sources.keys().all(used), "a source of nothing");
    }

    #[test]
    fn the_list_says_what_there_is() {
        let catalogue = Catalogue::shipped().unwrap();
        let text = catalogue.to_text();
        for part in ["ratings.dat", "Data/yelp2018", "or\n  interactions_train.csv", "0.1830", "arXiv 2002.02126"] {
            assert!(text.contains(part), "no {part:?} in\n{text}");
        }
        assert!(catalogue.set("ml-2m").unwrap_err().to_string().contains("gowalla, yelp2018"));
    }
}
