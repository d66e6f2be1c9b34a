//! What happens at night: the day's events into the raw zone, a dataset with them, a warm-started training, a bundle.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use anyhow::Result;
use chrono::NaiveDate;
use duet_core::{Error, artifact::IfExists, config::Config};
use duet_data::{
    accounts::{AccountSource, UserKey},
    dataset::DatasetKind,
    ingest::{IngestOptions, Origin, run as ingest},
    prepare::{EventSource, HeldOut, PrepareOptions, prepare},
    raw::ZoneOptions,
    store::Location,
};
use duet_model::device::DeviceChoice;
use duet_train::{
    bundle::{EmbedOptions, embed},
    train::{TrainOptions, train},
    warm_start::WarmStart,
};

use crate::configuration;

/// Settings of the training under which a night takes seconds; `--set` goes on top. Nothing is held out: the listeners of the
/// next day are the test.
const SMALL: [&str; 6] = [
    "data.validation=none",
    "train.refit=false",
    "train.epochs=8",
    "train.warm_epochs=1",
    "model.dim=32",
    "train.checkpoint_minutes=0",
];

/// Makes a bundle of all that is known by a night.
#[derive(Debug)]
pub(super) struct Night {
    dir: PathBuf,
    zone: Location,
    config: Config,
    prepare: PrepareOptions,
    device: DeviceChoice,
    stop: Arc<AtomicBool>,
    last_run: Option<PathBuf>,
}

impl Night {
    /// For the world in `dir/world`; everything goes below `dir`.
    pub(super) fn new(
        dir: &Path,
        key: UserKey,
        seed: u64,
        settings: &[String],
        device: DeviceChoice,
        stop: Arc<AtomicBool>,
    ) -> Result<Self> {
        let zone = Location::parse(&dir.join("zone").to_string_lossy())?;
        let world = dir.join("world");
        let mut prepare = PrepareOptions::new(
            EventSource::Zone(zone.clone()),
            AccountSource::Csv(world.join("accounts.csv")),
            world.join("catalogue"),
            key,
        );
        prepare.update = true;
        let mut all: Vec<String> = SMALL.iter().map(|&setting| setting.to_owned()).collect();
        all.push(format!("train.seed={seed}"));
        all.extend_from_slice(settings);
        let config = Config::resolve(&[configuration::shipped(DatasetKind::Events)], &all)?;
        Ok(Self { dir: dir.to_path_buf(), zone, config, prepare, device, stop, last_run: None })
    }

    /// Copies what is new in a directory of event files into the raw zone.
    pub(super) fn ingest(&self, events: &Path) -> Result<()> {
        let options = IngestOptions { stop: self.stop.clone(), ..IngestOptions::default() };
        // A power failure would end the simulation with everything in it.
        let zone = ZoneOptions { durable: false, ..ZoneOptions::default() };
        ingest(&Origin::Files(events.to_path_buf()), &self.zone, zone, &options)?;
        Ok(())
    }

    /// Prepares all events before midnight of `today`, trains from the run of the night before, and embeds: the bundle
    /// `bundles/NAME`.
    pub(super) fn build(&mut self, name: &str, today: NaiveDate) -> Result<PathBuf> {
        let dataset = self.dir.join("dataset");
        self.prepare.held_out = HeldOut::From(today);
        prepare(&self.prepare, &dataset, IfExists::Replace)?;
        let run = self.dir.join("runs").join(name);
        train(&TrainOptions {
            config: self.config.clone(),
            dataset,
            out: run.clone(),
            device: self.device,
            resume: false,
            overwrite: false,
            warm_start: self.last_run.take().map(|run| WarmStart { run, or_fresh: true }),
            max_time: None,
            stop: self.stop.clone(),
        })?;
        if self.stop.load(Ordering::SeqCst) {
            return Err(Error::Interrupted(format!("training {name}")).into());
        }
        let bundle = self.dir.join("bundles").join(name);
        embed(&EmbedOptions {
            run: run.clone(),
            out: bundle.clone(),
            dataset: None,
            device: self.device,
            overwrite: false,
        })?;
        self.last_run = Some(run);
        Ok(bundle)
    }
}
