//! Ablations: a configuration and variants of it, several seeds each, in one table with verdicts.
//!
//! * [`Rows`]: what is varied. A row that does nothing here (`plan.rs`) is listed with the reason, not trained.
//! * Every training is one of [`train`](mod@crate::train) on the dataset as it is, measured like an evaluation: the whole catalogue,
//!   the users of the test part, the fallback for people that nothing is known of.
//! * What a finished training leaves (`kept.rs`) is taken over by the next call with the same configuration and dataset, so that long
//!   tables can be made in pieces; the table ([`Ablation`]) is written anew after each training.

mod kept;
mod plan;
mod result;
mod rows;

use std::{
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use duet_core::{Error, Result, artifact, config::Config};
use duet_data::dataset::Dataset;
use duet_model::device::DeviceChoice;
use duet_retrieval::{EvaluationOptions, bootstrap::MIN_RESAMPLES, segments::FoldLimits};
use fs_err as fs;

pub use self::{
    kept::AblationProtocol,
    result::{Ablation, AblationRow, JSON_FILE, MARKDOWN_FILE, MeasuredRow, Spread},
    rows::{DEFAULT_ROW, Row, Rows},
};
use self::{
    kept::{METRICS, Place, Record, Training, Trainings},
    plan::{DatasetTraits, canonical, same_as},
    result::Source,
};
use crate::{
    checkpoint,
    evaluate::{DatasetFacts, test_bed::TestBed},
    retriever::Retriever,
    run::Run,
    train::{StopReason, TrainOptions, train},
};

/// What to vary, and how.
#[derive(Debug, Clone)]
pub struct AblateOptions {
    /// The dataset's directory.
    pub dataset: PathBuf,
    /// The configuration file's name and text.
    pub config: (String, String),
    /// Settings over it, which all rows have.
    pub settings: Vec<String>,
    /// Rows to train, by name; none: all. Those that they are compared with come too.
    pub rows: Vec<String>,
    /// Trainings of a row, with the seeds 0, 1, ...
    pub seeds: u64,
    /// At most this long for each training, resumed ones as a whole.
    pub max_time: Option<Duration>,
    /// Where trainings and tables go.
    pub out: PathBuf,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Rank, and count as truth, what the user had in training too.
    pub keep_seen: bool,
    /// Bootstrap resamples.
    pub resamples: usize,
    /// Stop, with everything so far kept, as soon as this is set.
    pub stop: Arc<AtomicBool>,
}

/// Trains what is not trained yet and makes the table; `tell` gets a line for every training.
///
/// # Errors
/// [`Error::Input`] for a row that does not exist, a configuration that is not valid, no seeds, or a dataset without a held-out part;
/// the errors of training and evaluation. A row whose configuration is not valid, or whose training diverges, is a note in the table.
pub fn ablate(options: &AblateOptions, tell: &mut dyn FnMut(&str)) -> Result<Ablation> {
    let rows = Rows::shipped()?;
    let chosen = rows.choose(&options.rows)?;
    if options.seeds == 0 {
        return Err(Error::input("an ablation needs at least one seed"));
    }
    // Before anything slow: what would be an error after the first training.
    if options.resamples < MIN_RESAMPLES {
        return Err(Error::input(format!(
            "{} bootstrap resamples; at least {MIN_RESAMPLES} are needed",
            options.resamples
        )));
    }
    options.resolve(&[])?;
    let dataset = Dataset::open(&options.dataset)?;
    let bed = TestBed::new(
        dataset,
        options.keep_seen,
        FoldLimits::default(),
        EvaluationOptions { ks: vec![10], resamples: options.resamples, ..EvaluationOptions::default() },
    )?;
    fs::create_dir_all(&options.out).map_err(Error::io(&options.out))?;
    let mut work = Work::new(options, rows, bed)?;
    let mut wanted: Vec<usize> = chosen.into_iter().filter_map(|at| work.stands_for[at].0).collect();
    wanted.sort_unstable();
    wanted.dedup();
    work.take_over()?;
    let total = wanted.len() as u64 * options.seeds;
    let mut number = 0;
    for &row in &wanted {
        for seed in 0..options.seeds {
            number += 1;
            let said = work.training(row, seed)?;
            if options.stop.load(Ordering::SeqCst) {
                return work.write(true);
            }
            if let Some(said) = said {
                tell(&format!("{number}/{total} {}, seed {seed}: {said}", work.rows.all()[row].name));
                work.write(false)?;
            }
        }
    }
    work.write(false)
}

impl AblateOptions {
    fn resolve(&self, settings: &[String]) -> Result<Config> {
        let (name, text) = &self.config;
        Config::resolve(&[(name, text)], &[&self.settings[..], settings].concat())
    }
}

/// Everything that trainings share, and what came of them.
struct Work<'a> {
    options: &'a AblateOptions,
    rows: Rows,
    bed: TestBed,
    protocol: AblationProtocol,
    /// What each row sets, for this dataset.
    settings: Vec<Vec<String>>,
    /// The row that stands for each: itself, an earlier one that trains the same, or none. With the reason.
    stands_for: Vec<(Option<usize>, Option<String>)>,
    trainings: Trainings,
    notes: Vec<String>,
}

