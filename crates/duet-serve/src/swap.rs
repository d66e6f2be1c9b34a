//! The next bundle without a stop: looked for, opened and checked beside the one that serves, then put in its place.
//!
//! A bundle that can't be opened or fails its self-check changes nothing: the old one serves on, and the new one is not tried again until
//! the place shows something else. Requests under way keep the engine they began with; it is let go when the last of them has ended.

use std::{
    collections::VecDeque,
    path::Path,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use duet_core::{Error, Result};
use serde::Serialize;
use tokio::sync::watch;
use utoipa::ToSchema;

use crate::{
    clock::Clock,
    place::{Found, Place},
};

/// Swaps that are remembered.
const REMEMBERED: usize = 20;
/// How often it is looked whether an old engine is still in use.
const LET_GO: Duration = Duration::from_millis(200);

/// A bundle that was opened while another one served, or the first one.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, ToSchema)]
pub struct SwapRecord {
    /// When, RFC 3339 in UTC.
    pub at: String,
    /// Which bundle.
    pub bundle: String,
    /// `serving`, or `refused: ` and why; the one before serves on then.
    pub outcome: String,
}

/// The last swaps, the newest last.
#[derive(Debug, Default)]
pub struct SwapLog(Mutex<VecDeque<SwapRecord>>);

impl SwapLog {
    /// All that are remembered.
    pub fn records(&self) -> Vec<SwapRecord> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    pub(crate) fn record(&self, at: String, bundle: String, outcome: String) {
        let mut records = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if records.len() == REMEMBERED {
            records.pop_front();
        }
        records.push_back(SwapRecord { at, bundle, outcome });
    }
}

/// Opens and checks what is in a directory; runs where it may block.
pub(crate) type Opener<T> = Arc<dyn Fn(&Path) -> Result<Arc<T>> + Send + Sync>;

/// Keeps a slot filled with what is at a place.
pub(crate) struct Swapper<T> {
    pub(crate) place: Place,
    pub(crate) pause: Duration,
    pub(crate) open: Opener<T>,
    pub(crate) slot: Arc<ArcSwap<T>>,
    /// What is in the slot.
    pub(crate) serving: Found,
    pub(crate) log: Arc<SwapLog>,
    pub(crate) clock: Clock,
    /// Called with what is to serve, before it does and where it may block.
    pub(crate) prepare: Arc<dyn Fn(&T) + Send + Sync>,
    /// Called after a swap.
    pub(crate) swapped: Box<dyn Fn() + Send + Sync>,
    /// What could not be opened, while the place shows it.
    pub(crate) refused: Option<Found>,
    /// The last complaint about the place, so that it is logged once.
    pub(crate) complaint: Option<String>,
}

/// Opens what is at a place for the first time.
///
/// # Errors
/// Those of the place and of `open`.
pub(crate) async fn first<T: Send + Sync + 'static>(place: &Place, open: &Opener<T>) -> Result<(Found, Arc<T>)> {
    let found = place.look().await?;
    let directory = place.fetch(&found).await?;
    let open = Arc::clone(open);
    Ok((found, opened(open, directory).await?))
}

async fn opened<T: Send + Sync + 'static>(open: Opener<T>, directory: std::path::PathBuf) -> Result<Arc<T>> {
    let opening = tokio::task::spawn_blocking(move || open(&directory));
    // A panic in there is a bundle that can't be opened, and no more than that.
    opening.await.map_err(|error| Error::Internal(format!("opening the bundle: {error}")))?
}

