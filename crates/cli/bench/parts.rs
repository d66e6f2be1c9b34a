//! What a child process measures. One process for each: rayon's threads are set once a process, and so is the peak of memory.

use std::{
    fs, mem,
    sync::Arc,
    time::{Duration, Instant},
};

use duet_core::{Error, ItemIdx, Result, config::Config};
use duet_data::dataset::Timeline;
use duet_model::{
    batch::Batch,
    ceiling::{copy_bandwidth, matrix_product},
    device::{DeviceChoice, OpenDevice},
};
use duet_retrieval::{
    search::{ExactIndex, IvfIndex, IvfOptions, SearchRequest, VectorSearch, brute_force},
    vectors::Vectors,
};
use duet_train::embedding_pass::{embed_items, embed_users, timeline_users};

use super::{
    result::{Ceilings, Measurement},
    work::phases,
    workload::{Draws, ITEMS, Source, Times, USERS, config, examples, learner, mean, median, model},
};
use crate::memory;

/// What a child is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum Part {
    Ceilings,
    Pace,
    Tables,
    Loss,
    LossMemory,
    Evaluation,
    Retrieval,
    FirstStep,
}

/// How it is asked.
#[derive(Debug, Clone)]
pub(super) struct Request {
    pub(super) device: DeviceChoice,
    pub(super) settings: Vec<String>,
    pub(super) seconds: f64,
    pub(super) quick: bool,
}

/// Batches drawn before: more than the caches hold, 35 MB.
const DRAWN: usize = 64;

/// What a step at 16,384 rows and columns may hold besides tables, towers and the batch.
const LOSS_MEMORY: usize = 200 << 20;

impl Part {
    pub(super) fn measure(self, request: &Request) -> Result<Vec<Measurement>> {
        let device = request.device.open()?;
        match self {
            Self::Ceilings => ceilings(&device, request),
            Self::Pace => pace(&device, request),
            Self::Tables => tables(&device, request),
            Self::Loss => loss(&device, request),
            Self::LossMemory => loss_memory(&device, request),
            Self::Evaluation => evaluation(&device, request),
            Self::Retrieval => retrieval(request),
            Self::FirstStep => first_step(&device, request),
        }
    }
}

impl Request {
    fn drawn(&self) -> usize {
        if self.quick { 4 } else { DRAWN }
    }
}

fn ceilings(device: &OpenDevice, request: &Request) -> Result<Vec<Measurement>> {
    let (size, bytes, rounds) = if request.quick { (512, 16 << 20, 2) } else { (1536, 256 << 20, 7) };
    Ok(vec![
        Measurement::new("matrix product", matrix_product(device, size, rounds)?, "flop/s"),
        Measurement::new("copy", copy_bandwidth(bytes, rounds), "B/s"),
    ])
}

/// The ceilings out of the two measurements of their child.
pub(super) fn read_ceilings(found: &[Measurement], threads: usize) -> Result<Ceilings> {
    match found {
        [product, copy] => Ok(Ceilings { threads, flops: product.value, bytes: copy.value }),
        _ => Err(Error::Internal(format!("{} ceilings instead of two", found.len()))),
    }
}

/// Steps for some seconds, or three.
fn steps(
    device: &OpenDevice,
    request: &Request,
    config: &Config,
    case: String,
    drawn: &[Batch],
) -> Result<Measurement> {
    let mut learner = learner(config, device, ITEMS);
    let mut times = Times::default();
    for batch in drawn.iter().take(4) {
        times.step(&mut learner, config, batch)?;
    }
    times.clear();
    let cpu_before = cpu_seconds();
    let (started, mut rows) = (Instant::now(), 0);
    for batch in drawn.iter().cycle() {
        let done = times.step.len();
        let enough =
            if request.quick { done == 3 } else { started.elapsed().as_secs_f64() >= request.seconds && done >= 5 };
        if enough {
            break;
        }
        times.step(&mut learner, config, batch)?;
        rows += batch.rows();
    }
    let elapsed = started.elapsed().as_secs_f64();
    let count = times.step.len();
    let cpu = (cpu_seconds() - cpu_before) / count as f64;
    let mut phases = phases(config, &drawn[0], learner.model.tower_bytes() / size_of::<f32>()).to_vec();
    for (phase, values) in phases.iter_mut().zip([&times.forward, &times.loss, &times.backward, &times.update]) {
        phase.seconds = median(values);
    }
    Ok(Measurement {
        seconds: Some(median(&times.step)),
        phases,
        note: format!(
            "median step {:.1} ms, {:.1} ms of CPU, {count} steps; {:.0} columns",
            median(&times.step) * 1e3,
            cpu * 1e3,
            mean(drawn.iter().map(|batch| batch.candidates.items.len()))
        ),
        ..Measurement::new(case, rows as f64 / elapsed, "positions/s")
    })
}

