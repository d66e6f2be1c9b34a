//! `duet run`.

use std::{
    io::Write,
    path::PathBuf,
    sync::{Arc, atomic::AtomicBool},
    time::Duration,
};

use anyhow::Result;
use clap::{ArgGroup, Args};
use duet_core::{Error, config::Config};
use duet_data::{
    dataset::DatasetKind,
    ingest::{IngestOptions, Origin, run as ingest},
    raw::ZoneOptions,
    store::Location,
};
use duet_model::device::DeviceChoice;
use duet_train::pipeline::{Figures, Flush, Gate, Outcome as Ended, Pipeline, PipelineOptions, Record};
use serde_json::json;

use crate::{Outcome, configuration, interrupt, kafka::KafkaArgs, nats::NatsArgs, prepare::SourceArgs, values};

/// Keep a bundle up to date: ingest, prepare, train, evaluate, embed, gate, publish, again and again.
///
/// WORK/current is a link to the newest bundle that passed the gate; whatever fails, it stays as it is and is served on.
/// With --stream (or --topic, in builds with Kafka), a tick first takes all that is there into the zone of --raw (`duet
/// ingest` has more settings, and may run beside instead). Each tick leaves a record, WORK/records/ID.json. A training begins with the parameters of the published one. Ctrl-C or
/// SIGTERM stops after the step under way, a training after its current batch; the next tick takes it up.
#[derive(Debug, Clone, Args)]
#[command(group = ArgGroup::new("when").required(true).args(["every", "once"]))]
pub(crate) struct RunArgs {
    /// The work directory: dataset, runs, evaluations, bundles, records, current.
    #[arg(long, value_name = "DIR")]
    work: PathBuf,
    /// Time from tick to tick, counted from the start, e.g. 24h, 1h, 30m. Ticks that a longer one missed are left out.
    #[arg(long, value_name = "TIME", value_parser = values::duration)]
    every: Option<Duration>,
    /// One tick; exit code 1 if it fails or the gate is not passed.
    #[arg(long)]
    once: bool,
    #[command(flatten)]
    sources: SourceArgs,
    #[command(flatten)]
    nats: NatsArgs,
    #[command(flatten)]
    kafka: KafkaArgs,
    /// Configuration of the training; without one, the shipped configs/events.toml. --set changes its keys too.
    #[arg(long, value_name = "FILE.toml", help_heading = "Training")]
    train_config: Option<PathBuf>,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE", help_heading = "Training")]
    device: DeviceChoice,
    /// Train boosted trees too, as `duet rerank` does (--set reranker.KEY=VALUE), and take them into the bundle. They learn from a
    /// validation part, which no warm start has: every training begins afresh then.
    #[arg(long, help_heading = "Training")]
    rerank: bool,
    /// Published runs and bundles that are kept, and as many that were not published; older ones are deleted, the current one
    /// never.
    #[arg(long, default_value_t = 7, value_name = "N", value_parser = values::positive, help_heading = "Gate")]
    keep: usize,
    /// Publish only with at least this gain of NDCG@10 over popularity, as a share of popularity's. -1: no limit.
    #[arg(long, default_value_t = 0.0, value_name = "SHARE", allow_negative_numbers = true, help_heading = "Gate")]
    min_gain: f64,
    /// Publish only if NDCG@10 drops at most this share below the published run's. 1: no limit.
    #[arg(long, default_value_t = 0.1, value_name = "SHARE", allow_negative_numbers = true, help_heading = "Gate")]
    max_drop: f64,
}

/// The ingest that comes before each `prepare`, where a stream is named: all that it has goes into the zone.
fn flush(nats: &NatsArgs, kafka: &KafkaArgs, zone: Option<&str>, stop: Arc<AtomicBool>) -> Result<Option<Flush>> {
    let (flag, origin) = match (kafka.origin(nats.patience)?, nats.options()) {
        (Some(topics), _) => ("--topic", topics),
        (None, Some(stream)) => ("--stream", Origin::Nats(stream)),
        (None, None) => return Ok(None),
    };
    let Some(zone) = zone else {
        let why = "the zone that the events go into and are prepared from";
        return Err(Error::input(format!("{flag} needs --raw: {why}")).into());
    };
    let to = Location::parse(zone)?.with_patience(nats.patience);
    let options = IngestOptions { until_empty: true, stop, ..IngestOptions::default() };
    Ok(Some(Box::new(move || {
        let summary = ingest(&origin, &to, ZoneOptions::default(), &options)?;
        let figures = [
            ("events", json!(summary.events)),
            ("bytes", json!(summary.bytes)),
            ("batches", json!(summary.batches)),
            ("known", json!(summary.known)),
            ("lag", json!(summary.lag)),
        ];
        Ok(figures.into_iter().map(|(name, value)| (name.to_owned(), value)).collect::<Figures>())
    })))
}

