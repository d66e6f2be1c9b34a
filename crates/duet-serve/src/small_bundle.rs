//! Small bundles for tests: a world of two tastes, trained for an epoch, once a process.

use std::{
    path::{Path, PathBuf},
    sync::{Arc, OnceLock, atomic::AtomicBool},
    time::Duration,
};

use duet_core::{
    ItemIdx, UserIdx,
    artifact::IfExists,
    config::Config,
    ids::IdMap,
    schema::{FeatureKind, Schema},
    table::{Column, ColumnValues, FeatureTable},
};
use duet_data::dataset::{self, Counts, DatasetInfo, DatasetKind, DatasetParts, SplitInfo, Timeline};
use duet_model::device::DeviceChoice;
use duet_train::{bundle, train};
use tempfile::TempDir;

use crate::{
    request::{ListRequest, Listener, RerankTime},
    variants::{Arm, Variant},
};

/// Users with a history: the even ones play the first half of the items, the odd ones the second.
pub(crate) const USERS: usize = 240;
/// A user of whom only the country is known.
pub(crate) const QUIET: UserIdx = UserIdx(USERS as u32);
/// A user of whom nothing is known.
pub(crate) const BLANK: UserIdx = UserIdx(USERS as u32 + 1);
/// Items; the last one was never played.
pub(crate) const ITEMS: usize = 200;
/// Played by nobody.
pub(crate) const UNHEARD: ItemIdx = ItemIdx(ITEMS as u32 - 1);
/// Events of a user.
const EVENTS: usize = 14;
const DAY_MS: i64 = 86_400_000;
/// Items share genres; every seventh has none.
pub(crate) const GENRES: [&str; 4] = ["folk", "jazz", "pop", "rock"];

const PREFIX: &str = "duet-serve-tests-";
const ABANDONED: Duration = Duration::from_secs(600);

/// Which bundle.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Which {
    /// Exact search.
    First,
    /// The same world trained from another seed.
    Second,
    /// An IVF index, a transformer, no features.
    Ivf,
    /// The first one's world, 20 days later.
    Later,
}

/// The directory of a bundle.
pub(crate) fn bundle(which: Which) -> PathBuf {
    static SHARED: OnceLock<TempDir> = OnceLock::new();
    static LATER: OnceLock<TempDir> = OnceLock::new();
    let of_days = |days: i64| {
        let dir = kept_until_the_next_run();
        let mut world = world();
        world.timeline.timestamps_ms.iter_mut().for_each(|at_ms| *at_ms += days * DAY_MS);
        dataset::write(&dir.path().join("data"), IfExists::Fail, &world).expect("the world is written");
        make(dir.path(), if days == 0 { "first" } else { "later" }, &["train.seed=1"]);
        dir
    };
    let shared = || {
        SHARED.get_or_init(|| {
            let dir = of_days(0);
            make(dir.path(), "second", &["train.seed=2"]);
            let ivf = ["index.kind=ivf", "index.lists=8", "model.encoder=transformer", "model.user_features=false"];
            make(dir.path(), "ivf", &ivf);
            dir
        })
    };
    match which {
        Which::First => shared().path().join("first"),
        Which::Second => shared().path().join("second"),
        Which::Ivf => shared().path().join("ivf"),
        Which::Later => LATER.get_or_init(|| of_days(20)).path().join("later"),
    }
}

fn make(dir: &Path, name: &str, settings: &[&str]) {
    let tiny = ["train.epochs=1", "data.validation=none", "model.dim=16", "model.feed_forward=16", "model.layers=1"];
    let settings: Vec<String> = tiny.iter().chain(settings).map(|&setting| setting.to_owned()).collect();
    let run = dir.join(format!("{name}-run"));
    let options = train::TrainOptions {
        config: Config::resolve(&[], &settings).expect("the settings are valid"),
        dataset: dir.join("data"),
        out: run.clone(),
        device: DeviceChoice::Cpu,
        resume: false,
        overwrite: false,
        warm_start: None,
        max_time: None,
        stop: Arc::new(AtomicBool::new(false)),
    };
    train::train(&options).expect("the world is learned");
    let options =
        bundle::EmbedOptions { run, out: dir.join(name), dataset: None, device: DeviceChoice::Cpu, overwrite: false };
    bundle::embed(&options).expect("the bundle is made");
}

