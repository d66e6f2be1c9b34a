//! The command line of duet: arguments in, library calls, tables and messages out.
//!
//! * [`run`] is the binary `duet`; [`run_train`] and [`run_embed`] are `train` and `embed`, the same code as the
//!   subcommands of those names.
//! * One file a subcommand: its arguments and what it does with them. Results go to standard output; logs, notes and
//!   progress to standard error.
//! * Exit codes: 0; 1 for an error, printed as `error: ...`; 2 for wrong usage; 3 for a comparison whose
//!   challenger is worse, and for a simulation with a verdict that fails; 4 for a monitoring with an alarm; 130 for an interrupted
//!   training.

mod ablate;
mod bench;
mod champion;
mod compare;
mod completions;
mod configuration;
mod demo;
mod embed;
mod engine;
mod evaluate;
mod export_vectors;
mod forget;
mod import;
mod ingest;
mod inspect;
mod interrupt;
mod kafka;
mod lists;
mod load;
mod logging;
mod man;
mod memory;
mod monitor;
mod nats;
mod precompute;
mod prepare;
mod privacy;
mod recommend;
mod reproduce;
mod rerank;
mod run;
mod serve;
mod similar;
mod simulate;
mod source;
mod train;
mod user_key;
mod values;
mod world;

use std::{
    ffi::OsString,
    io::{self, Write},
    process::ExitCode,
};

use clap::{CommandFactory, Parser, Subcommand};

/// Two-tower recommender engine: from click events to top-K artists, on any GPU or the CPU.
#[derive(Debug, Parser)]
#[command(name = "duet", version, max_term_width = 110, disable_help_subcommand = true)]
struct Cli {
    #[command(flatten)]
    log: logging::LogArgs,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    Demo(demo::DemoArgs),
    World(world::WorldArgs),
    Import(import::ImportArgs),
    Ingest(ingest::IngestArgs),
    Prepare(prepare::PrepareArgs),
    Train(train::TrainArgs),
    Evaluate(evaluate::EvaluateArgs),
    Compare(compare::CompareArgs),
    Ablate(ablate::AblateArgs),
    Rerank(rerank::RerankArgs),
    Embed(embed::EmbedArgs),
    Promote(champion::PromoteArgs),
    Rollback(champion::RollbackArgs),
    Run(run::RunArgs),
    Serve(serve::ServeArgs),
    Monitor(monitor::MonitorArgs),
    Recommend(recommend::RecommendArgs),
    Precompute(precompute::PrecomputeArgs),
    ExportVectors(export_vectors::ExportVectorsArgs),
    Similar(similar::SimilarArgs),
    Simulate(simulate::SimulateArgs),
    Inspect(inspect::InspectArgs),
    Bench(bench::BenchArgs),
    Load(load::LoadArgs),
    Reproduce(reproduce::ReproduceArgs),
    Privacy(privacy::PrivacyArgs),
    Forget(forget::ForgetArgs),
    Completions(completions::CompletionsArgs),
    Man(man::ManArgs),
}

/// `train` as a binary of its own.
#[derive(Debug, Parser)]
#[command(name = "train", version, max_term_width = 110, about = "Train a two-tower model on a dataset")]
struct TrainCli {
    #[command(flatten)]
    log: logging::LogArgs,
    #[command(flatten)]
    train: train::TrainArgs,
}

/// `embed` as a binary of its own.
#[derive(Debug, Parser)]
#[command(name = "embed", version, max_term_width = 110, about = "Turn a run into a bundle that can be served")]
struct EmbedCli {
    #[command(flatten)]
    log: logging::LogArgs,
    #[command(flatten)]
    embed: embed::EmbedArgs,
}

/// How a command ended, errors apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Outcome {
    Done,
    /// Stopped by the user, with everything so far kept.
    Interrupted,
    /// The challenger of a comparison is worse, or a verdict of a simulation fails.
    Worse,
    /// The monitoring raised an alarm.
    Alarm,
}

/// What a shell reports for a process ended by Ctrl-C.
const INTERRUPTED: u8 = 130;
/// A comparison whose challenger is worse, or a simulation with a verdict that fails: no error, and no success.
const WORSE: u8 = 3;
/// An alarm of the monitoring: no error, and no success.
const ALARM: u8 = 4;

