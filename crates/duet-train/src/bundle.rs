//! The bundle: everything retrieval needs, in one verified directory.
//!
//! ```text
//! BUNDLE/manifest.json        kind `duet-bundle`, a checksum for every file, recall report
//! BUNDLE/items.parquet        id, vector (fixed-size list of f32)
//! BUNDLE/users.parquet        id, vector
//! BUNDLE/index.ivf            the index, where the catalogue is large enough to need one
//! BUNDLE/weights.safetensors  the towers and tables, for vectors computed live
//! BUNDLE/config.toml, run.json  configuration, feature encoders, dataset description
//! BUNDLE/data/                users, items (names, features) and training events of the dataset: seen items, fallbacks, filters
//! BUNDLE/reranker/           boosted trees for the second stage, where the run has them
//! BUNDLE/MODEL_CARD.md        what it is, for people
//! ```
//!
//! A bundle whose index finds less of the exact answer than `index.recall_floor` is not published.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Instant,
};

use duet_core::{
    Error, Result,
    artifact::{DirWriter, IfExists, Manifest},
    config::{Config, IndexKind},
};
use duet_data::dataset::Dataset;
use duet_model::{device::DeviceChoice, tensor_file};
use duet_retrieval::{
    search::{ExactIndex, Index, IvfIndex, IvfOptions, SearchRequest, VectorSearch, brute_force},
    vectors::{Vectors, read_vectors, write_vectors},
};
use fs_err as fs;
use rand::{SeedableRng, seq::SliceRandom};
use rand_pcg::Pcg64Mcg;
use serde::{Deserialize, Serialize};

use crate::{
    reranker::SavedTrees,
    retriever::{RunVectors, run_vectors},
    run::{self, Run, RunInfo, WEIGHTS_FILE, WeightsInfo},
};

/// Magic of the manifest.
pub const MAGIC: &str = "duet-bundle";
/// Format version this build writes and reads.
pub const VERSION: u32 = 1;

pub(crate) const ITEMS: &str = "items.parquet";
pub(crate) const USERS: &str = "users.parquet";
pub(crate) const INDEX: &str = "index.ivf";
pub(crate) const DATA: &str = "data";
/// The dataset's files that a bundle carries.
const DATA_FILES: [&str; 3] = ["users.parquet", "items.parquet", "timeline.parquet"];

/// What to embed, and where to.
#[derive(Debug, Clone)]
pub struct EmbedOptions {
    /// The run.
    pub run: PathBuf,
    /// The bundle's directory.
    pub out: PathBuf,
    /// The dataset, if it is no longer where it was.
    pub dataset: Option<PathBuf>,
    /// Where to compute.
    pub device: DeviceChoice,
    /// Replace a bundle that is there.
    pub overwrite: bool,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct EmbedSummary {
    /// The bundle's directory.
    pub bundle: PathBuf,
    /// Which index it holds.
    pub index: String,
    /// Share of the exact 10 best that the index finds, mean over `recall_users`.
    pub recall_at_10: f64,
    /// The same for the 100 best.
    pub recall_at_100: f64,
    /// Users embedded.
    pub users: usize,
    /// Items embedded.
    pub items: usize,
    /// Seconds it took.
    pub seconds: f64,
}

/// The index against exact search.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RecallReport {
    /// "exact" or "ivf".
    pub index: String,
    /// The floor asked for.
    pub floor: f64,
    /// User vectors it was measured on, those with held-out events first.
    pub users: usize,
    /// Mean share of the exact 10 best found.
    pub recall_at_10: f64,
    /// Mean share of the exact 100 best found.
    pub recall_at_100: f64,
    /// The worst user at 10.
    pub worst_at_10: f64,
    /// Users with a recall@10 under 0.5.
    pub below_half: usize,
    /// Lists scanned a query (IVF).
    pub nprobe: Option<usize>,
}

/// The manifest's body.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct BundleInfo {
    /// Fingerprint of the dataset.
    pub dataset_fingerprint: String,
    /// What an item is called.
    pub item_kind: String,
    /// Users embedded.
    pub users: usize,
    /// Items embedded.
    pub items: usize,
    /// Length of a vector.
    pub dim: usize,
    /// The model's parameters.
    pub weights: WeightsInfo,
    /// The index against exact search.
    pub recall: RecallReport,
}