fn pace(device: &OpenDevice, request: &Request) -> Result<Vec<Measurement>> {
    let config = config(&request.settings)?;
    let examples = examples(&config, USERS, ITEMS)?;
    let drawn = Source::new(&config, &examples).draw_many(request.drawn());
    let encoder = format!("{:?}", config.model.encoder).to_lowercase();
    Ok(vec![steps(device, request, &config, encoder, &drawn)?])
}

/// In-batch losses of several shapes: windows a batch, uniform negatives.
fn loss(device: &OpenDevice, request: &Request) -> Result<Vec<Measurement>> {
    let shapes: &[[usize; 2]] =
        if request.quick { &[[16, 1000]] } else { &[[16, 400], [32, 2860], [64, 2860], [256, 11_500]] };
    let mut found = Vec::new();
    for [windows, negatives] in shapes {
        let config = config(&shape(*windows, *negatives))?;
        let examples = examples(&config, USERS, ITEMS)?;
        let drawn = Source::new(&config, &examples).draw_many(4);
        let columns = mean(drawn.iter().map(|batch| batch.candidates.items.len()));
        let case = format!("{} rows x {columns:.0} columns", drawn[0].rows());
        let step = steps(device, request, &config, case, &drawn)?;
        // Of a step, the loss alone.
        let loss: Vec<_> = step.phases.into_iter().filter(|phase| phase.name == "loss").collect();
        let seconds = loss.iter().map(|phase| phase.seconds).sum::<f64>();
        let rate = loss.iter().map(|phase| phase.flops).sum::<f64>() / seconds / 1e9;
        found.push(Measurement {
            seconds: Some(seconds),
            phases: loss,
            ..Measurement::new(step.case, rate, "Gflop/s")
        });
    }
    Ok(found)
}

fn shape(windows: usize, negatives: usize) -> Vec<String> {
    vec![format!("train.batch_windows={windows}"), format!("loss.uniform_negatives={negatives}")]
}

