//! What client, scheduler and executors must agree on.

use std::{path::Path, sync::Arc};

use ballista_core::extension::SessionConfigExt;
use datafusion::{
    common::Result,
    execution::runtime_env::{RuntimeEnv, RuntimeEnvBuilder},
    prelude::SessionConfig,
};

use crate::{
    codec::{LogicalCodec, PhysicalCodec},
    stores::Stores,
};

/// Ballista's settings with duet's codecs. A plan runs as it was made: one that is changed between its stages would be
/// another on every run.
pub(crate) fn config() -> SessionConfig {
    SessionConfig::new_with_ballista()
        .with_ballista_logical_extension_codec(Arc::new(LogicalCodec::default()))
        .with_ballista_physical_extension_codec(Arc::new(PhysicalCodec::default()))
        .with_ballista_adaptive_query_planner(false)
}

/// A runtime that opens stores by address; spill files below `temporary`, where there is one.
pub(crate) fn runtime(temporary: Option<&Path>) -> Result<Arc<RuntimeEnv>> {
    let builder = RuntimeEnvBuilder::new().with_object_store_registry(Arc::new(Stores::default()));
    match temporary {
        Some(path) => builder.with_temp_file_path(path).build_arc(),
        None => builder.build_arc(),
    }
}
