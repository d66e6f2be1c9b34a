//! How fast a training step is, what it costs in a larger table, and what stays in memory.
//!
//! The shape of a step comes from `configs/bench.toml`; the events are drawn here from a seed (power-law items, windows full,
//! three categorical features a user), so nothing is read but that. Three parts, all by default:
//!
//! * `speed`: milliseconds a step, split into data / forward / backward / update, and positions a second, for batches drawn
//!   before and batches drawn on the spot, by number of items and of threads;
//! * `tables`: the same batches on tables of 10,000 to 10,000,000 rows, steps alternating in one process, rows drawn anew for
//!   every step, so that only the size of the table differs;
//! * `memory`: peak resident memory beside the bytes of tables, states, batch and events.
//!
//! A fourth, `pace`, prints positions a second for `--seconds`, for alternating with a peer. Thread counts are set through
//! `RAYON_NUM_THREADS` of child processes. `--quick` is for machines that only check that all this runs.

use std::{
    env, fs, mem,
    process::Command,
    time::{Duration, Instant},
};

use duet_core::{Error, ItemIdx, Result, config::Config, encoding::EncodedTable};
use duet_data::dataset::Timeline;
use duet_model::{
    batch::Batch,
    device::{DeviceChoice, OpenDevice},
    embedding::to_host,
    feature_bags::FeatureRows,
    loss::Targets,
    model::{DataShape, TwoTower},
    step::{Learner, Rates},
};
use duet_train::{batcher::Batcher, examples::Examples};

const CONFIG: &str = include_str!("../configs/bench.toml");
const SEED: u64 = 20_261_124;
const USERS: usize = 20_000;
/// Values of the three features of a user: an age bucket, a city, a country, say.
const FEATURE_VALUES: [u32; 3] = [10, 3000, 200];
/// Batches drawn before: more than the caches hold, 35 MB.
const DRAWN: usize = 64;
/// Items where only one number is wanted.
const ITEMS: usize = 200_000;

const USAGE: &str = "training [--quick] [--part speed|tables|memory|pace] [--threads N[,N]] [--items N] [--seconds S]";

fn main() -> Result<()> {
    let arguments = Arguments::parse()?;
    match arguments.part.as_deref() {
        None => arguments.all(),
        Some("speed") => speed(&arguments),
        Some("tables") => tables(&arguments),
        Some("memory") => memory(&arguments),
        Some("pace") => pace(&arguments),
        Some(part) => Err(Error::unknown("part", part, ["speed", "tables", "memory", "pace"])),
    }
}

#[derive(Default)]
struct Arguments {
    quick: bool,
    part: Option<String>,
    threads: Option<String>,
    items: Option<usize>,
    seconds: Option<f64>,
}

impl Arguments {
    fn parse() -> Result<Self> {
        let mut out = Self::default();
        let mut arguments = env::args().skip(1);
        while let Some(argument) = arguments.next() {
            let mut value =
                || arguments.next().ok_or_else(|| Error::input(format!("{argument} needs a value; {USAGE}")));
            match argument.as_str() {
                "--quick" => out.quick = true,
                "--part" => out.part = Some(value()?),
                "--threads" => out.threads = Some(value()?),
                "--items" => out.items = Some(number(&value()?)?),
                "--seconds" => out.seconds = Some(number(&value()?)?),
                // cargo bench passes it.
                "--bench" => {}
                _ => return Err(Error::input(format!("unknown argument {argument:?}; {USAGE}"))),
            }
        }
        Ok(out)
    }

    /// Every part in processes of their own: rayon's threads are set once a process, and so is the peak of memory.
    fn all(&self) -> Result<()> {
        let threads: Vec<&str> = self.threads.as_deref().map_or(vec!["1", "2"], |threads| threads.split(',').collect());
        for threads in &threads {
            self.child("speed", threads, None)?;
        }
        let most = threads.last().copied().unwrap_or("1");
        self.child("tables", most, None)?;
        for &items in self.sizes() {
            self.child("memory", most, Some(items))?;
        }
        Ok(())
    }

