//! `duet demo`: the whole way in one command, on a synthetic world.

use std::{
    collections::HashSet,
    fs,
    io::Write,
    path::{Path, PathBuf},
    sync::atomic::Ordering,
    time::{Duration, Instant},
};

use anyhow::{Context, Result};
use clap::Args;
use duet_core::{Error, UserIdx, artifact::IfExists, table::ColumnValues};
use duet_data::{
    accounts::UserKey,
    dataset::{Dataset, TestUser},
    prepare::{PrepareOptions, prepare},
    world::{WorldOptions, generate},
};
use duet_model::device::DeviceChoice;
use duet_train::{
    bundle::{self, EmbedOptions},
    evaluate::{self, EvaluateOptions, Table},
    retriever::Retriever,
    train::{TrainOptions, train},
};

use crate::{
    Outcome, configuration, embed, interrupt, prepare as prepare_command, train as train_command, user_key, values,
    world,
};

/// Make a synthetic world and go the whole way: prepare, train, evaluate, embed, recommend.
///
/// Takes about a minute on two cores. What it writes replaces what it wrote before.
#[derive(Debug, Clone, Args)]
pub(crate) struct DemoArgs {
    /// Where everything goes.
    #[arg(long, default_value = "data/demo", value_name = "DIR")]
    out: PathBuf,
    /// Accounts of the world [default: 8000].
    #[arg(long, value_name = "N")]
    users: Option<u64>,
    /// Seed of the world and of the training.
    #[arg(long, default_value_t = 1, value_name = "N")]
    seed: u64,
    /// auto, cpu, ndarray, wgpu or wgpu:INDEX.
    #[arg(long, default_value = "auto", value_name = "DEVICE")]
    device: DeviceChoice,
    /// At most this long for each of the two trainings.
    #[arg(long, default_value = "60s", value_name = "TIME", value_parser = values::duration)]
    max_time: Duration,
}

/// The people of the demo are invented, so their key is no secret; a fixed one makes the same ids everywhere.
const DEMO_KEY: &str = "the people of this demo are invented\n";

/// The ablation's name in the tables, and what it turns off.
const ABLATION: &str = "two-tower without features";
const ABLATION_SETTINGS: [&str; 2] = ["model.user_features=false", "model.item_features=false"];

/// Length of the lists shown.
const SHOWN: usize = 10;

/// Prints each stage with its seconds as it ends.
struct Stages<'a> {
    out: &'a mut dyn Write,
    begun: Instant,
    last: Instant,
}

impl Stages<'_> {
    fn done(&mut self, stage: &str, what: &str) -> Result<()> {
        let seconds = self.last.elapsed().as_secs_f64();
        self.last = Instant::now();
        writeln!(self.out, "{stage:<10}{seconds:6.1} s  {what}")?;
        Ok(self.out.flush()?)
    }
}

pub(crate) fn run(args: &DemoArgs, out: &mut dyn Write) -> Result<Outcome> {
    let dir = &args.out;
    let place = |name: &str| dir.join(name);
    let [world_dir, dataset_dir, run_dir, ablation_dir, bundle_dir] =
        ["world", "dataset", "run", "run-without-features", "bundle"].map(place);
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let now = Instant::now();
    let mut stages = Stages { out, begun: now, last: now };

    let default = WorldOptions::default();
    let options = WorldOptions { users: args.users.unwrap_or(default.users), seed: args.seed, ..default };
    let summary = generate(&options, &world_dir, IfExists::Replace)?;
    stages.done("world", &world::describe(&summary))?;

    let key_path = place("user.key");
    if !key_path.exists() {
        user_key::write_new(&key_path, DEMO_KEY)?;
    }
    let key = UserKey::from_file(&key_path)?;
    let prepared = prepare(&PrepareOptions::for_world(&world_dir, key), &dataset_dir, IfExists::Replace)?;
    stages.done("prepare", &prepare_command::describe(&prepared))?;

    let stop = interrupt::stop_flag();
    let train_on = |out: &Path, settings: &[&str]| {
        let mut settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
        settings.push(format!("train.seed={}", args.seed));
        train(&TrainOptions {
            config: configuration::resolve(&dataset_dir, None, &settings)?,
            dataset: dataset_dir.clone(),
            out: out.to_path_buf(),
            device: args.device,
            resume: false,
            overwrite: true,
            warm_start: None,
            max_time: Some(args.max_time),
            stop: stop.clone(),
        })
    };
    for (stage, run, settings) in [("train", &run_dir, &[][..]), ("ablation", &ablation_dir, &ABLATION_SETTINGS[..])] {
        let summary = train_on(run, settings)?;
        stages.done(stage, &train_command::describe(&summary))?;
        if stop.load(Ordering::SeqCst) {
            return Ok(Outcome::Interrupted);
        }
    }

    let report = evaluate::evaluate(&EvaluateOptions {
        also: vec![(ABLATION.to_owned(), ablation_dir)],
        device: args.device,
        ..EvaluateOptions::new(&run_dir)
    })?;
    let report_dir = place("evaluation");
    report.write(&report_dir)?;
    stages.done("evaluate", &format!("{} recommenders, {} users", report.evaluations.len(), report.protocol.users))?;
    if stop.load(Ordering::SeqCst) {
        return Ok(Outcome::Interrupted);
    }

    let embedded = bundle::embed(&EmbedOptions {
        run: run_dir,
        out: bundle_dir.clone(),
        dataset: None,
        device: args.device,
        overwrite: true,
    })?;
    stages.done("embed", &embed::describe(&embedded))?;

    let retriever = Retriever::from_bundle(&bundle_dir)?;
    let shown = listeners(&Dataset::open(&dataset_dir)?, &retriever)?;
    stages.done("recommend", &format!("top {SHOWN} for {} listeners, from the bundle", shown.len()))?;
    let seconds = stages.begun.elapsed().as_secs_f64();

    writeln!(out, "\n{}", report.to_text())?;
    print_listeners(&shown, out)?;
    writeln!(out, "\n{seconds:.0} s in all")?;
    writeln!(out, "report: {}", report_dir.join("report.html").display())?;
    writeln!(out, "bundle: {}", bundle_dir.display())?;
    if let Some((artist, _)) = shown.iter().find_map(|listener| listener.list.first()) {
        // As this program was called: under `cargo run` nothing is on the PATH.
        let program = std::env::args_os().next().unwrap_or_else(|| "duet".into());
        writeln!(
            out,
            "next:   {} similar --bundle {} --artist {artist:?}",
            Path::new(&program).display(),
            bundle_dir.display()
        )?;
    }
    Ok(Outcome::Done)
}