/// The binary `duet`; `arguments` start with the program's name.
pub fn run(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    parsed(arguments, |cli: Cli, out| {
        let base = match cli.command {
            Command::Train(_) | Command::Ingest(_) | Command::Run(_) | Command::Serve(_) => logging::EVERY_EPOCH,
            _ => logging::WARNINGS,
        };
        cli.log.init(base);
        match &cli.command {
            Command::Demo(args) => demo::run(args, out),
            Command::World(args) => world::run(args, out),
            Command::Import(args) => import::run(args, out),
            Command::Ingest(args) => ingest::run(args, out),
            Command::Prepare(args) => prepare::run(args, out),
            Command::Train(args) => train::run(args, out),
            Command::Evaluate(args) => evaluate::run(args, out),
            Command::Compare(args) => compare::run(args, out),
            Command::Ablate(args) => ablate::run(args, out),
            Command::Rerank(args) => rerank::run(args, out),
            Command::Embed(args) => embed::run(args, out),
            Command::Promote(args) => champion::promote(args, out),
            Command::Rollback(args) => champion::rollback(args, out),
            Command::Run(args) => run::run(args, out),
            Command::Serve(args) => serve::run(args, out),
            Command::Monitor(args) => monitor::run(args, out),
            Command::Recommend(args) => recommend::run(args, out),
            Command::Precompute(args) => precompute::run(args, out),
            Command::ExportVectors(args) => export_vectors::run(args, out),
            Command::Similar(args) => similar::run(args, out),
            Command::Simulate(args) => simulate::run(args, out),
            Command::Inspect(args) => inspect::run(args, out),
            Command::Bench(args) => bench::run(args, out),
            Command::Load(args) => load::run(args, out),
            Command::Reproduce(args) => reproduce::run(args, out),
            Command::Privacy(args) => privacy::run(args, out),
            Command::Forget(args) => forget::run(args, out),
            Command::Completions(args) => completions::run(args, &mut Cli::command(), out),
            Command::Man(args) => man::run(args, Cli::command(), out),
        }
    })
}

/// The binary `train`.
pub fn run_train(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    parsed(arguments, |cli: TrainCli, out| {
        cli.log.init(logging::EVERY_EPOCH);
        train::run(&cli.train, out)
    })
}

/// The binary `embed`.
pub fn run_embed(arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>) -> ExitCode {
    parsed(arguments, |cli: EmbedCli, out| {
        cli.log.init(logging::WARNINGS);
        embed::run(&cli.embed, out)
    })
}

fn parsed<P: Parser>(
    arguments: impl IntoIterator<Item = impl Into<OsString> + Clone>,
    command: impl FnOnce(P, &mut dyn Write) -> anyhow::Result<Outcome>,
) -> ExitCode {
    provide_runtime_dir();
    let parsed = match P::try_parse_from(arguments) {
        Ok(parsed) => parsed,
        Err(error) => {
            // Help and version are "errors" of code 0. Nobody is left to tell if printing them fails.
            let _ = error.print();
            return ExitCode::from(error.exit_code() as u8);
        }
    };
    let mut out = io::stdout().lock();
    let ended = command(parsed, &mut out).and_then(|outcome| Ok(out.flush().map(|()| outcome)?));
    match ended {
        Ok(Outcome::Done) => ExitCode::SUCCESS,
        Ok(Outcome::Interrupted) => ExitCode::from(INTERRUPTED),
        Ok(Outcome::Worse) => ExitCode::from(WORSE),
        Ok(Outcome::Alarm) => ExitCode::from(ALARM),
        // `duet recommend ... | head` closes the pipe: that is no error of anybody's.
        Err(error) if is_broken_pipe(&error) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {}", message(&error));
            match error.downcast_ref::<duet_core::Error>() {
                Some(duet_core::Error::Interrupted(_)) => ExitCode::from(INTERRUPTED),
                _ => ExitCode::FAILURE,
            }
        }
    }
}

/// Vulkan and GL drivers look for a desktop session in `XDG_RUNTIME_DIR` and print errors of their own where it is not
/// set, as on every server. An empty answer is the same to them, without the noise.
#[expect(unsafe_code, reason = "the environment can't be changed safely otherwise")]
fn provide_runtime_dir() {
    const VARIABLE: &str = "XDG_RUNTIME_DIR";
    if cfg!(unix) && std::env::var_os(VARIABLE).is_none() {
        // SAFETY: the first thing the program does: no other thread reads the environment yet.
        unsafe { std::env::set_var(VARIABLE, std::env::temp_dir()) };
    }
}

/// The error with its causes, those left out that it already names itself.
fn message(error: &anyhow::Error) -> String {
    error.chain().skip(1).fold(error.to_string(), |text, cause| {
        let cause = cause.to_string();
        if text.contains(&cause) { text } else { format!("{text}: {cause}") }
    })
}

fn is_broken_pipe(error: &anyhow::Error) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_consistent() {
        Cli::command().debug_assert();
        TrainCli::command().debug_assert();
        EmbedCli::command().debug_assert();
    }

    #[test]
    fn causes_are_said_once() {
        let io = io::Error::other("disk full");
        let inner = duet_core::Error::Io { path: "a/b".into(), source: io };
        let error = anyhow::Error::from(inner).context("writing the lists");
        assert_eq!(message(&error), "writing the lists: a/b: disk full");
    }

    #[test]
    fn exit_codes() {
        assert_eq!(run(["duet", "--version"]), ExitCode::SUCCESS);
        assert_eq!(run(["duet", "recommend"]), ExitCode::from(2));
        assert_eq!(run(["duet", "inspect", "no/such/place"]), ExitCode::from(1));
    }
}