    fn child(&self, part: &str, threads: &str, items: Option<usize>) -> Result<()> {
        let program = env::current_exe().map_err(Error::io("the benchmark itself"))?;
        let mut command = Command::new(&program);
        command.args(["--part", part]).env("RAYON_NUM_THREADS", threads);
        if self.quick {
            command.arg("--quick");
        }
        if let Some(items) = items.or(self.items) {
            command.args(["--items", &items.to_string()]);
        }
        let status = command.status().map_err(Error::io(&program))?;
        if status.success() { Ok(()) } else { Err(Error::Internal(format!("--part {part}: {status}"))) }
    }

    fn sizes(&self) -> &'static [usize] {
        if self.quick { &[10_000, 100_000] } else { &[10_000, 100_000, 1_000_000, 10_000_000] }
    }

    fn steps(&self, full: usize) -> usize {
        if self.quick { 3 } else { full }
    }
}

fn number<T: std::str::FromStr>(text: &str) -> Result<T> {
    text.replace('_', "").parse().map_err(|_| Error::input(format!("{text:?} is not a number; {USAGE}")))
}

/// SplitMix64 (Steele et al., 2014): enough for made-up data.
struct Draws(u64);

impl Draws {
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut x = self.0;
        x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        x ^ (x >> 31)
    }

    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1_u64 << 53) as f64
    }

    fn below(&mut self, bound: usize) -> usize {
        (self.unit() * bound as f64) as usize
    }
}

/// Full windows of items of rank `n^u` (Zipf's law with exponent 1), popular ranks scattered over the table.
fn examples(config: &Config, items: usize) -> Result<Examples> {
    let mut draws = Draws(SEED);
    let window = config.data.window;
    let mut timeline = Timeline { offsets: (0..=USERS).map(|user| user * window).collect(), ..Timeline::default() };
    timeline.items = (0..USERS * window)
        .map(|_| {
            let rank = (((items + 1) as f64).powf(draws.unit()) as usize).clamp(1, items) - 1;
            // A prime above every size used here: a permutation.
            ItemIdx::from((rank as u64 * 2_147_483_647 % items as u64) as usize)
        })
        .collect();
    let mut users =
        EncodedTable { rows: USERS, slots: FEATURE_VALUES.len(), bag_offsets: vec![0], ..EncodedTable::default() };
    for _ in 0..USERS {
        let mut start = 0;
        for values in FEATURE_VALUES {
            users.bag_ids.push(start + draws.below(values as usize) as u32);
            users.bag_offsets.push(users.bag_ids.len() as u32);
            start += values;
        }
    }
    let no_features = EncodedTable { rows: items, bag_offsets: vec![0], ..EncodedTable::default() };
    Examples::new(timeline, users, no_features, items)
}

/// Batches in the order of training, epoch after epoch.
struct Source<'a> {
    batcher: Batcher<'a>,
    epoch: usize,
    number: usize,
    order: Vec<Vec<usize>>,
}

impl<'a> Source<'a> {
    fn new(config: &'a Config, examples: &'a Examples) -> Self {
        let batcher = Batcher::new(config, examples, config.model.shared_table, SEED);
        let order = batcher.order(0);
        Self { batcher, epoch: 0, number: 0, order }
    }

    fn draw(&mut self) -> Batch {
        if self.number == self.order.len() {
            (self.epoch, self.number) = (self.epoch + 1, 0);
            self.order = self.batcher.order(self.epoch);
        }
        self.number += 1;
        self.batcher.batch(self.epoch, self.number - 1, &self.order[self.number - 1])
    }

    fn draw_many(&mut self, count: usize) -> Vec<Batch> {
        (0..count).map(|_| self.draw()).collect()
    }
}

fn learner(config: &Config, device: &OpenDevice, items: usize) -> Learner {
    let user_vocabulary = FEATURE_VALUES.iter().sum::<u32>() as usize;
    let shape = DataShape { users: USERS, items, user_vocabulary, ..DataShape::default() };
    Learner::new(TwoTower::new(&config.model, &config.loss, shape, device, SEED), config)
}

/// Milliseconds of the parts of some steps.
#[derive(Default)]
struct Times {
    data: Vec<f64>,
    forward: Vec<f64>,
    backward: Vec<f64>,
    update: Vec<f64>,
    step: Vec<f64>,
    seed: u64,
}