/// A listener of the demo with their list.
struct Listener {
    title: &'static str,
    about: String,
    /// Names, and whether the listener found the artist by themselves in the held-out days.
    list: Vec<(String, bool)>,
}

/// A heavy, a light and a new listener, each with something held out, where there are such.
fn listeners(dataset: &Dataset, retriever: &Retriever) -> Result<Vec<Listener>> {
    let (users, timeline, test) = (dataset.users()?, dataset.timeline()?, dataset.test()?);
    let known: Vec<(&TestUser, UserIdx, usize)> =
        test.iter().filter_map(|user| user.user.map(|row| (user, row, timeline.range(row).len()))).collect();
    let heavy = known.iter().max_by_key(|(_, row, events)| (*events, std::cmp::Reverse(*row)));
    // Fewer than three events say next to nothing about a taste.
    let light = known.iter().filter(|(_, _, events)| *events >= 3).min_by_key(|(_, row, events)| (*events, *row));
    // Of the new ones the one who found most afterwards says most about the list.
    let new = known
        .iter()
        .filter(|(_, _, events)| *events == 0)
        .max_by_key(|(user, row, _)| (user.items.len(), std::cmp::Reverse(*row)));
    let mut chosen = Vec::new();
    for (title, listener) in [("heavy listener", heavy), ("light listener", light), ("new listener", new)] {
        let Some((user, row, events)) = listener else { continue };
        let list = retriever.recommend(std::slice::from_ref(&user.id), SHOWN, true, None)?.pop();
        let list = list.context("no list came back")?;
        let truth: HashSet<&str> = user.items.iter().map(String::as_str).collect();
        let person: Vec<String> = ["age_bucket", "gender", "city"]
            .iter()
            .filter_map(|name| match &users.column(name).ok()?.values {
                ColumnValues::Text(values) => values[row.index()].clone(),
                _ => None,
            })
            .collect();
        let mut lately: Vec<&str> = Vec::new();
        for item in timeline.items_of(*row).iter().rev() {
            let name = retriever.items.name(item.index());
            if !lately.contains(&name) && lately.len() < 3 {
                lately.push(name);
            }
        }
        let history = match events {
            0 => "nothing heard in training".to_owned(),
            _ => format!("{events} events in training, lately {}", lately.join(", ")),
        };
        let id = &user.id[..user.id.len().min(8)];
        chosen.push(Listener {
            title,
            about: format!("{title} ({id}): {}; {history}; list: {}", person.join(", "), list.source),
            list: list
                .items
                .iter()
                .map(|entry| {
                    let row = entry.item.index();
                    (retriever.items.name(row).to_owned(), truth.contains(retriever.items.ids.id(row)))
                })
                .collect(),
        });
    }
    Ok(chosen)
}

fn print_listeners(listeners: &[Listener], out: &mut dyn Write) -> Result<()> {
    writeln!(out, "Top {SHOWN}; * the listener found this artist by themselves in the held-out days\n")?;
    for listener in listeners {
        writeln!(out, "{}", listener.about)?;
    }
    let header = Table::new().number("rank");
    let mut table = listeners.iter().fold(header, |table, listener| table.text(listener.title));
    for rank in 0..SHOWN {
        let cell = |listener: &Listener| match listener.list.get(rank) {
            Some((name, true)) => format!("{name} *"),
            Some((name, false)) => name.clone(),
            None => String::new(),
        };
        table.push(std::iter::once(format!("{}", rank + 1)).chain(listeners.iter().map(cell)));
    }
    writeln!(out)?;
    Ok(write!(out, "{}", table.to_text())?)
}
