//! `duet completions`.

use std::io::Write;

use anyhow::Result;
use clap::{Args, Command};
use clap_complete::Shell;

use crate::Outcome;

/// Print the completion script for a shell.
#[derive(Debug, Clone, Args)]
pub(crate) struct CompletionsArgs {
    #[arg(value_enum, value_name = "SHELL")]
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, command: &mut Command, out: &mut dyn Write) -> Result<Outcome> {
    // Into memory first: the generator panics where a pipe closes.
    let mut script = Vec::new();
    clap_complete::generate(args.shell, command, "duet", &mut script);
    out.write_all(&script)?;
    Ok(Outcome::Done)
}