impl Times {
    /// One step, `data` being what the batch took. The loss is read, so that nothing is left to be computed.
    fn step(&mut self, learner: &mut Learner, config: &Config, batch: &Batch, data: Duration) -> Result<f32> {
        self.seed += 1;
        let started = Instant::now();
        let train = &config.train;
        let rates = Rates { towers: train.tower_rate, tables: train.table_rate, features: train.feature_rate };
        let output = learner.step(batch, rates, self.seed)?;
        let loss = to_host(output.loss)?[0];
        self.step.push(millis(data + started.elapsed()));
        self.data.push(millis(data));
        self.forward.push(millis(output.times.forward));
        self.backward.push(millis(output.times.backward));
        self.update.push(millis(output.times.update));
        if loss.is_finite() { Ok(loss) } else { Err(Error::Internal(format!("the loss is {loss}"))) }
    }

    fn row(&self) -> String {
        let parts = [&self.data, &self.forward, &self.backward, &self.update, &self.step];
        parts.map(|values| format!("{:>9.2}", median(values))).concat()
    }
}

fn millis(duration: Duration) -> f64 {
    duration.as_secs_f64() * 1e3
}

fn median(values: &[f64]) -> f64 {
    let mut values = values.to_vec();
    values.sort_by(f64::total_cmp);
    values.get(values.len() / 2).copied().unwrap_or(f64::NAN)
}

fn mean(values: impl ExactSizeIterator<Item = usize>) -> f64 {
    let count = values.len() as f64;
    values.sum::<usize>() as f64 / count
}

fn setting() -> Result<(Config, OpenDevice, String)> {
    let device = DeviceChoice::Cpu.open()?;
    let threads = env::var("RAYON_NUM_THREADS").unwrap_or_else(|_| "all".to_owned());
    Ok((Config::resolve(&[("configs/bench.toml", CONFIG)], &[])?, device, threads))
}

fn speed(arguments: &Arguments) -> Result<()> {
    let (config, device, threads) = setting()?;
    println!("\nspeed: {}, threads {threads}; medians, milliseconds a step", device.description);
    println!("    items  batches     rows  columns   unique     data  forward backward   update     step  positions/s");
    let sizes = arguments.items.map_or(vec![10_000, ITEMS, 1_000_000], |items| vec![items]);
    let sizes = if arguments.quick { &sizes[..sizes.len().min(2)] } else { &sizes };
    for &items in sizes {
        let examples = examples(&config, items)?;
        let mut source = Source::new(&config, &examples);
        let mut learner = learner(&config, &device, items);
        let drawn = source.draw_many(if arguments.quick { 4 } else { DRAWN });
        let rows = mean(drawn.iter().map(Batch::rows));
        let shape = format!(
            "{rows:>9.0}{:>9.0}{:>9.0}",
            mean(drawn.iter().map(|batch| batch.candidates.items.len())),
            mean(drawn.iter().map(|batch| batch.windows.history.len())),
        );
        let mut warm_up = Times::default();
        for batch in drawn.iter().take(4) {
            warm_up.step(&mut learner, &config, batch, Duration::ZERO)?;
        }
        let (mut before, mut fresh) = (Times::default(), Times::default());
        for step in 0..arguments.steps(100) {
            before.step(&mut learner, &config, &drawn[step % drawn.len()], Duration::ZERO)?;
            let started = Instant::now();
            let batch = source.draw();
            fresh.step(&mut learner, &config, &batch, started.elapsed())?;
        }
        for (name, times) in [("pre-drawn", before), ("fresh", fresh)] {
            println!("{items:>9}  {name:<9}{shape}{}{:>13.0}", times.row(), rows / median(&times.step) * 1e3);
        }
    }
    Ok(())
}