/// A bundle that was opened for use.
#[derive(Debug)]
pub struct OpenBundle {
    /// The manifest's body.
    pub info: BundleInfo,
    /// The run's configuration.
    pub config: Config,
    /// The run's record: encoders, dataset description.
    pub run: RunInfo,
    /// The dataset's tables that the bundle carries (no held-out part).
    pub dataset: Dataset,
    /// User vectors.
    pub users: Vectors,
    /// The index over the item vectors.
    pub index: Index,
}

/// Reads and verifies a bundle's manifest and every file it lists.
///
/// # Errors
/// [`Error::Data`] naming the file that is missing, truncated or damaged.
pub fn open_info(dir: &Path) -> Result<BundleInfo> {
    Ok(Manifest::<BundleInfo>::open(dir, MAGIC, VERSION)?.body)
}

/// Reads a bundle's manifest alone: nothing it lists is looked at.
///
/// # Errors
/// [`Error::Data`] naming the manifest if it is missing, damaged or of another kind.
pub fn read_info(dir: &Path) -> Result<BundleInfo> {
    Ok(Manifest::<BundleInfo>::open_unchecked(dir, MAGIC, VERSION)?.body)
}

/// Opens a bundle.
///
/// # Errors
/// As [`open_info`]; [`Error::Data`] if its parts do not fit together.
pub fn open(dir: &Path) -> Result<OpenBundle> {
    // A link may be turned to the next bundle while this one is read.
    let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let info = open_info(dir)?;
    let (config, run) = run::read_records(dir)?;
    let dataset = dataset(dir, &info, &run);
    let (user_ids, users) = read_vectors(&dir.join(USERS))?;
    let (item_ids, items) = read_vectors(&dir.join(ITEMS))?;
    let expected = |path: &Path, ids: &[String], table: &[String]| {
        if ids == table { Ok(()) } else { Err(Error::data(path, "its ids are not those of the bundle's tables")) }
    };
    expected(&dir.join(USERS), &user_ids, dataset.users()?.ids.ids())?;
    expected(&dir.join(ITEMS), &item_ids, dataset.items()?.ids.ids())?;
    let index = match info.recall.nprobe {
        Some(_) => Index::Ivf(IvfIndex::load(&dir.join(INDEX))?),
        None => Index::Exact(ExactIndex::new(Arc::new(items))?),
    };
    Ok(OpenBundle { info, config, run, dataset, users, index })
}

/// The tables a bundle carries, and the record of its run; the vectors and the index stay unread, the checksums are checked.
///
/// # Errors
/// As [`open_info`].
pub(crate) fn open_tables(dir: &Path) -> Result<(Dataset, RunInfo)> {
    let dir = &fs::canonicalize(dir).unwrap_or_else(|_| dir.to_path_buf());
    let info = open_info(dir)?;
    let (_, run) = run::read_records(dir)?;
    Ok((dataset(dir, &info, &run), run))
}

/// The dataset's tables that a bundle carries.
pub(crate) fn dataset(dir: &Path, info: &BundleInfo, run: &RunInfo) -> Dataset {
    Dataset { dir: dir.join(DATA), info: run.dataset.clone(), fingerprint: info.dataset_fingerprint.clone() }
}

