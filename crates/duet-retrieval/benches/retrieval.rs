//! Build time, recall and speed of the searches on clustered unit vectors, made here from a seed.
//!
//! `cargo bench -p duet-retrieval -- [ITEMS] [DIM] [CLUSTERS]` (default 200000 64 2000; 0 clusters: no structure).
//! Held-out queries come from the same clusters as the items. Figures are medians of five passes, one thread.

use std::{sync::Arc, time::Instant};

use duet_core::{Error, Result};
use duet_retrieval::{
    ItemFilter, Scored, Vectors,
    search::{ExactIndex, IvfIndex, IvfOptions, Kernel, SearchRequest, VectorSearch, brute_force},
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

/// Spread of a cluster: items of one cluster have a cosine of about 1 / (1 + SPREAD^2) with each other.
const SPREAD: f32 = 0.6;
const QUERIES: usize = 2000;
const PASSES: usize = 5;

/// Sum of four uniforms: near enough to a normal, of variance 1.
fn normal(rng: &mut Pcg64Mcg) -> f32 {
    (0..4).map(|_| rng.random_range(-1.0_f32..1.0)).sum::<f32>() * 0.866
}

struct World {
    dim: usize,
    centres: Vec<Vec<f32>>,
    rng: Pcg64Mcg,
}

impl World {
    fn new(dim: usize, clusters: usize) -> Self {
        let mut rng = Pcg64Mcg::seed_from_u64(20_261_123);
        let centres = (0..clusters).map(|_| (0..dim).map(|_| normal(&mut rng)).collect()).collect();
        Self { dim, centres, rng }
    }

    fn sample(&mut self, rows: usize) -> Vec<f32> {
        let mut data = Vec::with_capacity(rows * self.dim);
        for _ in 0..rows {
            let mut row: Vec<f32> = (0..self.dim).map(|_| normal(&mut self.rng)).collect();
            if !self.centres.is_empty() {
                let centre = &self.centres[self.rng.random_range(0..self.centres.len())];
                row.iter_mut().zip(centre).for_each(|(value, centre)| *value = SPREAD * *value + centre);
            }
            let length = row.iter().map(|value| value * value).sum::<f32>().sqrt();
            data.extend(row.iter().map(|value| value / length));
        }
        data
    }
}

fn recall(exact: &[Vec<Scored>], found: &[Vec<Scored>]) -> (f64, f64) {
    let shares: Vec<f64> = exact
        .iter()
        .zip(found)
        .map(|(exact, found)| {
            let hits = exact.iter().filter(|entry| found.iter().any(|other| other.item == entry.item)).count();
            hits as f64 / exact.len() as f64
        })
        .collect();
    (shares.iter().sum::<f64>() / shares.len() as f64, shares.iter().copied().fold(1.0, f64::min))
}

fn measure(
    name: &str,
    exact: &[Vec<Scored>],
    passes: usize,
    search: impl Fn() -> Result<Vec<Vec<Scored>>>,
) -> Result<()> {
    let mut seconds = Vec::new();
    let mut found = search()?;
    for _ in 0..passes {
        let start = Instant::now();
        found = search()?;
        seconds.push(start.elapsed().as_secs_f64());
    }
    seconds.sort_by(f64::total_cmp);
    let (mean, worst) = recall(exact, &found);
    let rate = found.len() as f64 / seconds[seconds.len() / 2];
    println!("{name:44} recall {mean:.4}  worst query {worst:.1}  {rate:>9.0} queries/s");
    Ok(())
}

fn main() -> Result<()> {
    // cargo passes --bench.
    let numbers: Vec<usize> = std::env::args().filter_map(|argument| argument.parse().ok()).collect();
    let size = |at: usize, default| numbers.get(at).copied().unwrap_or(default);
    let (n_items, dim, clusters) = (size(0, 200_000), size(1, 64), size(2, 2000));
    let pool =
        rayon::ThreadPoolBuilder::new().num_threads(1).build().map_err(|error| Error::Internal(error.to_string()))?;
    pool.install(|| run(n_items, dim, clusters))
}

fn run(n_items: usize, dim: usize, clusters: usize) -> Result<()> {
    let mut world = World::new(dim, clusters);
    let vectors = Arc::new(Vectors::new(dim, world.sample(n_items))?);
    let (held_out, queries) = (world.sample(1000), world.sample(QUERIES));
    println!("{n_items} x {dim}, {clusters} clusters, {QUERIES} queries, kernel {}", Kernel::detect().as_str());

    let start = Instant::now();
    let exact = ExactIndex::new(vectors.clone())?;
    println!("exact int8: build {:.2} s", start.elapsed().as_secs_f64());
    let start = Instant::now();
    let mut ivf = IvfIndex::new(vectors.clone(), &IvfOptions::default())?;
    println!("ivf: build {:.2} s, {} lists", start.elapsed().as_secs_f64(), ivf.n_lists());

    let filter = ItemFilter::from_predicate(n_items, |item| item.0 % 100 == 7);
    let tenth = ItemFilter::from_predicate(n_items, |item| item.0 % 10 == 7);
    let third = ItemFilter::from_predicate(n_items, |item| item.0 % 3 == 1);
    for k in [10, 100] {
        let top = vec![SearchRequest::top(k); QUERIES];
        let some = 50.min(QUERIES);
        let truth = exact.search(&queries, &top)?;
        measure(&format!("k {k}: brute f32"), &truth[..some], 3, || {
            brute_force(&vectors, &queries[..some * dim], &top[..some])
        })?;
        measure(&format!("k {k}: exact int8"), &truth, PASSES, || exact.search(&queries, &top))?;
        for floor in [0.99, 0.997, 0.999] {
            let start = Instant::now();
            let tuning = ivf.tune(&held_out, floor)?;
            let name = format!(
                "k {k}: ivf, nprobe {} (floor {floor}, tuned {:.1} s)",
                tuning.nprobe,
                start.elapsed().as_secs_f64()
            );
            measure(&name, &truth, PASSES, || ivf.search(&queries, &top))?;
            // One query a call: what a server does.
            if floor == 0.99 {
                measure(&format!("k {k}: ivf, one query a call"), &truth, PASSES, || {
                    queries.chunks(dim).map(|query| Ok(ivf.search(query, &top[..1])?.remove(0))).collect()
                })?;
            }
        }
        ivf.tune(&held_out, 0.99)?;
        for (share, filter) in [("1 %", &filter), ("10 %", &tenth), ("33 %", &third)] {
            let filtered = vec![SearchRequest { k, filter: Some(filter), exclude: &[] }; QUERIES];
            let truth = exact.search(&queries, &filtered)?;
            measure(&format!("k {k}: exact int8, {share} filter"), &truth, PASSES, || {
                exact.search(&queries, &filtered)
            })?;
            measure(&format!("k {k}: ivf, {share} filter"), &truth, PASSES, || ivf.search(&queries, &filtered))?;
        }
    }
    for kernel in Kernel::available() {
        let top = vec![SearchRequest::top(10); QUERIES];
        let truth = exact.search(&queries, &top)?;
        let (exact, ivf) = (exact.clone().with_kernel(kernel), ivf.clone().with_kernel(kernel));
        let few = 200.min(QUERIES);
        measure(&format!("k 10: exact int8, {}", kernel.as_str()), &truth[..few], 3, || {
            exact.search(&queries[..few * dim], &top[..few])
        })?;
        measure(&format!("k 10: ivf, {}", kernel.as_str()), &truth, 3, || ivf.search(&queries, &top))?;
    }
    Ok(())
}