impl<'a> Work<'a> {
    fn new(options: &'a AblateOptions, rows: Rows, bed: TestBed) -> Result<Self> {
        let info = &bed.dataset.info;
        let traits = DatasetTraits {
            trained_items: bed.materials.active_items,
            has_time: info.has_time,
            has_user_features: !info.schema.users.is_empty(),
            has_item_features: !info.schema.items.is_empty(),
        };
        let settings: Vec<Vec<String>> = rows.all().iter().map(|row| row.settings(info.counts.items)).collect();
        let mut found: Vec<(usize, Config)> = Vec::new();
        let mut stands_for = Vec::with_capacity(settings.len());
        for (at, own) in settings.iter().enumerate() {
            let config = match options.resolve(own) {
                Ok(config) => config,
                Err(error) => {
                    stands_for.push((None, Some(error.to_string())));
                    continue;
                }
            };
            let (config, reasons) = canonical(&config, traits);
            match found.iter().find(|(_, other)| *other == config) {
                Some((other, _)) => {
                    stands_for.push((Some(*other), Some(same_as(&rows.all()[*other].name, own, &reasons))));
                }
                None => {
                    stands_for.push((Some(at), None));
                    found.push((at, config));
                }
            }
        }
        let protocol = AblationProtocol { keep_seen: options.keep_seen, users: bed.panel.len() };
        let (trainings, notes) = (Trainings::new(), Vec::new());
        Ok(Self { options, rows, bed, protocol, settings, stands_for, trainings, notes })
    }

    fn place(&self, row: usize, seed: u64) -> Place {
        Place::new(&self.options.out, &self.rows.all()[row].name, seed)
    }

    fn config(&self, row: usize, seed: u64) -> Result<Config> {
        self.options.resolve(&[&self.settings[row][..], &[format!("train.seed={seed}")]].concat())
    }

    /// Everything that was trained and measured before, of rows that are not asked for too.
    fn take_over(&mut self) -> Result<()> {
        for row in 0..self.rows.all().len() {
            if self.stands_for[row].0 != Some(row) {
                continue;
            }
            for seed in 0..self.options.seeds {
                let found = self.place(row, seed).find(&self.config(row, seed)?, &self.bed.dataset.fingerprint)?;
                if let Some(training) = found.filter(|training| training.record.protocol == self.protocol) {
                    self.trainings.insert((row, seed), training);
                }
            }
        }
        Ok(())
    }

