//! The training loop: batches from a second thread, validation, early stopping, checkpoints, refit.

use std::{
    fmt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc::sync_channel,
    },
    time::{Duration, Instant},
};

use duet_core::{Error, Result, artifact, config::Config, encoding::TableEncoder, progress};
use duet_data::dataset::Dataset;
use duet_model::{
    batch::Batch,
    device::{DeviceChoice, OpenDevice},
    embedding::{TableState, to_host},
    model::TwoTower,
    step::{Learner, Rates, StepTimes},
};
use duet_retrieval::vectors::MAX_COMPONENT;
use indicatif::ProgressBar;

use crate::{
    batcher::Batcher,
    checkpoint::{self, Phase, Progress},
    examples::Examples,
    metrics_log::{Line, MetricsLog},
    prior::{initial_biases, item_counts, trend_shift},
    run::{self, RunInfo, WeightsInfo},
    schedule,
    validation::{self, ValidationPart},
    warm_start::{Source, WarmStart, WarmedFrom},
};

/// Batches made ahead.
const AHEAD: usize = 4;

/// What to train, and where.
#[derive(Debug, Clone)]
pub struct TrainOptions {
    /// The resolved configuration.
    pub config: Config,
    /// The dataset's directory.
    pub dataset: PathBuf,
    /// The run's directory.
    pub out: PathBuf,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Go on from the run's checkpoint.
    pub resume: bool,
    /// Replace a run that is there.
    pub overwrite: bool,
    /// Begin with the parameters of another run. A run that is resumed has begun already.
    pub warm_start: Option<WarmStart>,
    /// Stop with a checkpoint after this long.
    pub max_time: Option<Duration>,
    /// Stop with a checkpoint as soon as this is set.
    pub stop: Arc<AtomicBool>,
}

/// Why training ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum StopReason {
    /// All epochs were done.
    Finished,
    /// Validation did not get better.
    Patience,
    /// `max_time` was reached; `--resume` goes on.
    MaxTime,
    /// The stop flag was set; `--resume` goes on.
    Interrupted,
}

impl fmt::Display for StopReason {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(match self {
            Self::Finished => "all epochs done",
            Self::Patience => "validation stopped improving",
            Self::MaxTime => "time limit reached",
            Self::Interrupted => "interrupted",
        })
    }
}

/// What training did.
#[derive(Debug, Clone)]
pub struct TrainSummary {
    /// The run's directory.
    pub run: PathBuf,
    /// Epochs trained while looking for the best one.
    pub epochs: usize,
    /// The best of them (from 1).
    pub best_epoch: usize,
    /// NDCG@10 on the validation part there, where one was cut.
    pub validation_ndcg: Option<f64>,
    /// Seconds of training, earlier runs that were resumed included.
    pub seconds: f64,
    /// Why it ended.
    pub stopped: StopReason,
    /// Loss rows (positions) a second over all training.
    pub rows_per_second: f64,
    /// Where it was computed.
    pub device: String,
    /// Bytes of embedding tables with their optimiser state, and of the towers with theirs.
    pub parameter_bytes: usize,
    /// What it began with.
    pub warmed_from: Option<WarmedFrom>,
    /// Why it began afresh, though it was to begin with another run's parameters if they fit.
    pub began_afresh: Option<String>,
}

/// Trains a model, or goes on with one.
///
/// # Errors
/// [`Error::Input`] for a place that is taken or a resume that does not fit, [`Error::Data`] for a bad dataset.
pub fn train(options: &TrainOptions) -> Result<TrainSummary> {
    let device = options.device.open()?;
    let dataset = Dataset::open(&options.dataset)?;
    let Start { config, info, progress, began_afresh } = start(options, &dataset, &device)?;
    tracing::info!(device = device.description, run = %options.out.display(), "training");
    let mut trainer = Trainer {
        log: MetricsLog::open(&options.out, progress.metric_lines)?,
        started: Instant::now(),
        seconds_before: progress.seconds,
        stopped: StopReason::Finished,
        parameter_bytes: 0,
        options,
        config,
        info,
        device,
        progress,
        began_afresh,
    };
    trainer.run(&dataset)?;
    Ok(trainer.summary())
}

/// Where a training stands when it begins.
struct Start {
    config: Config,
    info: RunInfo,
    progress: Progress,
    began_afresh: Option<String>,
}

