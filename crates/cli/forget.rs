//! `duet forget`.

use std::{
    io::{Read, Write},
    path::PathBuf,
};

use anyhow::{Context, Result};
use clap::Args;
use duet_data::privacy::{ForgetOptions, Forgotten, forget};

use crate::{Outcome, user_key, values::grouped};

/// Remove a user from a dataset, and say what was made from it and must be made again.
///
/// The old dataset stays until the new one is complete. Later prepares leave the user out.
#[derive(Debug, Clone, Args)]
pub(crate) struct ForgetArgs {
    /// The user's id as the source has it; - reads it from standard input, so that it stays out of the shell's history.
    #[arg(long, value_name = "ID")]
    user: String,
    /// The dataset.
    #[arg(long, value_name = "DATASET")]
    data: PathBuf,
    /// The key file the dataset was prepared with [default: the key in DUET_USER_KEY]. Imported datasets have none.
    #[arg(long, value_name = "FILE")]
    user_key: Option<PathBuf>,
    /// Directories to search for runs and bundles made from the dataset.
    #[arg(long, value_name = "DIR", num_args = 1..)]
    runs: Vec<PathBuf>,
}

pub(crate) fn run(args: &ForgetArgs, out: &mut dyn Write) -> Result<Outcome> {
    let mut user = args.user.clone();
    if user == "-" {
        user.clear();
        std::io::stdin().read_to_string(&mut user).context("standard input")?;
        user.truncate(user.trim_end().len());
    }
    let key = user_key::find(args.user_key.as_deref())?;
    let options =
        ForgetOptions { dataset: args.data.clone(), user_id: &user, user_key: key.as_ref(), runs: args.runs.clone() };
    report(args, &forget(&options)?, out)?;
    Ok(Outcome::Done)
}

/// What is gone, and what still knows the user.
fn report(args: &ForgetArgs, forgotten: &Forgotten, out: &mut dyn Write) -> Result<()> {
    let rows = forgotten.removed.values().sum();
    writeln!(
        out,
        "{}: removed {} rows of the user from {} files; {} users are left",
        args.data.display(),
        grouped(rows),
        forgotten.removed.len(),
        grouped(forgotten.info.counts.users)
    )?;
    if !forgotten.stale.is_empty() {
        writeln!(out, "\nmade while the user was in it; train, embed and evaluate again, then remove:")?;
        for stale in &forgotten.stale {
            writeln!(out, "  {} ({})", stale.path.display(), stale.kind)?;
        }
    } else if args.runs.is_empty() {
        writeln!(out, "\nruns and bundles made from it still know the user: name their directories with --runs")?;
    } else {
        writeln!(out, "\nno run or bundle below --runs was made from it")?;
    }
    writeln!(
        out,
        "\nthe user's events and account stay in their sources: later prepares leave them out. Sums over all users\n\
         (plays, followers) keep what the user added until then"
    )?;
    Ok(())
}
