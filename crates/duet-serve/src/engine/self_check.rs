//! Whether a bundle may serve: its live tower against the vectors it was published with, and its lists.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use duet_core::{Error, ItemIdx, Result, UserIdx};
use duet_train::embedding_pass::UserEmbedder;

use super::Engine;
use crate::{
    request::{ListRequest, Listener, RerankTime},
    variants::{Arm, Variant},
    worker::Worker,
};

/// How far a live vector may be from the stored one, in lengths of the stored one.
const TOLERANCE: f32 = 1e-4;
/// Items asked for.
const K: usize = 10;
/// Lists that are timed.
const TIMED: usize = 8;

impl Engine {
    /// Computes the vectors of some users live and compares them with the bundle's, then asks for their lists, and for those of somebody
    /// unknown: full, finite, each item once. Times some of them, for [`Engine::list_cost`].
    ///
    /// # Errors
    /// [`Error::Data`] saying what is wrong; no user is named.
    pub fn self_check(self: &Arc<Self>) -> Result<()> {
        let failed = |message: String| Error::data(self.bundle(), format!("self-check: {message}"));
        let known: Vec<UserIdx> =
            (0..self.user_ids().len()).map(UserIdx::from).filter(|&user| self.knows(user)).collect();
        // Evenly over the table, so that its end is looked at as well.
        let step = known.len().div_ceil(self.options.self_check_users.max(1)).max(1);
        let sample: Vec<UserIdx> = known.iter().copied().step_by(step).collect();
        if !sample.is_empty() {
            let mut embedder = UserEmbedder::new(Arc::clone(&self.model));
            let inputs = sample.iter().map(|&user| self.stored_input(user));
            let live = embedder.embed(&self.config, &self.user_features, inputs)?;
            for (at, (&user, live)) in sample.iter().zip(live.chunks_exact(embedder.width())).enumerate() {
                let stored = self.user_vectors.row(user.index());
                let away = distance(live, stored) / length(stored).max(f32::MIN_POSITIVE);
                if away.is_nan() || away > TOLERANCE {
                    return Err(failed(format!(
                        "the live tower is {away:.1e} lengths away from the stored vector of user {} of {} looked at; at most \
                         {TOLERANCE:.0e} is rounding",
                        at + 1,
                        sample.len()
                    )));
                }
            }
        }
        // What a database holds says nothing about the bundle.
        let mut worker = Worker::alone(Arc::clone(self));
        self.check_lists(&mut worker, &sample).map_err(failed)?;
        if let Some(cost) = self.time_lists(&mut worker, &sample) {
            self.list_cost.get_or_init(|| cost);
        }
        Ok(())
    }

    /// The time of the fastest of some lists, for listeners who just played something: a machine that is busy elsewhere makes some slower.
    fn time_lists(&self, worker: &mut Worker, users: &[UserIdx]) -> Option<Duration> {
        let time = |&user: &UserIdx| {
            let live = self.history(user).last().copied().into_iter().collect();
            let request = request(Some(user), live);
            let started = Instant::now();
            worker.answer(std::slice::from_ref(&request));
            started.elapsed()
        };
        users.iter().take(TIMED).map(time).min()
    }

    fn check_lists(&self, worker: &mut Worker, users: &[UserIdx]) -> std::result::Result<(), String> {
        let rows: Vec<Option<UserIdx>> = users.iter().copied().map(Some).chain([None]).collect();
        let requests: Vec<ListRequest> = rows.iter().map(|&row| request(row, Vec::new())).collect();
        let answers = worker.answer(&requests);
        for (row, answer) in rows.iter().zip(answers) {
            if let Some(word) = answer.degraded.first() {
                return Err(format!("a list came out as {word}"));
            }
            let mut items: Vec<_> = answer.items.iter().map(|entry| entry.item).collect();
            items.sort_unstable();
            items.dedup();
            let mut seen = row.map_or_else(Vec::new, |row| self.history(row).to_vec());
            seen.sort_unstable();
            seen.dedup();
            let expected = K.min(self.items().len() - seen.len());
            if items.len() != answer.items.len() || items.len() != expected {
                return Err(format!("a list has {} different items, {expected} were asked for", items.len()));
            }
            if answer.items.iter().any(|entry| !entry.score.is_finite()) {
                return Err("a score is not finite".to_owned());
            }
        }
        Ok(())
    }
}

