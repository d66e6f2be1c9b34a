//! `duet privacy`.

use std::{io::Write, path::PathBuf};

use anyhow::{Result, bail};
use clap::{Args, Subcommand};
use duet_data::privacy::{Planted, ScanOptions, scan};

use crate::{Outcome, values::grouped};

/// Look for personal data where none may be.
#[derive(Debug, Clone, Args)]
pub(crate) struct PrivacyArgs {
    #[command(subcommand)]
    command: PrivacyCommand,
}

#[derive(Debug, Clone, Subcommand)]
enum PrivacyCommand {
    Scan(ScanArgs),
}

/// Search files and directories for what looks personal: addresses, phone and card numbers, coordinates, birth dates.
///
/// Parquet files are searched column by column. Values are shown masked. Exit code 1 if anything is found.
#[derive(Debug, Clone, Args)]
struct ScanArgs {
    /// Files, or directories searched with all below them.
    #[arg(required = true, value_name = "PATH")]
    paths: Vec<PathBuf>,
    /// A file of strings to look for as well, byte for byte, one a line.
    #[arg(long, value_name = "FILE")]
    planted: Option<PathBuf>,
}

pub(crate) fn run(args: &PrivacyArgs, out: &mut dyn Write) -> Result<Outcome> {
    let PrivacyCommand::Scan(args) = &args.command;
    let planted = args.planted.as_deref().map(Planted::from_file).transpose()?.unwrap_or_default();
    let findings = scan(&args.paths, &ScanOptions { planted })?;
    for finding in &findings {
        writeln!(out, "{finding}")?;
    }
    if findings.is_empty() {
        writeln!(out, "nothing that looks personal")?;
        return Ok(Outcome::Done);
    }
    let count = findings.iter().map(|finding| finding.count).sum();
    let mut files: Vec<_> = findings.iter().map(|finding| &finding.file).collect();
    files.dedup();
    bail!("found {} values that look personal, in {} files", grouped(count), grouped(files.len() as u64));
}
