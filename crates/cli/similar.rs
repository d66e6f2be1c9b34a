//! `duet similar`.

use std::io::Write;

use anyhow::Result;
use clap::Args;
use duet_core::Error;
use duet_train::evaluate::Table;

use crate::{Outcome, source::SourceArgs, values};

/// Print the nearest neighbours of an item.
#[derive(Debug, Clone, Args)]
pub(crate) struct SimilarArgs {
    #[command(flatten)]
    source: SourceArgs,
    #[command(flatten)]
    item: Wanted,
    /// How many neighbours.
    #[arg(long, short, default_value_t = 10, value_name = "K", value_parser = values::positive)]
    k: usize,
}

#[derive(Debug, Clone, Args)]
#[group(required = true, multiple = false)]
struct Wanted {
    /// The item by its name.
    #[arg(long, alias = "name", value_name = "NAME")]
    artist: Option<String>,
    /// The item by its id.
    #[arg(long, value_name = "ID")]
    item: Option<String>,
}

pub(crate) fn run(args: &SimilarArgs, out: &mut dyn Write) -> Result<Outcome> {
    let Wanted { artist, item } = &args.item;
    let wanted = artist.as_ref().or(item.as_ref()).ok_or_else(|| Error::input("give --artist or --item"))?;
    let retriever = args.source.open()?;
    let mut table = Table::new().number("rank").text("name").text("item").number("score");
    for (entry, rank) in retriever.similar(wanted, args.k)?.iter().zip(1..) {
        let row = entry.item.index();
        table.push([
            format!("{rank}"),
            retriever.items.name(row).to_owned(),
            retriever.items.ids.id(row).to_owned(),
            format!("{:.4}", entry.score),
        ]);
    }
    write!(out, "{}", table.to_text())?;
    Ok(Outcome::Done)
}
