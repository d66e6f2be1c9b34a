//! What all routes share.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicI64, Ordering},
    },
};

use duet_core::Result;
use duet_data::accounts::UserKey;
use tokio::sync::Semaphore;

use crate::{
    clock::Clock,
    config::ServeConfig,
    dispatch::{Dispatcher, Slot},
    engine::Engine,
    journal::Journal,
    live::LiveHistories,
    precomputed::Precomputed,
    served_log::ServedLog,
    stats::Stats,
    swap::SwapLog,
    variants::Variants,
};

/// The parts of a running service.
pub struct AppState {
    /// The configuration.
    pub config: ServeConfig,
    /// The engine that serves now.
    pub slot: Arc<Slot>,
    /// Who answers with lists.
    pub dispatcher: Dispatcher,
    /// Places of searches for similar artists: as many as there are threads for lists, for each reads the whole catalogue.
    pub(crate) similar: Arc<Semaphore>,
    /// Where posted events go; nothing if they are not taken.
    pub journal: Option<Journal>,
    /// What listeners did lately.
    pub live: LiveHistories,
    /// The end of the data of the oldest bundle for which `live` has everything, milliseconds since 1970 UTC.
    live_since_ms: AtomicI64,
    /// The log of served lists; nothing if it is off.
    pub served_log: Option<ServedLog>,
    /// The variants of the A/B test.
    pub variants: Variants,
    /// Lists computed ahead; nothing where there are none.
    pub precomputed: Option<Precomputed>,
    /// What turns the ids of requests into the model's; nothing where they are the same.
    pub user_key: Option<UserKey>,
    /// The time of day.
    pub clock: Clock,
    /// The measurements.
    pub stats: Arc<Stats>,
    /// The bundles opened so far.
    pub swaps: Arc<SwapLog>,
    /// Where the history of champions is, if the bundle has one.
    pub champion_history: Option<PathBuf>,
    is_ready: AtomicBool,
}

impl AppState {
    /// Opens everything the configuration names around an engine; may block for as long as reading the journal takes.
    ///
    /// # Errors
    /// Those of the parts, each naming its file or key.
    pub(crate) fn open(
        config: ServeConfig,
        clock: Clock,
        slot: Arc<Slot>,
        stats: Arc<Stats>,
        swaps: Arc<SwapLog>,
        champion_history: Option<PathBuf>,
    ) -> Result<Self> {
        let user_key = match &config.user_key {
            Some(path) => Some(UserKey::from_file(path)?),
            None => None,
        };
        let log_dir = Some(&config.served_log.dir).filter(|dir| !dir.is_empty()).map(Path::new);
        let variants = Variants::keyed_beside(&config.variants, log_dir)?;
        let served_log = log_dir.map(|_| ServedLog::open(&config.served_log, clock.clone())).transpose()?;
        let journal =
            (!config.events.dir.is_empty()).then(|| Journal::open(&config.events, clock.clone())).transpose()?;
        let live = LiveHistories::new(config.events.users, config.lists.live_history);
        let ahead = &config.precomputed;
        let precomputed =
            (!ahead.file.is_empty() || !ahead.redis.is_empty()).then(|| Precomputed::open(ahead)).transpose()?;
        let dispatcher = Dispatcher::start(Arc::clone(&slot), &config.engine, &config.limits);
        let similar = Arc::new(Semaphore::new(dispatcher.workers()));
        let app = Self {
            config,
            slot,
            dispatcher,
            similar,
            journal,
            live,
            live_since_ms: AtomicI64::new(i64::MAX),
            served_log,
            variants,
            precomputed,
            user_key,
            clock,
            stats,
            swaps,
            champion_history,
            is_ready: AtomicBool::new(false),
        };
        app.recall_for(&app.slot.load())?;
        Ok(app)
    }

    /// Reads from the journal what a bundle does not know and the live histories may not either: everything at the start, and after a turn to
    /// an older bundle what lies between the two. May block for as long as that takes.
    ///
    /// # Errors
    /// [`duet_core::Error::Io`] and [`duet_core::Error::Data`] naming a segment of the journal.
    pub(crate) fn recall_for(&self, engine: &Engine) -> Result<()> {
        let until_ms = engine.data_until_ms();
        let Some(journal) = &self.journal else { return Ok(()) };
        if until_ms < self.live_since_ms.load(Ordering::Acquire) {
            journal.replay(until_ms, |event| self.live.note_read(self.user_key.as_ref(), event))?;
            self.live_since_ms.store(until_ms, Ordering::Release);
        }
        Ok(())
    }

    /// Whether requests should be sent here.
    pub fn is_ready(&self) -> bool {
        self.is_ready.load(Ordering::Acquire)
    }

    pub(crate) fn set_ready(&self, is_ready: bool) {
        self.is_ready.store(is_ready, Ordering::Release);
    }

    /// Answers what waits, and closes the journal and the log: both are whole on the disk then. May block.
    pub(crate) fn close(&self) {
        self.dispatcher.close_and_drain();
        if let Some(journal) = &self.journal {
            journal.close();
        }
        if let Some(log) = &self.served_log {
            log.close();
        }
    }
}
