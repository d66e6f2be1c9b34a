//! What every model is measured against, by the names of the command line.

use std::{fmt, str::FromStr};

use duet_core::{Error, Result, encoding::TableEncoder};
use duet_data::dataset::{self, Dataset, Timeline};
use duet_retrieval::{
    Recommender, Vectors,
    baselines::{
        Als, Bpr, Content, ContentItems, DecayedPopularity, EASE_MAX_ITEMS, Ease, Interactions, ItemKnn, Oracle,
        Popularity, Random, Trending,
    },
};

use super::parameters::Parameters;

/// A baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Random lists: the floor.
    Random,
    /// The most listened items.
    Popularity,
    /// The most listened items of the last days; needs time.
    Trending,
    /// The most listened items, old listens counting less; needs time.
    DecayedPopularity,
    /// Cosine neighbours of the user's items.
    ItemKnn,
    /// The same with TF-IDF weights.
    ItemKnnTfIdf,
    /// Neighbours by BM25 weights.
    ItemKnnBm25,
    /// Items whose features are like those of the user's items; needs item features.
    Content,
    /// Linear item-item model in closed form; for catalogues of some size only.
    Ease,
    /// Implicit alternating least squares.
    Als,
    /// Matrix factorisation by Bayesian personalised ranking.
    Bpr,
    /// The synthetic world's truth: the ceiling, where it is known.
    Oracle,
}

/// What baselines are made of.
pub struct Materials {
    /// The truth of a synthetic world.
    pub oracle: Option<dataset::Oracle>,
    /// The items' features, encoded as the towers would have them.
    pub content: Option<ContentItems>,
    /// Whether events carry time.
    pub has_time: bool,
    /// Items with training events.
    pub active_items: usize,
}

impl Materials {
    /// Reads what the dataset has.
    ///
    /// # Errors
    /// The errors of reading the dataset's tables.
    pub fn new(dataset: &Dataset, timeline: &Timeline) -> Result<Self> {
        let mut has_events = vec![false; dataset.info.counts.items as usize];
        for item in &timeline.items {
            has_events[item.index()] = true;
        }
        let columns = &dataset.info.schema.items;
        let items = dataset.items()?;
        let encoder = TableEncoder::fit(&items, columns, dataset.info.reference_day, |item| has_events[item])?;
        let content = if encoder.slots() + encoder.dense_width() > 0 {
            let missing = (0..encoder.slots()).map(|slot| encoder.missing_id(slot)).collect();
            Some(ContentItems { table: encoder.encode(&items)?, missing })
        } else {
            None
        };
        Ok(Self {
            oracle: dataset.oracle()?,
            content,
            has_time: dataset.info.has_time,
            active_items: has_events.iter().filter(|has_events| **has_events).count(),
        })
    }
}

