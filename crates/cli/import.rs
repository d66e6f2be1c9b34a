//! `duet import`.

use std::{io::Write, path::PathBuf, time::Instant};

use anyhow::{Result, bail};
use clap::{Args, ValueEnum};
use duet_core::Error;
use duet_data::{
    import::{
        Columns, Delimiter, Format, ImportOptions, ImportSummary, Layout, PRESETS, SchemaSource, import, import_preset,
    },
    split::{FORMS, SplitSpec},
};

use crate::{
    Outcome,
    values::{grouped, if_exists},
};

/// Make a dataset of tables: interactions, and users and items where there are such tables.
///
/// Text files (CSV, TSV, ...) and Parquet, by extension. Columns are found by common names (user_id, item_id, timestamp,
/// weight, ...) unless named. Without a time column the data counts as sets.
#[derive(Debug, Clone, Args)]
pub(crate) struct ImportArgs {
    /// The interactions: one row a user and item.
    #[arg(long, value_name = "FILE", required_unless_present = "preset")]
    interactions: Option<PathBuf>,
    /// Users with features.
    #[arg(long, value_name = "FILE")]
    users: Option<PathBuf>,
    /// Items with features and names.
    #[arg(long, value_name = "FILE")]
    items: Option<PathBuf>,
    /// Declares the feature columns of users and items.
    #[arg(long, value_name = "FILE.toml", conflicts_with = "infer_schema")]
    schema: Option<PathBuf>,
    /// Guess the kind of each feature column; the schema used is written to DATASET.schema.toml.
    #[arg(long)]
    infer_schema: bool,
    /// Which events are held out: none (everything trains), global-time[:0.8|:2024-01-31][,gap=7d], leave-last-out[:n],
    /// random[:0.3][,seed=1] or given:FILE.
    #[arg(long, default_value = "none", value_name = "KIND", hide_default_value = true, value_parser = split)]
    split: (SplitSpec, Option<PathBuf>),
    /// The held-out events; short for --split given:FILE.
    #[arg(long, value_name = "FILE", conflicts_with = "split")]
    test: Option<PathBuf>,
    /// Where the dataset goes.
    #[arg(long, value_name = "DATASET")]
    out: PathBuf,
    /// Replace a dataset that is there.
    #[arg(long)]
    overwrite: bool,
    /// Form of the interactions and of given held-out events.
    #[arg(long, value_enum, default_value_t = FormatName::Table, value_name = "FORM", help_heading = "Form")]
    format: FormatName,
    /// A public set, from the directory its files lie in as published.
    #[arg(
        long, value_name = "NAME", value_parser = PRESETS, requires = "from", help_heading = "Form",
        conflicts_with_all = ["interactions", "users", "items", "schema", "infer_schema", "format"]
    )]
    preset: Option<String>,
    /// The directory of a preset.
    #[arg(long, value_name = "DIR", requires = "preset", help_heading = "Form")]
    from: Option<PathBuf>,
    /// What stands between two cells of the text files: a character, tab, or ::.
    #[arg(long, value_name = "CHAR", value_parser = delimiter, help_heading = "Form")]
    delimiter: Option<Delimiter>,
    /// Column names of interactions (and held-out events) without a header line.
    #[arg(
        long, value_delimiter = ',', value_name = "NAME,NAME", help_heading = "Form", conflicts_with_all = ["users", "items"]
    )]
    header: Option<Vec<String>>,
    /// The text files are ISO-8859-1 rather than UTF-8.
    #[arg(long, help_heading = "Form")]
    latin1: bool,
    /// Column of the user's id.
    #[arg(long, value_name = "NAME", help_heading = "Columns")]
    user_column: Option<String>,
    /// Column of the item's id.
    #[arg(long, value_name = "NAME", help_heading = "Columns")]
    item_column: Option<String>,
    /// Column of the time: numbers since 1970, dates or instants.
    #[arg(long, value_name = "NAME", alias = "timestamp-column", help_heading = "Columns")]
    time_column: Option<String>,
    /// Column of the strength.
    #[arg(long, value_name = "NAME", conflicts_with = "no_weight", help_heading = "Columns")]
    weight_column: Option<String>,
    /// Leave a weight column unread, e.g. where ratings are taken as plain interactions.
    #[arg(long, help_heading = "Columns")]
    no_weight: bool,
    /// Column of the items table with the display name.
    #[arg(long, value_name = "NAME", requires = "items", help_heading = "Columns")]
    name_column: Option<String>,
    /// What an item is called in messages and tables.
    #[arg(long, default_value = "item", value_name = "NOUN", conflicts_with = "preset", help_heading = "Columns")]
    item_kind: String,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum FormatName {
    /// A table with named columns.
    Table,
    /// `user item item ...` a line.
    Lightgcn,
}

