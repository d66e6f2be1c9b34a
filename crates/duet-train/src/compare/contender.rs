//! What may be compared: a bundle, a run, or a baseline by its name.

use std::{
    fmt,
    path::{Path, PathBuf},
};

use duet_core::{Error, Result, artifact::MANIFEST};
use duet_data::dataset::Dataset;
use duet_model::device::DeviceChoice;
use duet_retrieval::Recommender;
use serde::Serialize;

use crate::{
    bundle,
    evaluate::{Baseline, Parameters, test_bed::TestBed},
    retriever::Retriever,
    run::{self, Run},
};

/// One side of a comparison.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "kind", content = "place", rename_all = "snake_case")]
pub enum Contender {
    /// A bundle, as it is served.
    Bundle(PathBuf),
    /// A run, ranked exactly.
    Run(PathBuf),
    /// A bundle with its lists put in order by its re-ranker.
    RerankedBundle(PathBuf),
    /// A run with its lists put in order by its re-ranker.
    RerankedRun(PathBuf),
    /// A baseline, fitted on the training events with its defaults.
    Baseline(#[serde(serialize_with = "as_name")] Baseline),
}

fn as_name<S: serde::Serializer>(baseline: &Baseline, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    serializer.serialize_str(baseline.as_str())
}

impl Contender {
    /// A path that exists is a bundle or a run, with its re-ranker where `+reranker` follows; anything else must be the name of a
    /// baseline.
    ///
    /// # Errors
    /// [`Error::Data`] for a path to something else; [`Error::Input`] listing the baselines.
    pub fn find(text: &str) -> Result<Self> {
        let path = Path::new(text);
        if path.join(MANIFEST).exists() {
            bundle::open_info(path)?;
            return Ok(Self::Bundle(path.to_path_buf()));
        }
        if path.join("run.json").exists() {
            return Ok(Self::Run(path.to_path_buf()));
        }
        if let Some(place) = text.strip_suffix(RERANKED)
            && !path.exists()
            && Path::new(place).exists()
        {
            return Ok(match Self::find(place)? {
                Self::Bundle(dir) => Self::RerankedBundle(dir),
                Self::Run(dir) => Self::RerankedRun(dir),
                other => return Err(Error::input(format!("{other} has no re-ranker: only bundles and runs may"))),
            });
        }
        if path.exists() {
            return Err(Error::data(
                path,
                format!("neither a bundle nor a run: it holds no {MANIFEST} and no run.json"),
            ));
        }
        text.parse().map(Self::Baseline).map_err(|error: Error| {
            Error::input(format!("{text} is no bundle and no run (nothing is there), and {error}"))
        })
    }

    /// Where its dataset lay, and the dataset's fingerprint; nothing for a baseline, which is fitted on any.
    pub(super) fn dataset(&self) -> Result<Option<(PathBuf, String)>> {
        match self {
            Self::Bundle(dir) | Self::Run(dir) | Self::RerankedBundle(dir) | Self::RerankedRun(dir) => {
                let (_, info) = run::read_records(dir)?;
                Ok(Some((info.dataset_dir, info.dataset_fingerprint)))
            }
            Self::Baseline(_) => Ok(None),
        }
    }

    /// Loads or fits it.
    pub(super) fn load(&self, bed: &TestBed, device: DeviceChoice, seed: u64) -> Result<Box<dyn Recommender>> {
        Ok(match self {
            Self::Bundle(dir) => Box::new(Retriever::from_bundle(dir)?.into_served().named(self.to_string())),
            Self::Run(dir) => {
                let run = Run::open(dir, device)?;
                Box::new(Retriever::from_run(&run, &bed.dataset)?.into_served().named(self.to_string()))
            }
            Self::RerankedBundle(dir) => {
                Box::new(Retriever::from_bundle(dir)?.reranked_by_bundle(dir)?.into_reranked(&self.to_string())?)
            }
            Self::RerankedRun(dir) => {
                let run = Run::open(dir, device)?;
                let retriever = Retriever::from_run(&run, &bed.dataset)?.reranked_by_run(&run, &bed.dataset)?;
                Box::new(retriever.into_reranked(&self.to_string())?)
            }
            Self::Baseline(baseline) => {
                let days = TRENDING_DAYS;
                bed.fit(*baseline, &Parameters::of(*baseline, days, seed), seed)?
            }
        })
    }

    /// Refuses another dataset than the one that both are compared on.
    pub(super) fn check(&self, dataset: &Dataset) -> Result<()> {
        match self.dataset()? {
            Some((_, fingerprint)) if fingerprint != dataset.fingerprint => Err(Error::input(format!(
                "{self} was made from another dataset than {} (fingerprints {} and {}): what two of different datasets have in common \
                 can't be compared",
                dataset.dir.display(),
                short(&fingerprint),
                short(&dataset.fingerprint)
            ))),
            _ => Ok(()),
        }
    }
}

/// What stands behind the path of a bundle or a run whose re-ranker takes part.
const RERANKED: &str = "+reranker";

/// The window of the baseline `trending` where no run says another.
const TRENDING_DAYS: f64 = 28.0;

fn short(fingerprint: &str) -> &str {
    fingerprint.get(..12).unwrap_or(fingerprint)
}

impl fmt::Display for Contender {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle(dir) | Self::Run(dir) => write!(formatter, "{}", dir.display()),
            Self::RerankedBundle(dir) | Self::RerankedRun(dir) => write!(formatter, "{}{RERANKED}", dir.display()),
            Self::Baseline(baseline) => write!(formatter, "{baseline}"),
        }
    }
}