fn request(row: Option<UserIdx>, live: Vec<ItemIdx>) -> ListRequest {
    let variant = Variant { name: "self-check".to_owned(), recommender: Arm::TwoTower, rerank: false };
    ListRequest {
        listener: Listener::Known { id: String::new(), row, live },
        k: K,
        exclude_seen: true,
        filter: None,
        conditions: Vec::new(),
        explain: false,
        variant: Arc::new(variant),
        rerank_time: RerankTime::default(),
        now_ms: 0,
    }
}

fn distance(left: &[f32], right: &[f32]) -> f32 {
    left.iter().zip(right).map(|(left, right)| (left - right).powi(2)).sum::<f32>().sqrt()
}

fn length(vector: &[f32]) -> f32 {
    vector.iter().map(|value| value * value).sum::<f32>().sqrt()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;
    use crate::{
        engine::EngineOptions,
        small_bundle::{Which, bundle},
    };

    fn built(which: Which) -> Engine {
        Engine::build(&bundle(which), &EngineOptions::default()).unwrap()
    }

    #[test]
    fn a_sound_bundle_passes() {
        for which in [Which::First, Which::Second, Which::Ivf] {
            let engine = Arc::new(built(which));
            assert_eq!(engine.list_cost(), None);
            engine.self_check().unwrap();
            let cost = engine.list_cost().unwrap();
            assert!(cost > Duration::ZERO && cost < Duration::from_secs(10), "{cost:?}");
        }
    }

    #[test]
    fn planted_damage_is_found() {
        let message = |engine: Engine| Arc::new(engine).self_check().unwrap_err().to_string();
        // Weights of another training.
        let mut engine = built(Which::First);
        engine.model = Arc::clone(&built(Which::Second).model);
        assert!(message(engine).contains("lengths away from the stored vector"));
        // Vectors of other users.
        let mut engine = built(Which::First);
        engine.user_vectors.data.rotate_left(engine.user_vectors.dim);
        assert!(message(engine).contains("lengths away from the stored vector"));
        // A vector that is no number.
        let mut engine = built(Which::First);
        engine.user_vectors.data.fill(f32::NAN);
        assert!(message(engine).contains("lengths away from the stored vector"));
    }

    #[test]
    fn a_damaged_file_is_named() {
        let dir = tempfile::tempdir().unwrap();
        for entry in walk(&bundle(Which::First)) {
            let to = dir.path().join(entry.strip_prefix(bundle(Which::First)).unwrap());
            std::fs::create_dir_all(to.parent().unwrap()).unwrap();
            std::fs::copy(&entry, to).unwrap();
        }
        Engine::open(dir.path(), &EngineOptions::default()).unwrap();
        for name in ["weights.safetensors", "users.parquet", "items.parquet", "data/timeline.parquet"] {
            let path = dir.path().join(name);
            let good = std::fs::read(&path).unwrap();
            let mut bad = good.clone();
            bad[good.len() / 2] ^= 0x10;
            std::fs::write(&path, bad).unwrap();
            let error = Engine::open(dir.path(), &EngineOptions::default()).unwrap_err().to_string();
            assert!(error.contains(name) && error.contains("CRC-32"), "{name}: {error}");
            std::fs::write(&path, good).unwrap();
        }
    }

    fn walk(dir: &std::path::Path) -> Vec<std::path::PathBuf> {
        let mut found = Vec::new();
        for entry in std::fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() { found.extend(walk(&path)) } else { found.push(path) }
        }
        found
    }
}