/// Reads or writes the run's records and finds out where to begin.
fn start(options: &TrainOptions, dataset: &Dataset, device: &OpenDevice) -> Result<Start> {
    let out = &options.out;
    let exists = out.join("run.json").exists();
    if exists && options.resume {
        return resume(options, dataset);
    }
    if exists && !options.overwrite {
        return Err(Error::input(format!(
            "{} holds a run already; give --resume, --overwrite or another place",
            out.display()
        )));
    }
    let source = options.warm_start.as_ref().map(|warm| -> Result<Source> {
        let source = Source::open(&warm.run)?;
        source.check(&options.config, &dataset.info)?;
        Ok(source)
    });
    let mut info = describe(&options.config, dataset)?;
    info.dataset_dir = std::path::absolute(&options.dataset).map_err(Error::io(&options.dataset))?;
    let mut began_afresh = None;
    let mut warm = None;
    if let Some(source) = source {
        let or_fresh = options.warm_start.as_ref().is_some_and(|warm| warm.or_fresh);
        match source.and_then(|source| warm_model(options, dataset, &mut info, &source, device)) {
            Ok(model) => warm = Some(model),
            Err(error) if or_fresh => {
                tracing::warn!(%error, "starting afresh");
                // Bins of the other run may have come in.
                info = RunInfo { dataset_dir: info.dataset_dir, ..describe(&options.config, dataset)? };
                began_afresh = Some(error.to_string());
            }
            Err(error) => return Err(error),
        }
    }
    if exists {
        run::remove(out)?;
    }
    // A start that was killed may have left one that is nobody's.
    let leftover = out.join("checkpoint");
    if leftover.exists() {
        artifact::remove(&leftover)?;
    }
    run::write_vocabulary(out, dataset, options.config.model.user_id)?;
    if let Some(model) = warm {
        // Before the record: a run that says it was warmed has a checkpoint to go on from.
        checkpoint::save(out, &Learner::new(model, &options.config), &mut Progress::start())?;
    }
    run::write_records(out, &options.config, &info)?;
    // Read back what later runs will read, so that a resumed run computes with the very same numbers.
    let (config, info) = run::read_records(out)?;
    Ok(Start { config, info, progress: Progress::start(), began_afresh })
}

/// Goes on with the run that is there.
fn resume(options: &TrainOptions, dataset: &Dataset) -> Result<Start> {
    let out = &options.out;
    artifact::tidy(&out.join("checkpoint"))?;
    artifact::tidy(&out.join("best"))?;
    let (config, info) = run::read_records(out)?;
    let config = config.placed_as(&options.config);
    if config != options.config {
        return Err(Error::input(format!(
            "{}: --resume with another configuration than the run's config.toml; give the same one",
            out.display()
        )));
    }
    if info.dataset_fingerprint != dataset.fingerprint {
        return Err(Error::input(format!("{}: --resume with another dataset than the run's", out.display())));
    }
    if let Some(WarmStart { run, or_fresh: false }) = &options.warm_start
        && info.warmed_from.is_none()
    {
        let (out, run) = (out.display(), run.display());
        return Err(Error::input(format!("{out}: the run began afresh, so --resume can't go on from {run}")));
    }
    let saved = checkpoint::progress(out)?;
    if saved.is_none() && info.warmed_from.is_some() {
        return Err(Error::data(out, "the run began with another run's parameters, and its checkpoint is gone"));
    }
    Ok(Start { config, info, progress: saved.unwrap_or_else(Progress::start), began_afresh: None })
}

/// The parameters of `source` in a new model; `info` gets the source's bins and its mention.
fn warm_model(
    options: &TrainOptions,
    dataset: &Dataset,
    info: &mut RunInfo,
    source: &Source,
    device: &OpenDevice,
) -> Result<TwoTower> {
    let config = &options.config;
    let (plan, warmed) = source.plan(config, info, dataset)?;
    let counts = item_counts(&dataset.timeline()?, info.dataset.counts.items as usize);
    let mut model = new_model(config, info, &counts, device)?;
    source.take_over(&mut model, &plan, config.train.warm_memory)?;
    tracing::info!("{warmed}");
    info.warmed_from = Some(warmed);
    Ok(model)
}

/// A model with its initial parameters. `counts`: training events of each item.
fn new_model(config: &Config, info: &RunInfo, counts: &[u32], device: &OpenDevice) -> Result<TwoTower> {
    let mut model = TwoTower::new(&config.model, &config.loss, info.shape(), device, config.train.seed);
    if let Some(bias) = &mut model.tables.bias {
        let weights = initial_biases(counts, config.model.bias_init);
        let accumulators = vec![0.0; weights.len()];
        bias.set(TableState { weights, accumulators, dim: 1 }, &device.device)?;
    }
    Ok(model)
}

