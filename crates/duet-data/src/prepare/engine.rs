//! Where the plans over raw lines run.

use std::{fmt, path::Path, sync::Arc};

use datafusion::{
    execution::{SessionStateBuilder, runtime_env::RuntimeEnvBuilder},
    prelude::{SessionConfig, SessionContext},
};
use duet_core::{Error, Result};
use futures::future::BoxFuture;

use super::sort_memory::SortMemory;

/// Rows handed from operator to operator.
pub const BATCH_ROWS: usize = 8_192;
/// Days that take less of the memory for sorting than one part in so many are sorted as a whole, not merged from sorted
/// batches.
const WHOLE_SORT_SHARE: usize = 4;
/// Memory that a part of a day keeps for merging its spilled runs, at most half of what it has. DataFusion's 10 MB can be less than
/// two runs of long lines need.
const MERGE_BYTES: usize = 32 << 20;
/// The least memory that a part of a day is sorted with: a dozen batches of usual lines, as DataFusion counts them.
pub(super) const SORTER_BYTES: usize = 16 << 20;

/// What the plans of a `prepare` may take of this machine.
#[derive(Debug, Clone, Copy)]
pub struct Resources<'a> {
    /// Days planned at the same time.
    pub side_by_side: usize,
    /// Cores for each of them: the most parts that a day is cut into.
    pub partitions: usize,
    /// Memory for the sorting of all of them.
    pub memory_bytes: usize,
    /// A folder for spill files.
    pub temporary: &'a Path,
}

/// Runs the plans over raw lines. Whatever the engine, the same lines give the same dataset.
pub trait Engine: fmt::Debug + Send + Sync {
    /// A session for the plans of one `prepare`.
    ///
    /// # Errors
    /// [`Error::Input`] where the engine can't be reached; [`Error::Internal`].
    fn session<'a>(&'a self, resources: &'a Resources<'a>) -> BoxFuture<'a, Result<SessionContext>>;

    /// The session for the plan of one day, beside those of other days.
    ///
    /// # Errors
    /// [`Error::Internal`].
    fn of_a_day(&self, session: &SessionContext, _resources: &Resources<'_>) -> Result<SessionContext> {
        Ok(session.clone())
    }

    /// Whether other processes read the lines: then they must lie where those find them, and rows travel.
    fn is_remote(&self) -> bool;

    /// How many days it is given at a time, on a machine with so many cores.
    fn days_side_by_side(&self, cores: usize) -> usize;
}

impl Resources<'_> {
    /// Memory for the sorting of one day.
    fn day_bytes(&self) -> usize {
        self.memory_bytes / self.side_by_side
    }

    /// The parts that a day is cut into. Each has a sorter of its own, which keeps its memory for merging from its first line on: 16 parts
    /// that kept what a day may would leave nothing of 512 MiB to sort with.
    fn parts(&self) -> usize {
        self.partitions.min(self.day_bytes() / SORTER_BYTES).max(1)
    }
}

/// Runs the plans in this process.
#[derive(Debug, Clone, Copy, Default)]
pub struct Embedded;

impl Engine for Embedded {
    fn session<'a>(&'a self, resources: &'a Resources<'a>) -> BoxFuture<'a, Result<SessionContext>> {
        Box::pin(async move {
            let runtime = RuntimeEnvBuilder::new()
                .with_temp_file_path(resources.temporary)
                .build_arc()
                .map_err(|error| Error::Internal(format!("DataFusion's runtime: {error}")))?;
            let (parts, day_bytes) = (resources.parts(), resources.day_bytes());
            let config = SessionConfig::new()
                .with_target_partitions(parts)
                .with_batch_size(BATCH_ROWS)
                .with_sort_in_place_threshold_bytes(day_bytes / WHOLE_SORT_SHARE)
                .with_sort_spill_reservation_bytes(MERGE_BYTES.min(day_bytes / parts / 2))
                .with_collect_statistics(false);
            Ok(SessionContext::new_with_config_rt(config, runtime))
        })
    }

    fn of_a_day(&self, session: &SessionContext, resources: &Resources<'_>) -> Result<SessionContext> {
        let memory = SortMemory::new(resources.day_bytes() / resources.parts());
        let runtime = RuntimeEnvBuilder::from_runtime_env(&session.runtime_env())
            .with_memory_pool(Arc::new(memory))
            .build_arc()
            .map_err(|error| Error::Internal(format!("DataFusion's runtime: {error}")))?;
        let state = SessionStateBuilder::new_from_existing(session.state()).with_runtime_env(runtime).build();
        Ok(SessionContext::new_with_state(state))
    }

    fn is_remote(&self) -> bool {
        false
    }

    fn days_side_by_side(&self, cores: usize) -> usize {
        cores
    }
}
