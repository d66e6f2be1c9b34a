//! `duet promote` and `duet rollback`.

use std::{io::Write, path::PathBuf};

use anyhow::Result;
use clap::Args;
use duet_train::champion::{self, CHAMPION, Change};

use crate::Outcome;

/// Make a bundle the champion: a link named champion is turned to it, in one step.
///
/// Every checksum of the bundle is looked at first. PLACE/champion.jsonl keeps who was champion when; `duet rollback` goes back.
#[derive(Debug, Clone, Args)]
pub(crate) struct PromoteArgs {
    /// The bundle.
    #[arg(value_name = "BUNDLE")]
    bundle: PathBuf,
    /// Where the link lies; without it beside the bundle, or beside `bundles` where the bundle lies in such a directory.
    #[arg(long, value_name = "PLACE")]
    place: Option<PathBuf>,
}

/// Make the champion before the current one the champion again. Again: the one before that.
#[derive(Debug, Clone, Args)]
pub(crate) struct RollbackArgs {
    /// Where the link named champion lies.
    #[arg(value_name = "PLACE")]
    place: PathBuf,
}

pub(crate) fn promote(args: &PromoteArgs, out: &mut dyn Write) -> Result<Outcome> {
    let place = match &args.place {
        Some(place) => place.clone(),
        None => champion::default_place(&args.bundle)?,
    };
    let change = champion::promote(&args.bundle, &place)?;
    say(&change, &place, out)
}

pub(crate) fn rollback(args: &RollbackArgs, out: &mut dyn Write) -> Result<Outcome> {
    let change = champion::rollback(&args.place)?;
    say(&change, &args.place, out)
}

fn say(change: &Change, place: &std::path::Path, out: &mut dyn Write) -> Result<Outcome> {
    let before = change.before.as_ref().map_or_else(|| "no champion".to_owned(), Clone::clone);
    writeln!(out, "{}: {}, before {before}", place.join(CHAMPION).display(), change.bundle)?;
    Ok(Outcome::Done)
}
