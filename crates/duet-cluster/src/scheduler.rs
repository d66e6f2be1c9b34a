//! The scheduler of a cluster.

use std::sync::Arc;

use ballista_core::{
    config::TaskSchedulingPolicy,
    error::BallistaError,
    extension::{ballista_aggregate_functions, ballista_scalar_functions, ballista_window_functions},
    optimizer::ballista_default_optimizer_rules,
};
use ballista_scheduler::{
    cluster::BallistaCluster,
    config::{SchedulerConfig, TaskDistributionPolicy},
    scheduler_process::{create_scheduler, start_grpc_service_with_listener},
};
use datafusion::{
    common::Result as PlanResult,
    execution::{SessionState, SessionStateBuilder},
    prelude::SessionConfig,
};
use datafusion_proto::protobuf::{LogicalPlanNode, PhysicalPlanNode};
use duet_core::{Error, Result};
use tokio::net::TcpListener;

use crate::{
    codec::{LogicalCodec, PhysicalCodec},
    executor::HEARTBEAT_SECONDS,
    session,
};

/// An executor that has been silent for so long is dead; its tasks go to others.
const EXECUTOR_TIMEOUT_SECONDS: u64 = 4 * HEARTBEAT_SECONDS;
/// How often dead executors are looked for.
const DEAD_CHECK_SECONDS: u64 = 5;
/// Rows of users, pseudonymous as they are, stay on executors no longer than this after their job.
const CLEAN_UP_SECONDS: u64 = 30;

/// Serves a scheduler on `listener` until the process ends. Jobs and executors are known in memory only: executors come
/// back by themselves after a restart, jobs do not.
///
/// # Errors
/// [`Error::Input`] if it can't start or serve.
pub async fn serve_scheduler(listener: TcpListener) -> Result<()> {
    let failed = |error: BallistaError| Error::input(format!("the scheduler: {error}"));
    let address = listener.local_addr().map_err(|error| failed(error.into()))?;
    let config = Arc::new(SchedulerConfig {
        external_host: address.ip().to_string(),
        bind_host: address.ip().to_string(),
        bind_port: address.port(),
        // Executors ask for tasks: with tasks pushed to them, Ballista 55 stands still after one of them dies.
        scheduling_policy: TaskSchedulingPolicy::PullStaged,
        task_distribution: TaskDistributionPolicy::RoundRobin,
        executor_timeout_seconds: EXECUTOR_TIMEOUT_SECONDS,
        no_executors_grace_period_seconds: EXECUTOR_TIMEOUT_SECONDS,
        expire_dead_executor_interval_seconds: DEAD_CHECK_SECONDS,
        finished_job_data_clean_up_interval_seconds: CLEAN_UP_SECONDS,
        override_config_producer: Some(Arc::new(session::config)),
        override_session_builder: Some(Arc::new(state)),
        override_logical_codec: Some(Arc::new(LogicalCodec::default())),
        override_physical_codec: Some(Arc::new(PhysicalCodec::default())),
        ..SchedulerConfig::default()
    });
    config.validate().map_err(failed)?;
    let cluster = BallistaCluster::new_from_config(&config).await.map_err(failed)?;
    let scheduler = create_scheduler::<LogicalPlanNode, PhysicalPlanNode>(cluster, config).await.map_err(failed)?;
    tracing::info!(%address, "scheduler");
    start_grpc_service_with_listener(listener, scheduler).await.map_err(failed)
}

/// The session in which a client's plans are made.
fn state(config: SessionConfig) -> PlanResult<SessionState> {
    Ok(SessionStateBuilder::new()
        .with_default_features()
        .with_config(config)
        .with_runtime_env(session::runtime(None)?)
        .with_optimizer_rules(ballista_default_optimizer_rules())
        .with_scalar_functions(ballista_scalar_functions())
        .with_aggregate_functions(ballista_aggregate_functions())
        .with_window_functions(ballista_window_functions())
        .build())
}
