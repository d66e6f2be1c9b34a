//! `duet serve`.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Args;
use duet_serve::{clock::Clock, config::ServeConfig, server};
use toml::Value;

use crate::{Outcome, interrupt, values};

/// Answer with lists over HTTP: a bundle behind routes for log-ins, events and similar artists.
///
/// /docs shows the routes, / a page to try them, /metrics what Prometheus reads. Where the bundle is a link (checkpoints/champion,
/// WORK/current), the one it is turned to serves as soon as it has passed its self-check; nothing stops meanwhile. Every setting,
/// with its meaning, is in configs/serve.toml. Ctrl-C or SIGTERM ends requests under way first.
#[derive(Debug, Clone, Args)]
pub(crate) struct ServeArgs {
    /// The bundle: a directory, a link to one, or s3://BUCKET/PREFIX (gs, az) [default: checkpoints/champion].
    #[arg(long, value_name = "PATH|URL")]
    bundle: Option<String>,
    /// Settings in a file; without one, those of configs/serve.toml.
    #[arg(long, value_name = "FILE.toml")]
    config: Option<PathBuf>,
    /// A setting, e.g. limits.queue=1024. Repeatable.
    #[arg(long = "set", value_name = "KEY=VALUE", value_parser = values::setting)]
    settings: Vec<String>,
    /// Where to listen [default: 127.0.0.1:8080]. Port 0: a free one.
    #[arg(long, value_name = "HOST:PORT")]
    listen: Option<String>,
    /// The secret of `duet prepare` that turns user ids into pseudonyms, where the bundle knows users by those.
    #[arg(long, value_name = "FILE")]
    user_key: Option<String>,
    /// Take events, and keep them in this directory.
    #[arg(long, value_name = "DIR")]
    events: Option<String>,
    /// Log the served lists in this directory.
    #[arg(long, value_name = "DIR")]
    served_log: Option<String>,
    /// Look for candidates in the table that `duet export-vectors` wrote (engine.retriever_table) instead of in the bundle's index.
    #[arg(long, value_name = "postgres://HOST/DATABASE")]
    retriever: Option<String>,
}

impl ServeArgs {
    /// Flags are settings with a name of their own; they go last.
    fn settings(&self) -> Vec<String> {
        let flags = [
            ("bundle", &self.bundle),
            ("listen", &self.listen),
            ("user_key", &self.user_key),
            ("events.dir", &self.events),
            ("served_log.dir", &self.served_log),
            ("engine.retriever", &self.retriever),
        ];
        // As TOML: a directory called 2025 is no number.
        let quoted = |(key, value): (&str, &Option<String>)| {
            value.as_ref().map(|value| format!("{key}={}", Value::String(value.clone())))
        };
        self.settings.iter().cloned().chain(flags.into_iter().filter_map(quoted)).collect()
    }
}

pub(crate) fn run(args: &ServeArgs, out: &mut dyn Write) -> Result<Outcome> {
    let config = ServeConfig::load(args.config.as_deref(), &args.settings())?;
    let stop = server::raised(interrupt::stop_flag());
    server::run(config, Clock::system(), stop, |server| -> Result<()> {
        // Whoever started the service waits for this line.
        writeln!(out, "listening on {}", server.url())?;
        Ok(out.flush()?)
    })?;
    Ok(Outcome::Done)
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use clap::Parser;

    use super::*;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        serve: ServeArgs,
    }

    #[test]
    fn flags_are_settings_and_go_last() {
        let line = [
            "serve",
            "--set",
            "listen=127.0.0.1:1",
            "--listen",
            "127.0.0.1:0",
            "--events",
            "2025",
            "--bundle",
            "a \"b\"",
        ];
        let config = ServeConfig::load(None, &Line::try_parse_from(line).unwrap().serve.settings()).unwrap();
        assert_eq!((config.listen.as_str(), config.events.dir.as_str()), ("127.0.0.1:0", "2025"));
        assert_eq!(config.bundle, "a \"b\"");
        assert_eq!(config.user_key, None);
    }
}