impl<T: Send + Sync + 'static> Swapper<T> {
    /// Looks again and again until `stop` changes.
    pub(crate) async fn run(mut self, mut stop: watch::Receiver<bool>) {
        loop {
            tokio::select! {
                () = tokio::time::sleep(self.pause) => {}
                _ = stop.changed() => return,
            }
            self.step().await;
        }
    }

    /// One look, and the swap that follows from it.
    async fn step(&mut self) {
        let found = match self.place.look().await {
            Ok(found) => found,
            Err(error) => return self.complain(error),
        };
        if found == self.serving {
            (self.refused, self.complaint) = (None, None);
            return;
        }
        if self.refused.as_ref() == Some(&found) {
            return;
        }
        let directory = match self.place.fetch(&found).await {
            Ok(directory) => directory,
            // The store failed, not the bundle: the next look tries again.
            Err(error @ Error::Io { .. }) => return self.complain(error),
            Err(error) => return self.refuse(found, error),
        };
        match opened(Arc::clone(&self.open), directory).await {
            Ok(next) => {
                let (prepare, soon) = (Arc::clone(&self.prepare), Arc::clone(&next));
                // A panic in there has been told, and keeps no bundle back.
                let _ = tokio::task::spawn_blocking(move || prepare(&soon)).await;
                let old = self.slot.swap(next);
                self.log.record(self.clock.now_text(), found.to_string(), "serving".to_owned());
                tracing::info!(bundle = %found, "another bundle serves");
                metrics::counter!("duet_swaps_total", "outcome" => "serving").increment(1);
                self.serving = found;
                (self.refused, self.complaint) = (None, None);
                (self.swapped)();
                tokio::spawn(let_go(old));
            }
            Err(error) => self.refuse(found, error),
        }
    }

    fn complain(&mut self, error: Error) {
        let error = error.to_string();
        if self.complaint.as_ref() != Some(&error) {
            tracing::warn!(%error, "no look at the bundle's place; the one that serves does so on");
            self.complaint = Some(error);
        }
    }

    fn refuse(&mut self, found: Found, error: Error) {
        tracing::error!(bundle = %found, %error, "the new bundle is refused; the old one serves on");
        metrics::counter!("duet_swaps_total", "outcome" => "refused").increment(1);
        self.log.record(self.clock.now_text(), found.to_string(), format!("refused: {error}"));
        self.refused = Some(found);
    }
}

/// Holds an old engine until nobody else does: what unmaps gigabytes should be no thread that answers.
async fn let_go<T: Send + Sync + 'static>(old: Arc<T>) {
    while Arc::strong_count(&old) > 1 {
        tokio::time::sleep(LET_GO).await;
    }
    let _ = tokio::task::spawn_blocking(move || drop(old)).await;
}