    /// Trains and measures, if that was not done before. Says what came of it; nothing where all was there.
    fn training(&mut self, row: usize, seed: u64) -> Result<Option<String>> {
        let options = self.options;
        let fingerprint = &self.bed.dataset.fingerprint;
        if self.trainings.get(&(row, seed)).is_some_and(|training| training.record.is_enough(options.max_time)) {
            return Ok(None);
        }
        let (place, config) = (self.place(row, seed), self.config(row, seed)?);
        let before = place.find(&config, fingerprint)?.map(|training| training.record);
        let record = match before.filter(|record| record.is_enough(options.max_time)) {
            // Another protocol: the run is measured anew.
            Some(record) => Record { protocol: self.protocol, ..record },
            None => match self.train(&place, config, row) {
                Ok(Some(record)) => record,
                Ok(None) => return Ok(None),
                // A variant that can't be trained is a finding, and no reason to train nothing else.
                Err(Error::Input(message)) if row > 0 => {
                    self.notes.push(format!("{}, seed {seed}: {message}", self.rows.all()[row].name));
                    return Ok(Some(message));
                }
                Err(error) => return Err(error),
            },
        };
        if !place.run().join("best").exists() {
            let message = "no epoch was finished in time, so there is nothing to measure".to_owned();
            self.notes.push(format!("{}, seed {seed}: {message}", self.rows.all()[row].name));
            return Ok(Some(message));
        }
        let run = Run::open(&place.run(), options.device)?;
        let served = Retriever::from_run(&run, &self.bed.dataset)?.into_served();
        let evaluation = self.bed.measure(&served)?;
        let training = Training::new(record, &evaluation)?;
        place.keep(&training)?;
        let ndcg = evaluation.all.metric(METRICS[0]).map_or(0.0, |interval| interval.mean);
        let cut = if training.record.cut_short { ", cut short" } else { "" };
        let said = format!("NDCG@10 {ndcg:.4} after {:.1} s{cut}", training.record.seconds);
        self.trainings.insert((row, seed), training);
        Ok(Some(said))
    }

    /// Trains, or goes on with what an earlier call left. `None` if it was interrupted.
    fn train(&self, place: &Place, config: Config, row: usize) -> Result<Option<Record>> {
        let (options, run) = (self.options, place.run());
        let dataset_fingerprint = self.bed.dataset.fingerprint.clone();
        let resume = place.has_run_of(&config, &dataset_fingerprint)?;
        // What a killed call left half done is no checkpoint.
        artifact::tidy(&run.join("checkpoint"))?;
        let spent = if resume { checkpoint::progress(&run)?.map_or(0.0, |progress| progress.seconds) } else { 0.0 };
        tracing::info!(row = self.rows.all()[row].name, seed = config.train.seed, resume, "training");
        let toml = config.to_toml()?;
        let summary = train(&TrainOptions {
            config,
            dataset: options.dataset.clone(),
            out: run,
            device: options.device,
            resume,
            overwrite: !resume,
            warm_start: None,
            max_time: options.max_time.map(|limit| limit.saturating_sub(Duration::from_secs_f64(spent))),
            stop: Arc::clone(&options.stop),
        })?;
        if summary.stopped == StopReason::Interrupted {
            return Ok(None);
        }
        Ok(Some(Record {
            config: toml,
            dataset_fingerprint,
            protocol: self.protocol,
            seconds: summary.seconds,
            cut_short: summary.stopped == StopReason::MaxTime,
            new_users: None,
        }))
    }

    /// The table as it stands, written.
    fn write(&self, interrupted: bool) -> Result<Ablation> {
        let options = self.options;
        let evaluation = EvaluationOptions::default();
        let rows = result::rows(&Source {
            rows: self.rows.all(),
            settings: &self.settings,
            stands_for: &self.stands_for,
            trainings: &self.trainings,
            resamples: options.resamples,
            seed: evaluation.seed,
        })?;
        let ablation = Ablation {
            dataset: DatasetFacts::new(&self.bed.dataset),
            protocol: self.protocol,
            new_users: self.bed.panel.cases().iter().filter(|case| case.cold).count(),
            seeds: options.seeds,
            resamples: options.resamples,
            settings: options.settings.clone(),
            config: options.resolve(&[])?.to_toml()?,
            rows,
            notes: self.notes.clone(),
            interrupted,
        };
        ablation.write(&options.out)?;
        Ok(ablation)
    }
}