fn describe(config: &Config, dataset: &Dataset) -> Result<RunInfo> {
    let timeline = dataset.timeline()?;
    let mut has_events = vec![false; dataset.info.counts.items as usize];
    for item in &timeline.items {
        has_events[item.index()] = true;
    }
    let schema = &dataset.info.schema;
    let day = dataset.info.reference_day;
    let users = if config.model.user_features {
        TableEncoder::fit(&dataset.users()?, &schema.users, day, |user| {
            timeline.offsets[user] < timeline.offsets[user + 1]
        })?
    } else {
        TableEncoder::default()
    };
    let items = if config.model.item_features {
        TableEncoder::fit(&dataset.items()?, &schema.items, day, |item| has_events[item])?
    } else {
        TableEncoder::default()
    };
    Ok(RunInfo {
        dataset_dir: PathBuf::new(),
        dataset_fingerprint: dataset.fingerprint.clone(),
        dataset: dataset.info.clone(),
        users,
        items,
        warmed_from: None,
    })
}

fn diverged(evidence: &str) -> Error {
    Error::input(format!(
        "{evidence}: training diverged; lower train.table_rate, train.feature_rate or train.tower_rate"
    ))
}

/// Parameters beyond what vectors may hold are no model, and nothing of them may be kept.
fn check_converging(model: &TwoTower, epoch: usize) -> Result<()> {
    let wild = |value: &f32| value.is_nan() || value.abs() > MAX_COMPONENT;
    for tensor in model.state(false)? {
        if let Some(value) = tensor.values.iter().find(|value| wild(value)) {
            return Err(diverged(&format!("{} holds {value:e} after epoch {epoch}", tensor.name)));
        }
    }
    Ok(())
}

struct Trainer<'a> {
    options: &'a TrainOptions,
    config: Config,
    info: RunInfo,
    device: OpenDevice,
    progress: Progress,
    log: MetricsLog,
    started: Instant,
    seconds_before: f64,
    stopped: StopReason,
    parameter_bytes: usize,
    began_afresh: Option<String>,
}

/// One pass over the data: what it trains on and how long.
struct Fit {
    examples: Examples,
    validation: Option<ValidationPart>,
    shift: Vec<f32>,
    epochs: usize,
}