/// Embeds all users and items of a run, builds and checks the index, and publishes the bundle.
///
/// # Errors
/// [`Error::Input`] if the place is taken or the index stays below the recall floor; nothing is published then.
pub fn embed(options: &EmbedOptions) -> Result<EmbedSummary> {
    let started = Instant::now();
    let if_exists = if options.overwrite { IfExists::Replace } else { IfExists::Fail };
    let writer = DirWriter::create(&options.out, if_exists)?;
    let run = Run::open(&options.run, options.device)?;
    let dataset = run.dataset(options.dataset.as_deref())?;
    // Before anything slow: trees of another training must not go along.
    let trees = SavedTrees::open(&run.dir, &run.info.dataset_fingerprint, &run.weights)?;
    let RunVectors { items, users, .. } = run_vectors(&run, &dataset)?;
    let items = Arc::new(items);
    let sample = recall_sample(&dataset, &users, &run.config)?;
    let (index, recall) = build_index(&items, &sample, &run.config)?;
    let floor = run.config.index.recall_floor;
    if recall.recall_at_10 < floor || recall.recall_at_100 < floor {
        return Err(Error::input(format!(
            "the {} index finds {:.4} of the exact 10 best and {:.4} of the 100 best, below index.recall_floor {floor}: \
             not published; raise index.lists or take index.kind=exact",
            recall.index, recall.recall_at_10, recall.recall_at_100
        )));
    }
    write_vectors(&writer.path(ITEMS), dataset.items()?.ids.ids(), &items)?;
    write_vectors(&writer.path(USERS), dataset.users()?.ids.ids(), &users)?;
    if let Index::Ivf(index) = &index {
        index.save(&writer.path(INDEX))?;
    }
    tensor_file::write(&writer.path(WEIGHTS_FILE), &run.model.state(false)?)?;
    run::write_records(writer.dir(), &run.config, &run.info)?;
    let data = writer.path(DATA);
    fs::create_dir(&data).map_err(Error::io(&data))?;
    for name in DATA_FILES {
        let from = dataset.dir.join(name);
        let to = data.join(name);
        std::fs::copy(&from, &to).map_err(Error::io(&to))?;
    }
    if let Some(trees) = &trees {
        trees.copy_to(writer.dir())?;
    }
    let info = BundleInfo {
        dataset_fingerprint: dataset.fingerprint.clone(),
        item_kind: dataset.info.item_kind.clone(),
        users: users.len(),
        items: items.len(),
        dim: items.dim,
        weights: run.weights.clone(),
        recall,
    };
    let card = writer.path("MODEL_CARD.md");
    fs::write(&card, model_card(&info, &run, trees.as_ref())).map_err(Error::io(&card))?;
    let bundle = writer.publish(MAGIC, VERSION, &info)?;
    Ok(EmbedSummary {
        bundle,
        index: info.recall.index,
        recall_at_10: info.recall.recall_at_10,
        recall_at_100: info.recall.recall_at_100,
        users: info.users,
        items: info.items,
        seconds: started.elapsed().as_secs_f64(),
    })
}

/// User vectors to measure the index on: users with held-out events first, then others at random.
fn recall_sample(dataset: &Dataset, users: &Vectors, config: &Config) -> Result<Vec<f32>> {
    let mut rng = Pcg64Mcg::seed_from_u64(config.train.seed);
    let mut held_out: Vec<usize> =
        dataset.test()?.iter().filter_map(|user| user.user.map(duet_core::UserIdx::index)).collect();
    held_out.shuffle(&mut rng);
    let mut others: Vec<usize> = (0..users.len()).collect();
    others.shuffle(&mut rng);
    let is_held_out: std::collections::HashSet<usize> = held_out.iter().copied().collect();
    let rows = held_out.iter().copied().chain(others.into_iter().filter(|user| !is_held_out.contains(user)));
    Ok(rows.take(config.index.recall_users).flat_map(|user| users.row(user).to_vec()).collect())
}

fn build_index(items: &Arc<Vectors>, sample: &[f32], config: &Config) -> Result<(Index, RecallReport)> {
    let settings = &config.index;
    let options = IvfOptions {
        lists: (settings.lists > 0).then_some(settings.lists),
        seed: config.train.seed,
        ..IvfOptions::default()
    };
    let mut index = match settings.kind {
        IndexKind::Auto => Index::auto(Arc::clone(items), &options)?,
        IndexKind::Exact => Index::Exact(ExactIndex::new(Arc::clone(items))?),
        IndexKind::Ivf => Index::Ivf(IvfIndex::new(Arc::clone(items), &options)?),
    };
    let mut nprobe = None;
    if let Index::Ivf(ivf) = &mut index {
        // A floor of 1 is a question of luck for fewer than all lists; above .999 the tuner would scan nearly all of them.
        nprobe = Some(ivf.tune(sample, settings.recall_floor.max(f64::MIN_POSITIVE))?.nprobe);
    }
    let report = measure_recall(&index, items, sample, settings.recall_floor, nprobe)?;
    Ok((index, report))
}

