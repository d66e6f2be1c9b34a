//! What all routes share.

use std::{
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use duet_core::Result;
use duet_data::accounts::UserKey;
use tokio::sync::Semaphore;

use crate::{
    clock::Clock,
    config::ServeConfig,
    dispatch::{Dispatcher, Slot},
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
        if let Some(journal) = &journal {
            journal.replay(slot.load().data_until_ms(), |event| live.note(user_key.as_ref(), event))?;
        }
        let ahead = &config.precomputed;
        let precomputed =
            (!ahead.file.is_empty() || !ahead.redis.is_empty()).then(|| Precomputed::open(ahead)).transpose()?;
        let dispatcher = Dispatcher::start(Arc::clone(&slot), &config.engine, &config.limits);
        let similar = Arc::new(Semaphore::new(dispatcher.workers()));
        Ok(Self {
            config,
            slot,
            dispatcher,
            similar,
            journal,
            live,
            served_log,
            variants,
            precomputed,
            user_key,
            clock,
            stats,
            swaps,
            champion_history,
            is_ready: AtomicBool::new(false),
        })
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