fn world() -> DatasetParts {
    let half = (ITEMS - 1) / 2;
    let mut timeline = Timeline { offsets: vec![0], ..Timeline::default() };
    for user in 0..USERS {
        for turn in 0..EVENTS {
            let item = (user * user / 3 + turn * 7 + turn * turn) % half + user % 2 * half;
            timeline.items.push(ItemIdx::from(item));
            timeline.timestamps_ms.push(turn as i64 * 2 * DAY_MS + user as i64);
        }
        timeline.offsets.push(timeline.items.len());
    }
    // Every item but one is played: what is left over by the tastes goes to the first user.
    let played: std::collections::HashSet<u32> = timeline.items.iter().map(|item| item.0).collect();
    let left: Vec<ItemIdx> = (0..UNHEARD.0).filter(|item| !played.contains(item)).map(ItemIdx).collect();
    timeline.items = [left.as_slice(), &timeline.items].concat();
    timeline.timestamps_ms = [vec![0; left.len()], timeline.timestamps_ms].concat();
    timeline.offsets.iter_mut().skip(1).for_each(|offset| *offset += left.len());
    timeline.offsets.extend([timeline.items.len(); 2]);

    let ids = |prefix: &str, count: usize| {
        IdMap::new((0..count).map(|row| format!("{prefix}{row}")).collect()).expect("ids differ")
    };
    let column = |name: &str, values| Column { name: name.to_owned(), values };
    let countries = (0..USERS).map(|user| Some(["de", "fr"][user / 2 % 2].to_owned()));
    let users = FeatureTable {
        columns: vec![column("country", ColumnValues::Text(countries.chain([Some("de".to_owned()), None]).collect()))],
        ..FeatureTable::from_ids(ids("u", USERS + 2))
    };
    let genre = |item: usize| if item.is_multiple_of(7) { Vec::new() } else { vec![GENRES[item % 4].to_owned()] };
    let items = FeatureTable {
        names: (0..ITEMS).map(|item| format!("Artist {item}")).collect(),
        columns: vec![
            column("followers", ColumnValues::Number((0..ITEMS).map(|item| (item * 10) as f64).collect())),
            column("genres", ColumnValues::TextList((0..ITEMS).map(genre).collect())),
        ],
        ..FeatureTable::from_ids(ids("a", ITEMS))
    };
    let genres = FeatureKind::MultiCategorical { separator: "|".to_owned() };
    DatasetParts {
        info: DatasetInfo {
            kind: DatasetKind::Sequences,
            item_kind: "artist".to_owned(),
            schema: Schema {
                users: [("country".to_owned(), FeatureKind::Categorical {})].into(),
                items: [("followers".to_owned(), FeatureKind::Numeric {}), ("genres".to_owned(), genres)].into(),
            },
            counts: Counts::default(),
            split: SplitInfo {
                kind: "none".to_owned(),
                parameters: String::new(),
                cutoff_ms: None,
                hash: String::new(),
            },
            has_time: true,
            has_weight: false,
            reference_day: None,
            sources: Vec::new(),
        },
        users,
        items,
        timeline,
        test: Vec::new(),
        oracle: None,
    }
}

/// A request for the two-tower, ten items, without what was played.
pub(crate) fn request(listener: Listener) -> ListRequest {
    ListRequest {
        listener,
        k: 10,
        exclude_seen: true,
        filter: None,
        conditions: Vec::new(),
        explain: false,
        variant: variant(Arm::TwoTower, false),
        rerank_time: RerankTime::default(),
        now_ms: 0,
    }
}

/// A variant.
pub(crate) fn variant(recommender: Arm, rerank: bool) -> Arc<Variant> {
    Arc::new(Variant { name: "test".to_owned(), recommender, rerank })
}

/// A user of the bundle who did something since.
pub(crate) fn known(row: UserIdx, live: &[u32]) -> Listener {
    Listener::Known { id: format!("u{}", row.0), row: Some(row), live: live.iter().copied().map(ItemIdx).collect() }
}

/// A directory for the bundles. Statics are never dropped, so each process clears away what an earlier one left, once that is old enough
/// to belong to nobody.
fn kept_until_the_next_run() -> TempDir {
    let place = std::env::temp_dir();
    for entry in std::fs::read_dir(&place).expect("a directory for temporary files").flatten() {
        let age = entry.metadata().and_then(|data| data.modified()).ok().and_then(|time| time.elapsed().ok());
        if entry.file_name().to_string_lossy().starts_with(PREFIX) && age.is_some_and(|age| age > ABANDONED) {
            // Another process may be at it too.
            let _ = std::fs::remove_dir_all(entry.path());
        }
    }
    tempfile::Builder::new().prefix(PREFIX).tempdir_in(place).expect("a temporary directory")
}