fn measure_recall(
    index: &Index,
    items: &Vectors,
    sample: &[f32],
    floor: f64,
    nprobe: Option<usize>,
) -> Result<RecallReport> {
    let users = sample.len() / items.dim;
    let requests = vec![SearchRequest::top(100); users];
    let exact = brute_force(items, sample, &requests)?;
    let found = index.search(sample, &requests)?;
    let recall = |k: usize| -> Vec<f64> {
        exact
            .iter()
            .zip(&found)
            .map(|(exact, found)| {
                let wanted: std::collections::HashSet<_> = exact.iter().take(k).map(|scored| scored.item).collect();
                let hits = found.iter().take(k).filter(|scored| wanted.contains(&scored.item)).count();
                if wanted.is_empty() { 1.0 } else { hits as f64 / wanted.len() as f64 }
            })
            .collect()
    };
    let mean = |values: &[f64]| values.iter().sum::<f64>() / values.len().max(1) as f64;
    let (at_10, at_100) = (recall(10), recall(100));
    Ok(RecallReport {
        index: index.name().to_owned(),
        floor,
        users,
        recall_at_10: mean(&at_10),
        recall_at_100: mean(&at_100),
        worst_at_10: at_10.iter().copied().fold(1.0, f64::min),
        below_half: at_10.iter().filter(|&&recall| recall < 0.5).count(),
        nprobe,
    })
}

fn model_card(info: &BundleInfo, run: &Run, trees: Option<&SavedTrees>) -> String {
    let dataset = &run.info.dataset;
    let columns = |names: Vec<&str>| if names.is_empty() { "none".to_owned() } else { names.join(", ") };
    let validation = info.weights.validation_ndcg.map_or("none".to_owned(), |ndcg| format!("NDCG@10 {ndcg:.4}"));
    let reranker = trees.map_or("none".to_owned(), |trees| {
        format!("{} boosted trees, from {} {}", trees.info.trees, trees.info.rows, trees.info.examples)
    });
    format!(
        "# Model card\n\n\
         A two-tower retrieval model: a listener's vector and an {kind}'s vector, the score is their dot product.\n\n\
         | | |\n| --- | --- |\n\
         | dataset | {fingerprint} |\n\
         | training events | {events} of {users} users on {items} {kind}s |\n\
         | split | {split} {parameters} |\n\
         | history encoder | {encoder:?}, vectors of {dim} |\n\
         | user features | {user_features} |\n\
         | {kind} features | {item_features} |\n\
         | epochs | {epochs}{refitted} |\n\
         | validation | {validation} (full catalogue, seen items left out) |\n\
         | index | {index}, recall@10 {at_10:.4}, recall@100 {at_100:.4} on {recall_users} users; worst {worst:.2}; {below} under 0.5 |\n\
         | re-ranker | {reranker} |\n\n\
         ## Limits\n\n\
         * Item features are those of the last training day: retrain as they drift.\n\
         * A user without history and features gets the trending list, the same for everyone.\n\
         * Vectors of users are as of the export; live histories need the user tower (`weights.safetensors`).\n",
        kind = info.item_kind,
        fingerprint = info.dataset_fingerprint,
        events = dataset.counts.events,
        users = dataset.counts.users,
        items = dataset.counts.items,
        split = dataset.split.kind,
        parameters = dataset.split.parameters,
        encoder = run.config.model.encoder,
        dim = info.dim,
        user_features = columns(run.info.users.column_names()),
        item_features = columns(run.info.items.column_names()),
        epochs = info.weights.epoch,
        refitted = if info.weights.refitted { ", on all events" } else { "" },
        index = info.recall.index,
        at_10 = info.recall.recall_at_10,
        at_100 = info.recall.recall_at_100,
        recall_users = info.recall.users,
        worst = info.recall.worst_at_10,
        below = info.recall.below_half,
    )
}