fn pace(arguments: &Arguments) -> Result<()> {
    let (config, device, threads) = setting()?;
    let items = arguments.items.unwrap_or(ITEMS);
    let examples = examples(&config, items)?;
    let drawn = Source::new(&config, &examples).draw_many(DRAWN);
    let mut learner = learner(&config, &device, items);
    let mut times = Times::default();
    for batch in drawn.iter().take(4) {
        times.step(&mut learner, &config, batch, Duration::ZERO)?;
    }
    times.step.clear();
    let limit = Duration::from_secs_f64(arguments.seconds.unwrap_or(10.0));
    let cpu_before = cpu_seconds();
    let (started, mut rows, mut loss) = (Instant::now(), 0, 0.0);
    for batch in drawn.iter().cycle() {
        if started.elapsed() >= limit {
            break;
        }
        loss = times.step(&mut learner, &config, batch, Duration::ZERO)?;
        rows += batch.rows();
    }
    println!(
        "duet threads {threads}: {:.0} positions/s, median {:.2} ms a step, CPU {:.2} ms a step, {} steps, last loss {loss:.3}",
        rows as f64 / started.elapsed().as_secs_f64(),
        median(&times.step),
        (cpu_seconds() - cpu_before) * 1e3 / times.step.len() as f64,
        times.step.len()
    );
    Ok(())
}

/// The batch with its item ids replaced by distinct random rows below `rows`; everything else is as it was.
fn scattered(batch: &Batch, rows: usize, draws: &mut Draws, taken: &mut [bool]) -> Batch {
    let mut batch = batch.clone();
    for id in &mut batch.windows.history {
        let mut row = draws.below(rows);
        while mem::replace(&mut taken[row], true) {
            row = draws.below(rows);
        }
        *id = row as u32;
    }
    for &id in &batch.windows.history {
        taken[id as usize] = false;
    }
    // With one table the history begins with the candidates.
    let candidates = batch.candidates.items.len();
    batch.candidates.items.copy_from_slice(&batch.windows.history[..candidates]);
    batch
}

fn tables(arguments: &Arguments) -> Result<()> {
    let (config, device, threads) = setting()?;
    let examples = examples(&config, ITEMS)?;
    let drawn = Source::new(&config, &examples).draw_many(if arguments.quick { 4 } else { DRAWN });
    let unique = mean(drawn.iter().map(|batch| batch.windows.history.len()));
    println!(
        "\ntables: {}, threads {threads}, {unique:.0} distinct rows a step; medians, milliseconds a step",
        device.description
    );
    println!("     rows  table MB  forward backward   update     step  of 10,000 rows");
    let mut measured = Vec::new();
    let mut largest = 0;
    for &rows in arguments.sizes() {
        let bytes = rows * (config.model.dim + 2) * size_of::<f32>();
        if available_bytes().is_some_and(|available| available < bytes + bytes / 4) {
            println!("{rows:>9}  skipped: {} MB are more than the memory at hand", bytes / 1_000_000);
            continue;
        }
        largest = largest.max(rows);
        measured.push((rows, learner(&config, &device, rows), Times::default()));
    }
    let mut draws = Draws(SEED ^ 1);
    let mut taken = vec![false; largest];
    let rounds = arguments.steps(100);
    for round in 0..rounds + 2 {
        if round == 2 {
            measured.iter_mut().for_each(|(_, _, times)| *times = Times::default());
        }
        let count = measured.len();
        for turn in 0..count {
            // Every round begins with another table, so that none always follows the same one.
            let (rows, learner, times) = &mut measured[(turn + round) % count];
            let batch = scattered(&drawn[round % drawn.len()], *rows, &mut draws, &mut taken);
            times.step(learner, &config, &batch, Duration::ZERO)?;
        }
    }
    let smallest = measured.first().map_or(f64::NAN, |(_, _, times)| median(&times.step));
    for (rows, learner, times) in &measured {
        let row =
            [&times.forward, &times.backward, &times.update, &times.step].map(|part| format!("{:>9.2}", median(part)));
        let megabytes = learner.model.tables.bytes() as f64 / 1e6;
        println!("{rows:>9}{megabytes:>10.1}{}{:>16.3}", row.concat(), median(&times.step) / smallest);
    }
    Ok(())
}