impl Trainer<'_> {
    fn run(&mut self, dataset: &Dataset) -> Result<()> {
        if self.progress.phase == Phase::Search {
            let (timeline, part) = match self.info.warmed_from {
                // The other run was trained on most of what would be cut.
                Some(_) => (dataset.timeline()?, None),
                None => validation::cut(dataset.timeline()?, &self.config, &self.info.dataset)?,
            };
            let epochs = self.epochs();
            let fit = self.fit(dataset, timeline, part, epochs)?;
            if !self.train_phase(&fit)? {
                return Ok(());
            }
            let refit = self.config.train.refit && fit.validation.is_some();
            self.begin_phase(if refit { Phase::Refit } else { Phase::Done });
        }
        if self.progress.phase == Phase::Refit {
            let epochs = self.progress.best.map_or(self.epochs(), |(epoch, _)| epoch);
            let fit = self.fit(dataset, dataset.timeline()?, None, epochs)?;
            let stopped = self.stopped;
            if !self.train_phase(&fit)? {
                return Ok(());
            }
            self.stopped = stopped;
            self.begin_phase(Phase::Done);
        }
        Ok(())
    }

    /// Epochs asked for.
    fn epochs(&self) -> usize {
        let train = &self.config.train;
        if self.info.warmed_from.is_some() { train.warm_epochs } else { train.epochs }
    }

    fn begin_phase(&mut self, phase: Phase) {
        self.progress = Progress { phase, epoch: 0, batch: 0, step: 0, optimiser_steps: 0, ..self.progress.clone() };
    }

    fn fit(
        &self,
        dataset: &Dataset,
        timeline: duet_data::dataset::Timeline,
        validation: Option<ValidationPart>,
        epochs: usize,
    ) -> Result<Fit> {
        let (users, items) = self.info.encode(dataset)?;
        let model = &self.config.model;
        let n_items = self.info.dataset.counts.items as usize;
        let shift = trend_shift(&timeline, n_items, model.trend_weight, model.trend_half_life_days);
        Ok(Fit { examples: Examples::new(timeline, users, items, n_items)?, validation, shift, epochs })
    }

    fn learner(&mut self, fit: &Fit) -> Result<Learner> {
        let model = new_model(&self.config, &self.info, &fit.examples.counts, &self.device)?;
        // AdamW keeps two moments beside every dense parameter.
        self.parameter_bytes = model.tables.bytes() + 3 * model.tower_bytes();
        if model.gathers_ahead() {
            tracing::info!(tables = model.tables.on_host().join(", "), "in host memory");
        }
        let mut learner = Learner::new(model, &self.config);
        if self.progress.step > 0 || self.progress.epoch > 0 || self.info.warmed_from.is_some() {
            checkpoint::restore(&self.options.out, &mut learner, &self.progress)?;
        }
        Ok(learner)
    }

    /// Trains the phase under way to its end. False if it was stopped (with a checkpoint) before.
    fn train_phase(&mut self, fit: &Fit) -> Result<bool> {
        let mut learner = self.learner(fit)?;
        let config = self.config.clone();
        let mut batcher = Batcher::new(&config, &fit.examples, learner.model.is_shared(), config.train.seed);
        let total = (batcher.batches() * self.epochs()) as u64;
        let bar = progress::bar("training", "batches", (batcher.batches() * fit.epochs) as u64);
        let mut saved = Instant::now();
        while self.progress.epoch < fit.epochs {
            let epoch = self.progress.epoch;
            let order = batcher.order(epoch);
            let done = self.progress.batch;
            bar.set_position((epoch * order.len() + done) as u64);
            let stopped = std::thread::scope(|scope| -> Result<bool> {
                let (sender, receiver) = sync_channel::<Batch>(AHEAD);
                let batcher = &mut batcher;
                scope.spawn(move || {
                    for (number, windows) in order.iter().enumerate().skip(done) {
                        // The receiver is gone when training was stopped.
                        if sender.send(batcher.batch(epoch, number, windows)).is_err() {
                            return;
                        }
                    }
                });
                self.train_epoch(&mut learner, receiver, total, &mut saved, &bar)
            })?;
            if stopped {
                return Ok(false);
            }
            self.progress.epoch += 1;
            self.progress.batch = 0;
            let out_of_patience = self.end_epoch(&mut learner, fit)?;
            saved = Instant::now();
            if out_of_patience {
                self.stopped = StopReason::Patience;
                break;
            }
        }
        bar.finish_and_clear();
        if self.progress.phase == Phase::Refit || fit.validation.is_none() {
            let refitted = self.progress.phase == Phase::Refit;
            let validation_ndcg = self.progress.best.map(|(_, ndcg)| ndcg);
            check_converging(&learner.model, self.progress.epoch)?;
            let info = WeightsInfo { epoch: self.progress.epoch, validation_ndcg, refitted };
            if refitted {
                run::keep_searched(&self.options.out)?;
            }
            run::write_best(&self.options.out, &learner.model.state(true)?, &info)?;
        }
        Ok(true)
    }

    /// Trains on the batches that arrive. True if it was stopped before the last.
    fn train_epoch(
        &mut self,
        learner: &mut Learner,
        batches: std::sync::mpsc::Receiver<Batch>,
        total: u64,
        saved: &mut Instant,
        bar: &ProgressBar,
    ) -> Result<bool> {
        let train = self.config.train.clone();
        let gathers_ahead = learner.model.gathers_ahead();
        let mut next: Option<Batch> = None;
        let mut meter = Meter::new();
        loop {
            let waiting = Instant::now();
            let Some(batch) = next.take().or_else(|| batches.recv().ok()) else { return Ok(false) };
            meter.waited += waiting.elapsed();
            if gathers_ahead {
                next = batches.try_recv().ok();
            }
            let factor = schedule::factor(self.progress.step, total, train.warmup_steps);
            let rates = Rates {
                towers: train.tower_rate * factor,
                tables: train.table_rate * factor,
                features: train.feature_rate * factor,
            };
            if batch.rows() > 0 {
                let seed = train.seed.wrapping_mul(0x9e37_79b9).wrapping_add(self.progress.step);
                let output = learner.step_ahead(&batch, next.as_ref(), rates, seed)?;
                meter.add(batch.rows(), output.times);
                self.progress.rows += batch.rows() as u64;
                if (self.progress.step + 1).is_multiple_of(train.log_every as u64) {
                    let loss = to_host(output.loss)?[0];
                    self.log_step(learner, &mut meter, loss, rates)?;
                    bar.set_message(format!("epoch {} loss {loss:.3}", self.progress.epoch + 1));
                }
            }
            self.progress.step += 1;
            self.progress.batch += 1;
            bar.inc(1);
            let reason = if self.options.stop.load(Ordering::Relaxed) {
                Some(StopReason::Interrupted)
            } else if self.options.max_time.is_some_and(|limit| self.started.elapsed() >= limit) {
                Some(StopReason::MaxTime)
            } else {
                None
            };
            let due = train.checkpoint_minutes > 0.0 && saved.elapsed().as_secs_f64() > 60.0 * train.checkpoint_minutes;
            if reason.is_some() || due {
                self.checkpoint(learner)?;
                *saved = Instant::now();
            }
            if let Some(reason) = reason {
                self.stopped = reason;
                return Ok(true);
            }
        }
    }

    fn log_step(&mut self, learner: &Learner, meter: &mut Meter, loss: f32, rates: Rates) -> Result<()> {
        if !loss.is_finite() {
            return Err(diverged(&format!("the loss is {loss} at step {}", self.progress.step)));
        }
        let line = Line::Step {
            phase: self.progress.phase,
            epoch: self.progress.epoch,
            step: self.progress.step + 1,
            loss,
            tower_rate: rates.towers,
            table_rate: rates.tables,
            feature_rate: rates.features,
            positions_per_second: meter.rows as f64 / meter.since.elapsed().as_secs_f64(),
            seconds_data: meter.waited.as_secs_f64(),
            seconds_forward: meter.times.forward.as_secs_f64(),
            seconds_backward: (meter.times.loss + meter.times.backward).as_secs_f64(),
            seconds_update: meter.times.update.as_secs_f64(),
            temperature: learner.model.towers.temperature(),
        };
        tracing::debug!(epoch = self.progress.epoch, step = self.progress.step + 1, loss, "step");
        *meter = Meter::new();
        self.log.append(&line)
    }

    /// Validates, keeps the best, writes a checkpoint. True if patience is over.
    fn end_epoch(&mut self, learner: &mut Learner, fit: &Fit) -> Result<bool> {
        let train = self.config.train.clone();
        let epoch = self.progress.epoch;
        let mut over = false;
        if let Some(part) = &fit.validation
            && (epoch.is_multiple_of(train.validate_every) || epoch == fit.epochs)
        {
            check_converging(&learner.model, epoch)?;
            let started = Instant::now();
            let (ndcg, recall) = part.measure(&learner.model, &self.config, &fit.examples, &fit.shift)?;
            let best = self.progress.best.is_none_or(|(_, best)| ndcg > best);
            if best {
                self.progress.best = Some((epoch, ndcg));
                self.progress.stale = 0;
                let info = WeightsInfo { epoch, validation_ndcg: Some(ndcg), refitted: false };
                run::write_best(&self.options.out, &learner.model.state(true)?, &info)?;
            } else {
                self.progress.stale += 1;
            }
            over = self.progress.stale >= train.patience;
            tracing::info!(epoch, ndcg_at_10 = ndcg, recall_at_10 = recall, best, "validation");
            self.log.append(&Line::Validation {
                epoch,
                step: self.progress.step,
                ndcg_at_10: ndcg,
                recall_at_10: recall,
                users: part.len(),
                best,
                seconds: started.elapsed().as_secs_f64(),
            })?;
        }
        if self.progress.phase == Phase::Search {
            self.progress.searched = epoch;
        }
        if over {
            // The phase ends here for a resumed run too.
            self.progress.epoch = fit.epochs;
        }
        self.checkpoint(learner)?;
        Ok(over)
    }

    fn checkpoint(&mut self, learner: &Learner) -> Result<()> {
        self.progress.seconds = self.seconds_before + self.started.elapsed().as_secs_f64();
        self.progress.metric_lines = self.log.lines();
        checkpoint::save(&self.options.out, learner, &mut self.progress)
    }

    fn summary(self) -> TrainSummary {
        let seconds = self.seconds_before + self.started.elapsed().as_secs_f64();
        let best = self.progress.best;
        TrainSummary {
            run: self.options.out.clone(),
            epochs: self.progress.searched,
            best_epoch: best.map_or(self.progress.searched, |(epoch, _)| epoch),
            validation_ndcg: best.map(|(_, ndcg)| ndcg),
            seconds,
            stopped: self.stopped,
            rows_per_second: self.progress.rows as f64 / seconds.max(1e-9),
            device: self.device.description,
            parameter_bytes: self.parameter_bytes,
            warmed_from: self.info.warmed_from,
            began_afresh: self.began_afresh,
        }
    }
}

/// What happened since the last line of the log.
struct Meter {
    since: Instant,
    rows: usize,
    waited: Duration,
    times: StepTimes,
}

impl Meter {
    fn new() -> Self {
        Self { since: Instant::now(), rows: 0, waited: Duration::ZERO, times: StepTimes::default() }
    }

    fn add(&mut self, rows: usize, times: StepTimes) {
        self.rows += rows;
        self.times.forward += times.forward;
        self.times.loss += times.loss;
        self.times.backward += times.backward;
        self.times.update += times.update;
    }
}
