//! The parameters of a baseline, and which others a search tries.

use std::fmt;

use duet_retrieval::baselines::{
    AlsOptions, BprOptions, DEFAULT_HALF_LIFE_DAYS, DEFAULT_LAMBDA, ItemKnnOptions, Weighting,
};
use serde::Serialize;

use super::baseline::Baseline;

/// What a baseline is fitted with.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
#[serde(untagged)]
pub enum Parameters {
    /// There is nothing to choose.
    Nothing {},
    /// [`duet_retrieval::baselines::Trending`]
    Trending {
        /// The window.
        days: f64,
    },
    /// [`duet_retrieval::baselines::DecayedPopularity`]
    DecayedPopularity {
        /// Until a listen counts half.
        half_life_days: f64,
    },
    /// [`duet_retrieval::baselines::ItemKnn`]
    ItemKnn(ItemKnnOptions),
    /// [`duet_retrieval::baselines::Ease`]
    Ease {
        /// Regularisation.
        lambda: f64,
    },
    /// [`duet_retrieval::baselines::Als`]
    Als(AlsOptions),
    /// [`duet_retrieval::baselines::Bpr`]
    Bpr(BprOptions),
}

impl Parameters {
    /// The published defaults; `days` is the window of trends.
    pub fn of(baseline: Baseline, days: f64, seed: u64) -> Self {
        let knn = |weighting| Self::ItemKnn(ItemKnnOptions { weighting, ..ItemKnnOptions::default() });
        match baseline {
            Baseline::Random | Baseline::Popularity | Baseline::Content | Baseline::Oracle => Self::Nothing {},
            Baseline::Trending => Self::Trending { days },
            Baseline::DecayedPopularity => Self::DecayedPopularity { half_life_days: DEFAULT_HALF_LIFE_DAYS },
            Baseline::ItemKnn => knn(Weighting::Cosine),
            Baseline::ItemKnnTfIdf => knn(Weighting::TfIdf),
            Baseline::ItemKnnBm25 => knn(Weighting::BM25),
            Baseline::Ease => Self::Ease { lambda: DEFAULT_LAMBDA },
            Baseline::Als => Self::Als(AlsOptions { seed, ..AlsOptions::default() }),
            Baseline::Bpr => Self::Bpr(BprOptions { seed, ..BprOptions::default() }),
        }
    }

    /// What to try in place of these at a stage of the search: one key after the other, so that a search is a sum of grids
    /// and not their product. Empty where the search is over.
    pub fn variations(&self, stage: usize) -> Vec<Self> {
        match (stage, *self) {
            (0, Self::Trending { .. }) => [1.0, 3.0, 7.0, 14.0, 28.0, 90.0].map(|days| Self::Trending { days }).into(),
            (0, Self::DecayedPopularity { .. }) => {
                let days = [1.0, 3.0, 7.0, 14.0, 30.0, 90.0, 365.0];
                days.map(|half_life_days| Self::DecayedPopularity { half_life_days }).into()
            }
            (0, Self::ItemKnn(options)) => {
                [20, 50, 100, 200, 500].map(|neighbours| Self::ItemKnn(ItemKnnOptions { neighbours, ..options })).into()
            }
            (1, Self::ItemKnn(options @ ItemKnnOptions { weighting: Weighting::Bm25 { .. }, .. })) => {
                // The defaults of implicit's weighting function, against those of its recommender, and in between.
                let pairs = [(1.2, 0.75), (1.2, 0.3), (10.0, 0.5), (100.0, 0.3), (100.0, 0.8)];
                let weighting =
                    |(k1, b)| Self::ItemKnn(ItemKnnOptions { weighting: Weighting::Bm25 { k1, b }, ..options });
                pairs.map(weighting).into()
            }
            (0, Self::Ease { .. }) => {
                [10.0, 30.0, 100.0, 250.0, 500.0, 1000.0, 3000.0].map(|lambda| Self::Ease { lambda }).into()
            }
            (0, Self::Als(options)) => {
                [1.0, 3.0, 9.0, 40.0].map(|alpha| Self::Als(AlsOptions { alpha, ..options })).into()
            }
            (1, Self::Als(options)) => [0.01, 0.1, 1.0, 10.0, 100.0]
                .map(|regularization| Self::Als(AlsOptions { regularization, ..options }))
                .into(),
            (2, Self::Als(options)) => {
                [32, 64, 100, 200].map(|factors| Self::Als(AlsOptions { factors, ..options })).into()
            }
            (0, Self::Bpr(options)) => {
                [0.01, 0.03, 0.1].map(|learning_rate| Self::Bpr(BprOptions { learning_rate, ..options })).into()
            }
            (1, Self::Bpr(options)) => {
                [0.002, 0.01, 0.03].map(|regularization| Self::Bpr(BprOptions { regularization, ..options })).into()
            }
            _ => Vec::new(),
        }
    }
}

impl fmt::Display for Parameters {
    /// `key value, key value`, as in the JSON.
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        fn flat(prefix: &str, value: &serde_json::Value, parts: &mut Vec<String>) {
            match value {
                serde_json::Value::Object(map) => map.iter().for_each(|(key, value)| flat(key, value, parts)),
                serde_json::Value::String(text) => parts.push(format!("{prefix} {text}")),
                other => parts.push(format!("{prefix} {other}")),
            }
        }
        let mut parts = Vec::new();
        flat("", &serde_json::to_value(self).map_err(|_| fmt::Error)?, &mut parts);
        formatter.write_str(&parts.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_search_varies_one_key_at_a_time_and_tries_the_defaults() {
        for baseline in Baseline::ALL {
            let defaults = Parameters::of(baseline, 28.0, 3);
            for stage in 0..4 {
                let variations = defaults.variations(stage);
                assert!(
                    variations.is_empty() || variations.contains(&defaults),
                    "{baseline}, stage {stage}: {variations:?}"
                );
                assert!(
                    variations.iter().all(|varied| std::mem::discriminant(varied) == std::mem::discriminant(&defaults))
                );
            }
        }
        assert_eq!(Parameters::of(Baseline::Ease, 28.0, 3).to_string(), "lambda 500.0");
        assert_eq!(Parameters::of(Baseline::Popularity, 28.0, 3).to_string(), "");
        assert_eq!(Parameters::of(Baseline::ItemKnnTfIdf, 28.0, 3).to_string(), "neighbours 200, weighting tf_idf");
    }
}
