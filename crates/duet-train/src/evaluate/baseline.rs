//! What every model is measured against, by the names of the command line.

use std::{fmt, str::FromStr};

use duet_core::{Error, Result};
use duet_data::dataset::{self, DatasetInfo};
use duet_retrieval::{
    Recommender, Vectors,
    baselines::{DEFAULT_NEIGHBOURS, Interactions, ItemKnn, Oracle, Popularity, Random, Trending},
};

/// A baseline.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Baseline {
    /// Random lists: the floor.
    Random,
    /// The most listened items.
    Popularity,
    /// The most listened items of the last days; needs time.
    Trending,
    /// Cosine neighbours of the user's items.
    ItemKnn,
    /// The synthetic world's truth: the ceiling, where it is known.
    Oracle,
}

impl Baseline {
    /// All of them, in the order of the tables.
    pub const ALL: [Self; 5] = [Self::Random, Self::Popularity, Self::Trending, Self::ItemKnn, Self::Oracle];

    /// The name on the command line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Random => "random",
            Self::Popularity => "popularity",
            Self::Trending => "trending",
            Self::ItemKnn => "item-knn",
            Self::Oracle => "oracle",
        }
    }

    /// Those that a dataset allows.
    pub fn possible(info: &DatasetInfo, has_oracle: bool) -> Vec<Self> {
        Self::ALL.into_iter().filter(|baseline| baseline.check(info, has_oracle).is_ok()).collect()
    }

    /// Whether the dataset holds what the baseline needs.
    ///
    /// # Errors
    /// [`Error::Input`] saying what is missing.
    pub fn check(self, info: &DatasetInfo, has_oracle: bool) -> Result<()> {
        match self {
            Self::Trending if !info.has_time => {
                Err(Error::input("the baseline trending needs events with time, and the dataset has none"))
            }
            Self::Oracle if !has_oracle => {
                Err(Error::input("the baseline oracle needs the truth of a synthetic world, and the dataset has none"))
            }
            _ => Ok(()),
        }
    }

    /// Fits the baseline on the training events.
    ///
    /// # Errors
    /// [`Error::Input`] if the dataset does not hold what it needs.
    pub fn build(
        self,
        interactions: &Interactions<'_>,
        oracle: Option<&dataset::Oracle>,
        trending_days: f64,
        seed: u64,
    ) -> Result<Box<dyn Recommender>> {
        Ok(match self {
            Self::Random => Box::new(Random::new(interactions.n_items(), seed)),
            Self::Popularity => Box::new(Popularity::new(interactions)),
            Self::Trending => Box::new(Trending::new(interactions, trending_days)?),
            Self::ItemKnn => Box::new(ItemKnn::new(interactions, DEFAULT_NEIGHBOURS)),
            Self::Oracle => {
                let truth = oracle.ok_or_else(|| Error::input("the dataset holds no truth"))?;
                let vectors = |data: &[f32]| Vectors::new(truth.dim, data.to_vec());
                Box::new(Oracle::new(vectors(&truth.users)?, vectors(&truth.items)?)?)
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