fn memory(arguments: &Arguments) -> Result<()> {
    let (config, device, threads) = setting()?;
    let items = arguments.items.unwrap_or(ITEMS);
    let program = status_bytes("VmRSS:").unwrap_or(0);
    let examples = examples(&config, items)?;
    let events = status_bytes("VmRSS:").unwrap_or(0).saturating_sub(program);
    let mut source = Source::new(&config, &examples);
    let mut learner = learner(&config, &device, items);
    let mut times = Times::default();
    let mut batch = source.draw();
    for _ in 0..arguments.steps(50) {
        times.step(&mut learner, &config, &batch, Duration::ZERO)?;
        batch = source.draw();
    }
    let tables = learner.model.tables.bytes();
    // AdamW keeps two moments a parameter.
    let towers = 3 * learner.model.tower_bytes();
    let batch = batch_bytes(&batch);
    // A tile of logits and its gradient, both towers' hidden layers and their gradients: what a step needs besides.
    let peak = status_bytes("VmHWM:");
    let megabytes = |bytes: usize| format!("{:.1}", bytes as f64 / 1e6);
    let rest = peak.map_or_else(
        || "unknown".to_owned(),
        |peak| megabytes(peak.saturating_sub(program + events + tables + towers + batch)),
    );
    println!(
        "\nmemory: {items} items, threads {threads}, MB: peak resident {}; tables with state {}, towers with state {}, batch {}, \
         events {}, program {}, the rest (numberings of ids, a step's tensors) {rest}",
        peak.map_or_else(|| "unknown".to_owned(), megabytes),
        megabytes(tables),
        megabytes(towers),
        megabytes(batch),
        megabytes(events),
        megabytes(program),
    );
    Ok(())
}

fn batch_bytes(batch: &Batch) -> usize {
    let features = |features: &FeatureRows| {
        bytes(&features.unique)
            + bytes(&features.entries)
            + bytes(&features.bags)
            + bytes(&features.shares)
            + bytes(&features.dense)
    };
    let windows = &batch.windows;
    let rows = [&windows.rows, &windows.row_windows, &windows.row_prefixes, &windows.row_lengths, &windows.user_rows];
    let Targets {
        offsets,
        columns,
        shares,
        row_weights,
        windows: of,
        prefixes,
        seen_offsets,
        seen_columns,
        seen_places,
        log_inclusion,
    } = &batch.targets;
    let targets = [offsets, columns, of, prefixes, seen_offsets, seen_columns, seen_places].map(|values| bytes(values));
    bytes(&windows.history)
        + bytes(&windows.tokens)
        + bytes(&windows.pool)
        + rows.map(|values| bytes(values)).iter().sum::<usize>()
        + features(&windows.users)
        + bytes(&batch.candidates.items)
        + bytes(&batch.candidates.keep_id)
        + features(&batch.candidates.features)
        + targets.iter().sum::<usize>()
        + [shares, row_weights, log_inclusion].map(|values| bytes(values)).iter().sum::<usize>()
}

fn bytes<T>(values: &[T]) -> usize {
    size_of_val(values)
}

/// A line of the kernel's account of this process, in bytes; nothing where there is no such account.
fn status_bytes(key: &str) -> Option<usize> {
    kilobytes("/proc/self/status", key)
}

fn available_bytes() -> Option<usize> {
    kilobytes("/proc/meminfo", "MemAvailable:")
}

/// CPU time of all threads so far, to a hundredth of a second; NaN where the kernel keeps no such account. On a machine that
/// others use too it says more than the clock.
fn cpu_seconds() -> f64 {
    let text = fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // Fields 14 and 15 of the line, in 1/100 s; the name in brackets may hold blanks.
    let fields = text.rsplit(") ").next().unwrap_or_default().split(' ').skip(11).take(2);
    fields
        .filter_map(|field| field.parse::<f64>().ok())
        .reduce(|user, system| user + system)
        .map_or(f64::NAN, |ticks| ticks / 100.0)
}

fn kilobytes(file: &str, key: &str) -> Option<usize> {
    let text = fs::read_to_string(file).ok()?;
    let line = text.lines().find(|line| line.starts_with(key))?;
    line.split_whitespace().nth(1)?.parse::<usize>().ok().map(|kilobytes| kilobytes * 1024)
}