/// Sections of a training's configuration; all other settings are those of `prepare`.
const TRAINING: [&str; 7] = ["data", "model", "loss", "train", "index", "fallback", "reranker"];

fn is_of_training(setting: &str) -> bool {
    setting.split_once('.').is_some_and(|(section, _)| TRAINING.contains(&section.trim()))
}

impl RunArgs {
    fn options(&self) -> Result<PipelineOptions> {
        let (training, others): (Vec<String>, Vec<String>) =
            self.sources.settings.iter().cloned().partition(|setting| is_of_training(setting));
        let mut sources = self.sources.clone();
        sources.settings = others;
        for (flag, value) in [("--min-gain", self.min_gain), ("--max-drop", self.max_drop)] {
            if !value.is_finite() {
                return Err(Error::input(format!("{flag} must be a number")).into());
            }
        }
        let stop = interrupt::stop_flag();
        Ok(PipelineOptions {
            work: self.work.clone(),
            flush: flush(&self.nats, &self.kafka, sources.raw.as_deref(), stop.clone())?,
            config: match &self.train_config {
                Some(file) => Config::load(file, &training)?,
                None => Config::resolve(&[configuration::shipped(DatasetKind::Events)], &training)?,
            },
            prepare: sources.options()?,
            rerank: self.rerank,
            device: self.device,
            gate: Gate { min_gain: self.min_gain, max_drop: self.max_drop },
            keep: self.keep,
            stop,
        })
    }
}

pub(crate) fn run(args: &RunArgs, out: &mut dyn Write) -> Result<Outcome> {
    let pipeline = Pipeline::open(args.options()?)?;
    let Some(period) = args.every else {
        let record = pipeline.tick()?;
        return match record.outcome {
            Ended::Published => Ok(writeln!(out, "{}", describe(&record)).map(|()| Outcome::Done)?),
            Ended::Interrupted => Ok(writeln!(out, "{}", describe(&record)).map(|()| Outcome::Interrupted)?),
            _ => Err(Error::input(describe(&record)).into()),
        };
    };
    let mut outcome = Outcome::Done;
    pipeline.every(period, |tick| match tick {
        Ok(record) => {
            match record.outcome {
                Ended::Failed | Ended::Refused => tracing::error!("{}", describe(record)),
                Ended::Interrupted => outcome = Outcome::Interrupted,
                _ => {}
            }
            // Whoever read the lines may have gone; that is no reason to stop.
            let _ = writeln!(out, "{}", describe(record)).and_then(|()| out.flush());
        }
        Err(error) => tracing::error!(%error, "the tick has no record; nothing was published"),
    });
    Ok(outcome)
}

/// A tick in one line.
fn describe(record: &Record) -> String {
    let mut text = format!("{}: {}", record.id, record.outcome.as_str());
    if let Some((step, error)) = record.error() {
        text.push_str(&format!(", {}: {error}", step.as_str()));
    }
    if let (Some(ndcg), Some(popularity)) = (record.ndcg_at_10, record.popularity_ndcg_at_10) {
        text.push_str(&format!("; NDCG@10 {ndcg:.4} (popularity {popularity:.4})"));
    }
    let seconds: f64 = record.steps.iter().map(|step| step.seconds).sum();
    format!("{text}; {seconds:.1} s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_go_where_they_belong() {
        for training in ["model.dim=8", "train.warm_epochs=2", "reranker.trees=50"] {
            assert!(is_of_training(training), "{training}");
        }
        for other in ["split.held_out=days:7", "quality.max_psi=0.2", "privacy.age_edges=[18]", "nonsense"] {
            assert!(!is_of_training(other), "{other}");
        }
    }
}
