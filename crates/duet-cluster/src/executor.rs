//! An executor of a cluster.

use std::{net::IpAddr, path::PathBuf, sync::Arc};

use ballista_core::config::TaskSchedulingPolicy;
use ballista_executor::executor_process::{ExecutorProcessConfig, start_executor_process};
use duet_core::{Error, Result};
use duet_data::accounts::UserKey;

use crate::{
    codec::{LogicalCodec, PhysicalCodec},
    session,
};

/// How often an executor says that it lives.
pub(crate) const HEARTBEAT_SECONDS: u64 = 5;
/// For so long an executor waits for a scheduler that is not there yet.
const CONNECT_SECONDS: u16 = 60;

/// What an executor is and has.
#[derive(Debug, Clone)]
pub struct ExecutorOptions {
    /// Host of the scheduler.
    pub scheduler_host: String,
    /// Port of the scheduler.
    pub scheduler_port: u16,
    /// Address on which it listens.
    pub bind: IpAddr,
    /// Port from which rows are fetched.
    pub port: u16,
    /// How other machines call this one, if not by the address that the scheduler sees.
    pub advertise: Option<String>,
    /// Tasks at a time; 0 is one a core.
    pub cores: usize,
    /// Memory for the sorting of all tasks, in bytes; Ballista's share of the machine's without it.
    pub memory_bytes: Option<u64>,
    /// Folder for rows between stages and spill files. They are pseudonymous, not anonymous.
    pub work_dir: PathBuf,
    /// The same key as that of whoever prepares.
    pub user_key: UserKey,
}

/// Runs an executor until SIGTERM, Ctrl-C or its services fail; tasks that were begun are finished first.
///
/// # Errors
/// [`Error::Io`] with the work folder; [`Error::Input`] if there is no scheduler, or the ports are taken.
pub async fn run_executor(options: ExecutorOptions) -> Result<()> {
    let work_dir = options.work_dir;
    std::fs::create_dir_all(&work_dir).map_err(Error::io(&work_dir))?;
    let text = work_dir
        .to_str()
        .ok_or_else(|| Error::input(format!("{}: the work folder's name must be UTF-8", work_dir.display())))?
        .to_owned();
    let scheduler = format!("{}:{}", options.scheduler_host, options.scheduler_port);
    let spill = work_dir.clone();
    let config = ExecutorProcessConfig {
        bind_host: options.bind.to_string(),
        external_host: options.advertise,
        port: options.port,
        task_scheduling_policy: TaskSchedulingPolicy::PullStaged,
        scheduler_host: options.scheduler_host,
        scheduler_port: options.scheduler_port,
        scheduler_connect_timeout_seconds: CONNECT_SECONDS,
        vcores: options.cores,
        work_dir: Some(text),
        executor_heartbeat_interval_seconds: HEARTBEAT_SECONDS,
        memory_pool_size: options.memory_bytes,
        override_runtime_producer: Some(Arc::new(move |_| session::runtime(Some(&spill)))),
        override_config_producer: Some(Arc::new(session::config)),
        override_logical_codec: Some(Arc::new(LogicalCodec::default())),
        override_physical_codec: Some(Arc::new(PhysicalCodec::with_key(options.user_key))),
        ..ExecutorProcessConfig::default()
    };
    tracing::info!(%scheduler, port = options.port, work_dir = %work_dir.display(), "executor");
    start_executor_process(Arc::new(config))
        .await
        .map_err(|error| Error::input(format!("an executor of the scheduler {scheduler}: {error}")))
}
