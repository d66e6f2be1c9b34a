//! Where lists come from: a run or a bundle.

use std::path::{Path, PathBuf};

use clap::Args;
use duet_core::Result;
use duet_data::dataset::Dataset;
use duet_model::device::DeviceChoice;
use duet_train::{
    retriever::{Newcomers, Retriever},
    run::Run,
};

/// `--run RUN | --bundle BUNDLE`.
#[derive(Debug, Clone, Args)]
pub(crate) struct SourceArgs {
    #[command(flatten)]
    origin: Origin,
    /// Where the dataset of the run lies, if not where it was at training.
    #[arg(long, value_name = "DATASET", conflicts_with = "bundle")]
    dataset: Option<PathBuf>,
    /// For a run: auto, cpu, ndarray, wgpu or wgpu:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
struct Origin {
    /// A run, as `train` made it.
    #[arg(long)]
    run: Option<PathBuf>,
    /// A bundle, as `embed` made it.
    #[arg(long)]
    bundle: Option<PathBuf>,
}

/// What `--run` or `--bundle` names.
enum Place<'a> {
    Run(Box<(Run, Dataset)>),
    Bundle(&'a Path),
}

impl SourceArgs {
    fn place(&self) -> Result<Place<'_>> {
        match (&self.origin.run, &self.origin.bundle) {
            (Some(run), _) => {
                let run = Run::open(run, self.device)?;
                let dataset = run.dataset(self.dataset.as_deref())?;
                Ok(Place::Run(Box::new((run, dataset))))
            }
            (None, Some(bundle)) => Ok(Place::Bundle(bundle)),
            (None, None) => Err(duet_core::Error::input("give --run or --bundle")),
        }
    }

    /// Opens it.
    pub(crate) fn open(&self) -> Result<Retriever> {
        match self.place()? {
            Place::Run(place) => Retriever::from_run(&place.0, &place.1),
            Place::Bundle(bundle) => Retriever::from_bundle(bundle),
        }
    }

    /// Opens it with its re-ranker.
    pub(crate) fn open_reranked(&self) -> Result<Retriever> {
        match self.place()? {
            Place::Run(place) => Retriever::from_run(&place.0, &place.1)?.reranked_by_run(&place.0, &place.1),
            Place::Bundle(bundle) => Retriever::from_bundle(bundle)?.reranked_by_bundle(bundle),
        }
    }

    /// Opens it with the towers for listeners whom no table knows.
    pub(crate) fn open_for_newcomers(&self) -> Result<(Retriever, Newcomers)> {
        match self.place()? {
            Place::Run(place) => Ok((Retriever::from_run(&place.0, &place.1)?, Newcomers::of_run(place.0))),
            Place::Bundle(bundle) => Ok((Retriever::from_bundle(bundle)?, Newcomers::of_bundle(bundle)?)),
        }
    }
}