/// Peak memory of steps of 16,384 rows and as many columns, over what was there before the first. Fails above the limit.
fn loss_memory(device: &OpenDevice, request: &Request) -> Result<Vec<Measurement>> {
    let config = if request.quick { config(&shape(32, 2860))? } else { config(&shape(256, 11_500))? };
    let examples = examples(&config, USERS, ITEMS)?;
    let batch = Source::new(&config, &examples).draw();
    let mut learner = learner(&config, device, ITEMS);
    let before = status_bytes("VmRSS:").ok_or_else(|| Error::input("this system keeps no account of memory"))?;
    let mut times = Times::default();
    for _ in 0..2 {
        times.step(&mut learner, &config, &batch)?;
    }
    let peak = status_bytes("VmHWM:").unwrap_or(before);
    let above = peak.saturating_sub(before);
    let case = format!("{} rows x {} columns", batch.rows(), batch.candidates.items.len());
    if above > LOSS_MEMORY {
        let message = format!("a step of {case} took {} MiB above tables, towers and batch", above >> 20);
        return Err(Error::Internal(format!("{message}; {} are allowed", LOSS_MEMORY >> 20)));
    }
    let note = format!("peak above tables, towers and batch; {} MiB in all", peak >> 20);
    Ok(vec![Measurement { note, ..Measurement::new(case, above as f64 / (1 << 20) as f64, "MiB") }])
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

/// Steps on the same batches over tables of several sizes, taking turns.
fn tables(device: &OpenDevice, request: &Request) -> Result<Vec<Measurement>> {
    let sizes: &[usize] = if request.quick { &[10_000, 100_000] } else { &[10_000, 100_000, 1_000_000, 10_000_000] };
    let config = config(&request.settings)?;
    let examples = examples(&config, USERS, ITEMS)?;
    let drawn = Source::new(&config, &examples).draw_many(request.drawn());
    let mut measured = Vec::new();
    for &rows in sizes {
        let bytes = rows * (config.model.dim + 2) * size_of::<f32>();
        if memory::available().is_none_or(|available| available > bytes + bytes / 4) {
            measured.push((rows, learner(&config, device, rows), Times::default()));
        }
    }
    let mut draws = Draws::new(1);
    let mut taken = vec![false; sizes.iter().copied().max().unwrap_or(0)];
    let rounds = if request.quick { 3 } else { 60 };
    for round in 0..rounds + 2 {
        if round == 2 {
            measured.iter_mut().for_each(|(_, _, times)| times.clear());
        }
        let count = measured.len();
        for turn in 0..count {
            // Every round begins with another table, so that none always follows the same one.
            let (rows, learner, times) = &mut measured[(turn + round) % count];
            let batch = scattered(&drawn[round % drawn.len()], *rows, &mut draws, &mut taken);
            times.step(learner, &config, &batch)?;
        }
    }
    let smallest = measured.first().map_or(f64::NAN, |(_, _, times)| median(&times.step));
    let row = |(rows, learner, times): &(usize, duet_model::step::Learner, Times)| {
        let step = median(&times.step);
        let megabytes = learner.model.tables.bytes() / 1_000_000;
        let note = format!("{:.3} of the smallest, {megabytes} MB of tables", step / smallest);
        Measurement { note, ..Measurement::new(format!("{rows} rows"), step * 1e3, "ms a step") }
    };
    Ok(measured.iter().map(row).collect())
}

/// Vectors and lists of 100 for users of a world of as many items, seen items left out: what `evaluate` spends its time on.
fn evaluation(device: &OpenDevice, request: &Request) -> Result<Vec<Measurement>> {
    const K: usize = 100;
    let (users, items) = if request.quick { (500, 5000) } else { (20_000, ITEMS) };
    let config = config(&request.settings)?;
    let examples = examples(&config, users, items)?;
    let model = model(&config, device, users, items);
    let before = status_bytes("VmHWM:").unwrap_or(0);

    let started = Instant::now();
    let item_vectors = embed_items(&model, &examples.items, &examples.counts, &[])?;
    let items_took = started.elapsed();
    let started = Instant::now();
    let user_vectors = embed_users(&model, &config, &examples.users, timeline_users(&examples.timeline))?;
    let users_took = started.elapsed();
    let started = Instant::now();
    let index = ExactIndex::new(Arc::new(item_vectors))?;
    let seen: Vec<Vec<ItemIdx>> = (0..users).map(|user| seen(&examples.timeline, user)).collect();
    let lists = |queries: std::ops::Range<usize>| -> Result<()> {
        let requests: Vec<SearchRequest<'_>> =
            seen[queries.clone()].iter().map(|exclude| SearchRequest { k: K, filter: None, exclude }).collect();
        let dim = user_vectors.dim;
        index.search(&user_vectors.data[queries.start * dim..queries.end * dim], &requests).map(drop)
    };
    // A thousand users at a time, as `evaluate` does: lists of all of them are never held.
    for start in (0..users).step_by(1000) {
        lists(start..(start + 1000).min(users))?;
    }
    let lists_took = started.elapsed();
    let peak = status_bytes("VmHWM:").unwrap_or(0);
    let rate = |count: usize, took: Duration| count as f64 / took.as_secs_f64();
    let memory = format!("{} MiB at most above the world and the model", peak.saturating_sub(before) >> 20);
    Ok(vec![
        Measurement::new("item vectors", rate(items, items_took), "items/s"),
        Measurement::new("user vectors", rate(users, users_took), "users/s"),
        Measurement::new(format!("lists of {K} out of {items}"), rate(users, lists_took), "users/s"),
        Measurement {
            note: memory,
            ..Measurement::new("vectors and lists", rate(users, users_took + lists_took), "users/s")
        },
    ])
}

fn seen(timeline: &Timeline, user: usize) -> Vec<ItemIdx> {
    let mut seen = timeline.items[timeline.offsets[user]..timeline.offsets[user + 1]].to_vec();
    seen.sort_unstable();
    seen.dedup();
    seen
}

/// The searches over clustered unit vectors.
fn retrieval(request: &Request) -> Result<Vec<Measurement>> {
    const DIM: usize = 64;
    const K: usize = 10;
    let (items, queries) = if request.quick { (3000, 50) } else { (ITEMS, 2000) };
    let mut draws = Draws::new(2);
    let centres: Vec<f32> = (0..items / 100 * DIM).map(|_| normal(&mut draws)).collect();
    let mut sample = |rows: usize| -> Vec<f32> {
        let mut data = Vec::with_capacity(rows * DIM);
        for _ in 0..rows {
            let centre = draws.below(items / 100) * DIM;
            // A spread of 0.6: a cosine of about 0.74 within a cluster.
            let row: Vec<f32> = (0..DIM).map(|at| 0.6 * normal(&mut draws) + centres[centre + at]).collect();
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            data.extend(row.iter().map(|value| value / length));
        }
        data
    };
    let vectors = Arc::new(Vectors::new(DIM, sample(items))?);
    let (held_out, queries) = (sample(1000.min(items)), sample(queries));
    let requests = vec![SearchRequest::top(K); queries.len() / DIM];
    let timed = |search: &dyn Fn() -> Result<()>| -> Result<f64> {
        search()?;
        let mut seconds = Vec::new();
        for _ in 0..if request.quick { 1 } else { 5 } {
            let started = Instant::now();
            search()?;
            seconds.push(started.elapsed().as_secs_f64());
        }
        Ok(median(&seconds))
    };
    let started = Instant::now();
    let exact = ExactIndex::new(vectors.clone())?;
    let exact_built = started.elapsed().as_secs_f64();
    let started = Instant::now();
    let mut ivf = IvfIndex::new(vectors.clone(), &IvfOptions::default())?;
    let ivf_built = started.elapsed().as_secs_f64();
    let tuning = ivf.tune(&held_out, 0.99)?;
    let some = requests.len().min(100);
    let plain = timed(&|| brute_force(&vectors, &queries[..some * DIM], &requests[..some]).map(drop))?;
    let int8 = timed(&|| exact.search(&queries, &requests).map(drop))?;
    let lists = timed(&|| ivf.search(&queries, &requests).map(drop))?;
    let rate = |count: usize, seconds: f64| count as f64 / seconds;
    let row = |case: &str, value, note| Measurement { note, ..Measurement::new(case, value, "queries/s") };
    Ok(vec![
        row("plain f32 scan", rate(some, plain), String::new()),
        row("exact int8 with f32 re-rank", rate(requests.len(), int8), format!("built in {exact_built:.2} s")),
        row(
            "IVF",
            rate(requests.len(), lists),
            format!("built in {ivf_built:.2} s, recall@{K} {:.4} on held-out queries", tuning.recall_at_10),
        ),
    ])
}

/// Sum of four uniforms: near enough to a normal, of variance 1.
fn normal(draws: &mut Draws) -> f32 {
    (0..4).map(|_| 2.0 * draws.unit() - 1.0).sum::<f64>() as f32 * 0.866
}

/// From nothing to the end of the first step; the parent measures the process.
fn first_step(device: &OpenDevice, request: &Request) -> Result<Vec<Measurement>> {
    let config = config(&request.settings)?;
    let examples = examples(&config, 200, 10_000)?;
    let batch = Source::new(&config, &examples).draw();
    Times::default().step(&mut learner(&config, device, 10_000), &config, &batch)?;
    Ok(Vec::new())
}

/// A line of the kernel's account of this process, in bytes; nothing where there is no such account.
fn status_bytes(key: &str) -> Option<usize> {
    memory::of_process("self", key)
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
