//! Logs: through `tracing` to standard error, as text or JSON.

use std::io::IsTerminal;

use clap::{ArgAction, Args, ValueEnum};
use tracing_subscriber::{EnvFilter, fmt};

/// Options every command has.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Logging")]
pub(crate) struct LogArgs {
    /// Log more: what is being done (-v), details (-vv). RUST_LOG, where set, decides instead.
    #[arg(short, long, action = ArgAction::Count, global = true)]
    verbose: u8,
    /// How a log line looks.
    #[arg(long, value_enum, default_value_t = LogFormat::Text, value_name = "FORMAT", global = true)]
    log_format: LogFormat,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum LogFormat {
    /// Lines to read.
    Text,
    /// One JSON object a line.
    Json,
}

/// Base level of most commands.
pub(crate) const WARNINGS: usize = 0;
/// Base level of a training: its lines are what one waits for.
pub(crate) const EVERY_EPOCH: usize = 1;

const LEVELS: [&str; 4] = ["warn", "info", "debug", "trace"];

impl LogArgs {
    /// Starts logging; `base` is the level without -v. A second call in a process changes nothing.
    pub(crate) fn init(&self, base: usize) {
        let level = LEVELS[(base + usize::from(self.verbose)).min(LEVELS.len() - 1)];
        // The libraries below (wgpu, burn) say a great deal at info; theirs is for RUST_LOG.
        let ours = [
            "duet",
            "duet_cluster",
            "duet_core",
            "duet_data",
            "duet_model",
            "duet_retrieval",
            "duet_serve",
            "duet_train",
        ];
        let default = ours.iter().fold("warn".to_owned(), |filter, name| format!("{filter},{name}={level}"));
        let filter = match std::env::var("RUST_LOG") {
            Ok(filter) if !filter.is_empty() => EnvFilter::new(filter),
            _ => EnvFilter::new(default),
        };
        let lines = fmt().with_env_filter(filter).with_writer(std::io::stderr);
        // Failing means that a subscriber is there already: a test, or an embedding program. Its choice stands.
        let _ = match self.log_format {
            LogFormat::Text => lines.with_target(false).with_ansi(std::io::stderr().is_terminal()).try_init(),
            LogFormat::Json => lines.json().flatten_event(true).try_init(),
        };
    }
}
