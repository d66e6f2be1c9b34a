//! The processes of a cluster: `duet-cluster scheduler` and `duet-cluster executor`.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    process::ExitCode,
};

use anyhow::Context;
use clap::{Args, Parser, Subcommand};
use duet_cluster::{ExecutorOptions, run_executor, serve_scheduler};
use duet_core::Error;
use duet_data::accounts::{KEY_VARIABLE, UserKey};
use tracing_subscriber::EnvFilter;

/// A cluster for the plans of `duet prepare --engine ballista://HOST:PORT`: one scheduler, any number of executors.
///
/// Nothing here asks who calls: keep the ports inside a network you trust.
#[derive(Debug, Parser)]
#[command(name = "duet-cluster", version, max_term_width = 110, disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Scheduler(SchedulerArgs),
    Executor(ExecutorArgs),
}

/// Cut plans into stages and give them to executors. Needs no user key and little of anything else.
#[derive(Debug, Args)]
struct SchedulerArgs {
    /// Address on which it listens.
    #[arg(long, default_value = "127.0.0.1:50050", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
}

/// Read raw parts, parse and sort. Reads the zone itself: it needs the same view of it, and the same user key, as
/// whoever prepares.
#[derive(Debug, Args)]
struct ExecutorArgs {
    /// The scheduler.
    #[arg(long, default_value = "127.0.0.1:50050", value_name = "HOST:PORT")]
    scheduler: String,
    /// Address and port from which other executors and clients fetch rows.
    #[arg(long, default_value = "127.0.0.1:50051", value_name = "ADDRESS:PORT")]
    listen: SocketAddr,
    /// How other machines call this one [default: the address that the scheduler sees].
    #[arg(long, value_name = "HOST")]
    advertise: Option<String>,
    /// Tasks at a time; 0 is one a core.
    #[arg(long, default_value_t = 0, value_name = "TASKS")]
    cores: usize,
    /// Memory for sorting, for all tasks together [default: Ballista's share of this machine's].
    #[arg(long, value_name = "MIB")]
    memory_mib: Option<u64>,
    /// Folder for rows between stages and for spill files; its rows are pseudonymous, not anonymous.
    #[arg(long, value_name = "DIR")]
    work_dir: PathBuf,
    /// File with the secret that turns user ids into pseudonyms [default: the secret in DUET_USER_KEY].
    #[arg(long, value_name = "FILE")]
    user_key: Option<PathBuf>,
}

impl ExecutorArgs {
    fn options(self) -> anyhow::Result<ExecutorOptions> {
        let place = self.scheduler.rsplit_once(':').and_then(|(host, port)| Some((host, port.parse::<u16>().ok()?)));
        let (host, scheduler_port) = place
            .filter(|(host, _)| !host.is_empty())
            .ok_or_else(|| Error::input(format!("--scheduler {:?}: valid is HOST:PORT", self.scheduler)))?;
        let user_key = match &self.user_key {
            Some(path) => UserKey::from_file(path)?,
            None => UserKey::from_environment()?.ok_or_else(|| {
                Error::input(format!("a user key is needed: --user-key FILE, or the secret in {KEY_VARIABLE}"))
            })?,
        };
        let bind: IpAddr = self.listen.ip();
        Ok(ExecutorOptions {
            scheduler_host: host.to_owned(),
            scheduler_port,
            bind,
            port: self.listen.port(),
            advertise: self.advertise,
            cores: self.cores,
            memory_bytes: self.memory_mib.map(|mib| mib << 20),
            work_dir: self.work_dir,
            user_key,
        })
    }
}

fn run(cli: Cli) -> anyhow::Result<()> {
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build()?;
    match cli.command {
        Command::Scheduler(SchedulerArgs { listen }) => runtime.block_on(async {
            let listener = tokio::net::TcpListener::bind(listen).await.with_context(|| format!("--listen {listen}"))?;
            Ok(serve_scheduler(listener).await?)
        }),
        Command::Executor(arguments) => Ok(runtime.block_on(run_executor(arguments.options()?))?),
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,duet_cluster=info"));
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_target(false).init();
    match run(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
