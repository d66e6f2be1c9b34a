//! `duet man`.

use std::{fs, io::Write, path::PathBuf};

use anyhow::Result;
use clap::{Args, Command};
use clap_mangen::Man;
use duet_core::{Error, artifact::write_file};

use crate::Outcome;

/// Print the man page, or write those of all commands to a directory.
#[derive(Debug, Clone, Args)]
pub(crate) struct ManArgs {
    /// Write duet.1, duet-train.1, ... here.
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
}

pub(crate) fn run(args: &ManArgs, mut command: Command, out: &mut dyn Write) -> Result<Outcome> {
    command.build();
    let Some(dir) = &args.out else {
        Man::new(command).render(out)?;
        return Ok(Outcome::Done);
    };
    fs::create_dir_all(dir).map_err(Error::io(dir))?;
    let pages: Vec<Command> = std::iter::once(&command).chain(command.get_subcommands()).cloned().collect();
    for page in pages {
        // "duet", "duet-train", ...: what building the command calls them.
        let name = page.get_display_name().unwrap_or(page.get_name()).to_owned();
        let mut text = Vec::new();
        Man::new(page).render(&mut text)?;
        let path = dir.join(format!("{name}.1"));
        write_file(&path, &text)?;
        writeln!(out, "{}", path.display())?;
    }
    Ok(Outcome::Done)
}