impl Baseline {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 12] = [
        Self::Random,
        Self::Popularity,
        Self::Trending,
        Self::DecayedPopularity,
        Self::ItemKnn,
        Self::ItemKnnTfIdf,
        Self::ItemKnnBm25,
        Self::Content,
        Self::Ease,
        Self::Als,
        Self::Bpr,
        Self::Oracle,
    ];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Popularity => "popularity",
            Self::Trending => "trending",
            Self::DecayedPopularity => "decayed-popularity",
            Self::ItemKnn => "item-knn",
            Self::ItemKnnTfIdf => "item-knn-tfidf",
            Self::ItemKnnBm25 => "item-knn-bm25",
            Self::Content => "content",
            Self::Ease => "ease",
            Self::Als => "als",
            Self::Bpr => "bpr",
            Self::Oracle => "oracle",
        }
    }

    /// Those that a dataset allows.
    pub fn possible(materials: &Materials) -> Vec<Self> {
        Self::ALL.into_iter().filter(|baseline| baseline.check(materials).is_ok()).collect()
    }

    /// Whether the dataset holds what the baseline needs.
    ///
    /// # Errors
    /// [`Error::Input`] saying what is missing.
    pub fn check(self, materials: &Materials) -> Result<()> {
        let missing = match self {
            Self::Trending | Self::DecayedPopularity if !materials.has_time => {
                "events with time, and the dataset has none"
            }
            Self::Content if materials.content.is_none() => "item features, and the dataset has none",
            Self::Oracle if materials.oracle.is_none() => "the truth of a synthetic world, and the dataset has none",
            Self::Ease if materials.active_items > EASE_MAX_ITEMS => {
                return Err(Error::input(format!(
                    "the baseline ease is possible up to {EASE_MAX_ITEMS} items, and {} have events; als and item-knn have no \
                     such limit",
                    materials.active_items
                )));
            }
            _ => return Ok(()),
        };
        Err(Error::input(format!("the baseline {self} needs {missing}")))
    }

    /// Fits the baseline on the training events.
    ///
    /// # Errors
    /// [`Error::Input`] if the dataset does not hold what it needs, or a parameter is out of range.
    pub fn build(
        self,
        interactions: &Interactions<'_>,
        materials: &Materials,
        parameters: &Parameters,
        seed: u64,
    ) -> Result<Box<dyn Recommender>> {
        self.check(materials)?;
        Ok(match (self, parameters) {
            (Self::Random, _) => Box::new(Random::new(interactions.n_items(), seed)),
            (Self::Popularity, _) => Box::new(Popularity::new(interactions)),
            (_, Parameters::Trending { days }) => Box::new(Trending::new(interactions, *days)?),
            (_, Parameters::DecayedPopularity { half_life_days }) => {
                Box::new(DecayedPopularity::new(interactions, *half_life_days)?)
            }
            (_, Parameters::ItemKnn(options)) => Box::new(ItemKnn::new(interactions, *options)?),
            (_, Parameters::Ease { lambda }) => Box::new(Ease::new(interactions, *lambda)?),
            (_, Parameters::Als(options)) => Box::new(Als::new(interactions, *options)?),
            (_, Parameters::Bpr(options)) => Box::new(Bpr::new(interactions, *options)?),
            (Self::Content, _) => match &materials.content {
                Some(items) => Box::new(Content::new(interactions, items)?),
                None => return Err(Error::Internal("content was checked".into())),
            },
            (Self::Oracle, _) => match &materials.oracle {
                Some(truth) => {
                    let vectors = |data: &[f32]| Vectors::new(truth.dim, data.to_vec());
                    Box::new(Oracle::new(vectors(&truth.users)?, vectors(&truth.items)?)?)
                }
                None => return Err(Error::Internal("oracle was checked".into())),
            },
            (other, parameters) => {
                return Err(Error::Internal(format!("{other} can't be made with {parameters:?}")));
            }
        })
    }
}

impl fmt::Display for Baseline {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl FromStr for Baseline {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let wanted = text.replace('_', "-");
        Self::ALL
            .into_iter()
            .find(|baseline| baseline.as_str() == wanted)
            .ok_or_else(|| Error::unknown("baseline", text, Self::ALL.map(Self::as_str)))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::ItemIdx;

    use super::*;

    #[test]
    fn every_baseline_is_made_under_its_name_or_says_what_it_needs() {
        let materials = Materials { oracle: None, content: None, has_time: false, active_items: EASE_MAX_ITEMS + 1 };
        let possible = Baseline::possible(&materials);
        assert!(possible.contains(&Baseline::Als) && !possible.contains(&Baseline::Ease));
        let items = [0, 1, 1].map(ItemIdx);
        let interactions = Interactions::new(&[0, 2, 3], &items, &[], 3).unwrap();
        for baseline in Baseline::ALL {
            assert_eq!(baseline.as_str().parse::<Baseline>().unwrap(), baseline);
            let made = baseline.build(&interactions, &materials, &Parameters::of(baseline, 28.0, 1), 1);
            match made {
                Ok(made) => assert_eq!(made.name().replace('_', "-"), baseline.as_str()),
                Err(error) => assert!(!possible.contains(&baseline) && error.to_string().contains(baseline.as_str())),
            }
        }
        let error = "magic".parse::<Baseline>().unwrap_err().to_string();
        assert!(error.contains("magic") && error.contains("ease, als, bpr"), "{error}");
    }
}