fn split(text: &str) -> Result<(SplitSpec, Option<PathBuf>), Error> {
    SplitSpec::parse(text)
}

fn delimiter(text: &str) -> Result<Delimiter, String> {
    match text {
        "tab" | "\\t" | "\t" => Ok(Delimiter::Byte(b'\t')),
        "::" => Ok(Delimiter::DoubleColon),
        _ if text.len() == 1 => Ok(Delimiter::Byte(text.as_bytes()[0])),
        _ => Err("expected one character, tab, or ::".to_owned()),
    }
}

impl ImportArgs {
    fn split(&self) -> (SplitSpec, Option<PathBuf>) {
        match &self.test {
            Some(test) => (SplitSpec::Given, Some(test.clone())),
            None => self.split.clone(),
        }
    }

    fn options(&self) -> Result<ImportOptions> {
        let Some(interactions) = &self.interactions else {
            bail!("give --interactions, or --preset with --from");
        };
        let (split, test) = self.split();
        Ok(ImportOptions {
            users: self.users.clone(),
            items: self.items.clone(),
            format: match self.format {
                FormatName::Table => Format::Table,
                FormatName::Lightgcn => Format::LightGcn,
            },
            columns: Columns {
                user: self.user_column.clone(),
                item: self.item_column.clone(),
                timestamp: self.time_column.clone(),
                weight: self.weight_column.clone(),
                ignore_weight: self.no_weight,
            },
            layout: Layout { delimiter: self.delimiter, header: self.header.clone(), latin1: self.latin1 },
            schema: match &self.schema {
                Some(path) => SchemaSource::File(path.clone()),
                None if self.infer_schema => SchemaSource::Infer,
                None => SchemaSource::None,
            },
            split,
            test,
            item_kind: self.item_kind.clone(),
            name_column: self.name_column.clone(),
            ..ImportOptions::new(interactions)
        })
    }
}

pub(crate) fn run(args: &ImportArgs, out: &mut dyn Write) -> Result<Outcome> {
    let started = Instant::now();
    let if_exists = if_exists(args.overwrite);
    let summary = match (&args.preset, &args.from) {
        (Some(preset), Some(from)) => {
            let (split, test) = args.split();
            import_preset(preset, from, &split, test.as_deref(), &args.out, if_exists)?
        }
        _ => import(&args.options()?, &args.out, if_exists)?,
    };
    let ImportSummary { counts, schema_path, notes, .. } = &summary;
    for note in notes {
        eprintln!("note: {note}");
    }
    if counts.test_events == 0 {
        eprintln!("note: everything is training data; to evaluate later, hold a part out with --split {FORMS}");
    }
    writeln!(
        out,
        "{}: {} users, {} items, {} training events, {} held-out events of {} users, in {:.1} s; schema: {}",
        args.out.display(),
        grouped(counts.users),
        grouped(counts.items),
        grouped(counts.events),
        grouped(counts.test_events),
        grouped(counts.test_users),
        started.elapsed().as_secs_f64(),
        schema_path.display()
    )?;
    Ok(Outcome::Done)
}