#[cfg(all(test, unix))]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use duet_core::artifact::MANIFEST;

    use super::*;

    /// Directories whose manifest is their content; `bad` can't be opened, `burst` panics there and `unready` when it is made ready.
    struct World {
        dir: tempfile::TempDir,
        tries: Arc<AtomicUsize>,
        swaps: Arc<AtomicUsize>,
        /// What served when something was made ready, and what that was.
        prepared: Arc<Mutex<Vec<[String; 2]>>>,
        swapper: Swapper<String>,
    }

    fn turn(dir: &Path, to: &str) {
        let target = dir.join(to);
        std::fs::create_dir_all(&target).unwrap();
        std::fs::write(target.join(MANIFEST), to).unwrap();
        let link = dir.join("champion");
        let _ = std::fs::remove_file(&link);
        std::os::unix::fs::symlink(to, link).unwrap();
    }

    async fn world() -> World {
        let dir = tempfile::tempdir().unwrap();
        turn(dir.path(), "first");
        let tries = Arc::new(AtomicUsize::new(0));
        let counted = Arc::clone(&tries);
        let open: Opener<String> = Arc::new(move |dir: &Path| {
            counted.fetch_add(1, Ordering::SeqCst);
            match std::fs::read_to_string(dir.join(MANIFEST)).unwrap().as_str() {
                "bad" => Err(Error::data(dir, "damaged")),
                "burst" => panic!("burst"),
                text => Ok(Arc::new(text.to_owned())),
            }
        });
        let place = Place::Directory(dir.path().join("champion"));
        let (serving, engine) = first(&place, &open).await.unwrap();
        let swaps = Arc::new(AtomicUsize::new(0));
        let swapped = Arc::clone(&swaps);
        let slot = Arc::new(ArcSwap::new(engine));
        let serves = Arc::clone(&slot);
        let prepared = Arc::new(Mutex::new(Vec::new()));
        let noted = Arc::clone(&prepared);
        let swapper = Swapper {
            place,
            pause: Duration::from_millis(1),
            open,
            slot,
            serving,
            log: Arc::new(SwapLog::default()),
            clock: Clock::manual(0),
            prepare: Arc::new(move |next: &String| {
                noted.lock().unwrap().push([serves.load().to_string(), next.clone()]);
                assert_ne!(next, "unready", "planted");
            }),
            swapped: Box::new(move || {
                swapped.fetch_add(1, Ordering::SeqCst);
            }),
            refused: None,
            complaint: None,
        };
        World { dir, tries, swaps, prepared, swapper }
    }

    #[tokio::test]
    async fn a_turned_link_is_followed() {
        let mut world = world().await;
        let held = world.swapper.slot.load_full();
        world.swapper.step().await;
        assert_eq!(world.tries.load(Ordering::SeqCst), 1, "nothing new, nothing opened");
        turn(world.dir.path(), "second");
        world.swapper.step().await;
        assert_eq!(world.swapper.slot.load().as_str(), "second");
        assert_eq!(*held, "first", "who began with it keeps it");
        assert_eq!(world.swaps.load(Ordering::SeqCst), 1);
        let records = world.swapper.log.records();
        assert_eq!(records.len(), 1);
        assert!(records[0].bundle.starts_with("second-") && records[0].outcome == "serving", "{records:?}");
    }

    #[tokio::test]
    async fn a_damaged_bundle_is_tried_once_and_the_old_one_serves_on() {
        let mut world = world().await;
        for (step, name) in (1..).zip(["bad", "burst"]) {
            turn(world.dir.path(), name);
            for _ in 0..3 {
                world.swapper.step().await;
            }
            assert_eq!(world.tries.load(Ordering::SeqCst), 1 + step, "{name}");
            assert_eq!(world.swapper.slot.load().as_str(), "first");
            let records = world.swapper.log.records();
            assert!(records[step - 1].outcome.starts_with("refused: "), "{records:?}");
        }
        // Back, and there again: that is another try.
        turn(world.dir.path(), "first");
        world.swapper.step().await;
        turn(world.dir.path(), "burst");
        world.swapper.step().await;
        assert_eq!((world.tries.load(Ordering::SeqCst), world.swaps.load(Ordering::SeqCst)), (4, 0));
    }

    #[tokio::test]
    async fn what_is_to_serve_is_made_ready_before_it_does_and_serves_where_that_fails() {
        let mut world = world().await;
        for name in ["second", "unready", "bad"] {
            turn(world.dir.path(), name);
            world.swapper.step().await;
        }
        assert_eq!(world.swapper.slot.load().as_str(), "unready");
        let prepared = world.prepared.lock().unwrap().clone();
        assert_eq!(prepared, [["first", "second"], ["second", "unready"]]);
    }

    #[tokio::test]
    async fn a_missing_link_changes_nothing() {
        let mut world = world().await;
        std::fs::remove_file(world.dir.path().join("champion")).unwrap();
        world.swapper.step().await;
        assert!(world.swapper.complaint.is_some() && world.swapper.log.records().is_empty());
        turn(world.dir.path(), "second");
        world.swapper.step().await;
        assert_eq!(world.swapper.slot.load().as_str(), "second");
        assert!(world.swapper.complaint.is_none());
    }

    #[tokio::test]
    async fn an_old_engine_is_let_go_after_its_last_request() {
        let old = Arc::new("old".to_owned());
        let (request, weak) = (Arc::clone(&old), Arc::downgrade(&old));
        let waiting = tokio::spawn(let_go(old));
        tokio::time::sleep(2 * LET_GO).await;
        assert!(weak.upgrade().is_some());
        drop(request);
        waiting.await.unwrap();
        assert!(weak.upgrade().is_none());
    }

    #[test]
    fn the_last_swaps_are_remembered() {
        let log = SwapLog::default();
        for number in 0..30 {
            log.record(String::new(), number.to_string(), String::new());
        }
        let bundles: Vec<String> = log.records().into_iter().map(|record| record.bundle).collect();
        assert_eq!((bundles.len(), bundles[0].as_str(), bundles[19].as_str()), (20, "10", "29"));
    }
}
