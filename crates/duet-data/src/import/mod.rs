//! Import: real tables of interactions, users and items into a dataset.
//!
//! One path for every source: read events into flat arrays ([`Format::Table`] or [`Format::LightGcn`], or a preset),
//! split them, build the vocabularies, write.
//! * Vocabulary: users (items) of training and every row of the users (items) table, in the table's order, the others
//!   behind it ascending by id. What occurs in the held-out part only is in no vocabulary.
//! * With a time column the data is sequences and repeats are kept; without it, sets: repeats are merged, weights
//!   summed.
//! * Features counted from events (popularity and the like) are not computed here.

mod assemble;
mod features;
mod infer;
pub(crate) mod instant;
mod interactions;
mod lightgcn;
mod preset;
mod source;

use std::path::{Path, PathBuf};

use duet_core::{
    Error, Result,
    artifact::{FileEntry, IfExists, checksum, write_file},
    schema::Schema,
    table::FeatureTable,
};
use fs_err as fs;

use crate::{
    dataset::{self, Counts},
    split::SplitSpec,
};
use features::Side;
use interactions::Events;
pub use preset::PRESETS;
pub use source::{Delimiter, Layout};

/// Where the feature columns are declared.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum SchemaSource {
    /// Nowhere: only ids and display names are read.
    #[default]
    None,
    /// In this TOML file.
    File(PathBuf),
    /// Guessed from the values.
    Infer,
}

/// The form of the interactions.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// A table with a header: delimited text, or Parquet by extension.
    #[default]
    Table,
    /// `user item item ...` a line.
    LightGcn,
}

/// Column names of the interactions; `None` is found by common names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Columns {
    /// The user's id.
    pub user: Option<String>,
    /// The item's id.
    pub item: Option<String>,
    /// When; optional in the file.
    pub timestamp: Option<String>,
    /// How much; optional in the file.
    pub weight: Option<String>,
    /// Leave a weight column unread, e.g. where ratings are taken as plain interactions.
    pub ignore_weight: bool,
}

/// What to import and how.
#[derive(Debug, Clone)]
pub struct ImportOptions {
    /// The interactions.
    pub interactions: PathBuf,
    /// The users table.
    pub users: Option<PathBuf>,
    /// The items table.
    pub items: Option<PathBuf>,
    /// The form of the interactions and of the given test file.
    pub format: Format,
    /// Column names of the interactions.
    pub columns: Columns,
    /// Delimiter and encoding of every text file.
    pub layout: Layout,
    /// Where the feature columns are declared.
    pub schema: SchemaSource,
    /// How the held-out part is chosen.
    pub split: SplitSpec,
    /// The held-out events, for [`SplitSpec::Given`].
    pub test: Option<PathBuf>,
    /// What an item is called, for messages and tables.
    pub item_kind: String,
    /// The items table's column with the display name; `None` is found by common names.
    pub name_column: Option<String>,
}

impl ImportOptions {
    /// Interactions alone, everything else found or left out.
    pub fn new(interactions: impl Into<PathBuf>) -> Self {
        Self {
            interactions: interactions.into(),
            users: None,
            items: None,
            format: Format::Table,
            columns: Columns::default(),
            layout: Layout::default(),
            schema: SchemaSource::None,
            split: SplitSpec::None,
            test: None,
            item_kind: "item".to_owned(),
            name_column: None,
        }
    }
}

/// What was imported.
#[derive(Debug, Clone, PartialEq)]
pub struct ImportSummary {
    /// The dataset.
    pub out: PathBuf,
    /// How many of what.
    pub counts: Counts,
    /// The schema used, written beside the dataset.
    pub schema_path: PathBuf,
    /// Repeated (user, item) pairs that were merged.
    pub merged: u64,
    /// Events inside the gap of a global-time split.
    pub dropped_in_gap: u64,
    /// What a reader should know, e.g. columns that were skipped.
    pub notes: Vec<String>,
}

/// Everything read from the sources, before the split.
#[derive(Default)]
struct Inputs {
    events: Events,
    test: Option<Events>,
    users: FeatureTable,
    items: FeatureTable,
    schema: Schema,
    item_kind: String,
    sources: Vec<(PathBuf, FileEntry)>,
    notes: Vec<String>,
}

/// Imports files into a dataset at `out`, and writes the schema used to `<out>.schema.toml`.
///
/// # Errors
/// [`Error::Input`] for options that contradict each other, [`Error::Data`] naming file and row, [`Error::Io`] with
/// the path. Nothing is left behind then.
pub fn import(options: &ImportOptions, out: &Path, if_exists: IfExists) -> Result<ImportSummary> {
    let read = |path: &Path| match options.format {
        Format::Table => Events::read(path, &options.layout, &options.columns),
        Format::LightGcn => lightgcn::read(path),
    };
    let mut inputs = Inputs { item_kind: options.item_kind.clone(), ..Inputs::default() };
    let declared = match &options.schema {
        SchemaSource::File(path) => read_schema(path)?,
        _ => Schema::default(),
    };
    for (file, columns, name) in
        [(&options.users, &declared.users, "users"), (&options.items, &declared.items, "items")]
    {
        if file.is_none() && !columns.is_empty() {
            return Err(Error::input(format!("the schema declares columns of {name}, but no {name} file is given")));
        }
    }
    // Tables first: they are small, and mistakes in them should not cost the reading of the interactions.
    if let Some(path) = &options.users {
        let read = features::read(path, &options.layout, Side::Users, None, &options.schema, &declared.users)?;
        inputs.users = read.table;
        inputs.schema.users = read.columns;
        inputs.notes.extend(read.notes);
    }
    if let Some(path) = &options.items {
        let name = options.name_column.as_deref();
        let read = features::read(path, &options.layout, Side::Items, name, &options.schema, &declared.items)?;
        inputs.items = read.table;
        inputs.schema.items = read.columns;
        inputs.notes.extend(read.notes);
    }
    inputs.events = read(&options.interactions)?;
    inputs.test = read_test(&options.split, options.test.as_deref(), read)?;
    let files = [Some(&options.interactions), options.test.as_ref(), options.users.as_ref(), options.items.as_ref()];
    inputs.fingerprint(files.into_iter().flatten())?;
    finish(inputs, &options.split, out, if_exists)
}

/// Imports a public set from `dir`, where its files lie as published; see [`PRESETS`].
///
/// `test` is the file of a given split: a table with user and item columns.
///
/// # Errors
/// As [`import`]; an unknown name lists the valid ones.
pub fn import_preset(
    name: &str,
    dir: &Path,
    split: &SplitSpec,
    test: Option<&Path>,
    out: &Path,
    if_exists: IfExists,
) -> Result<ImportSummary> {
    let mut inputs = preset::read(name, dir)?;
    inputs.test = read_test(split, test, |path| Events::read(path, &Layout::default(), &Columns::default()))?;
    inputs.fingerprint(test.map(Path::to_path_buf).iter())?;
    finish(inputs, split, out, if_exists)
}

fn read_test(split: &SplitSpec, test: Option<&Path>, read: impl Fn(&Path) -> Result<Events>) -> Result<Option<Events>> {
    match (split, test) {
        (SplitSpec::Given, Some(path)) => read(path).map(Some),
        (SplitSpec::Given, None) => Err(Error::input("a given split needs the file of held-out events: given:FILE")),
        (_, Some(_)) => Err(Error::input(format!("a test file goes with a given split, not with {}", split.kind()))),
        (_, None) => Ok(None),
    }
}

fn read_schema(path: &Path) -> Result<Schema> {
    let text = fs::read_to_string(path).map_err(Error::io(path))?;
    let schema: Schema = toml::from_str(&text).map_err(|error| Error::data(path, format!("not a schema: {error}")))?;
    schema.validate().map_err(|error| Error::data(path, error.to_string()))?;
    for (table, columns) in [("users", &schema.users), ("items", &schema.items)] {
        if let Some(name) = columns.keys().find(|name| ["id", "name"].contains(&name.as_str())) {
            return Err(Error::data(path, format!("{table}.{name}: a feature can't be called \"id\" or \"name\"")));
        }
    }
    Ok(schema)
}

impl Inputs {
    fn fingerprint<'a>(&mut self, files: impl Iterator<Item = &'a PathBuf>) -> Result<()> {
        for file in files {
            self.sources.push((file.clone(), checksum(file)?));
        }
        Ok(())
    }
}

fn finish(inputs: Inputs, split: &SplitSpec, out: &Path, if_exists: IfExists) -> Result<ImportSummary> {
    let schema_text = toml::to_string(&inputs.schema).map_err(|error| Error::Internal(format!("schema: {error}")))?;
    let mut notes = inputs.notes.clone();
    let assembled = assemble::assemble(inputs, split)?;
    let parts = assembled.parts;
    // The schema first, for a dataset can't be taken back: on failure the place looks as it did before.
    let mut schema_path = std::path::absolute(out).map_err(Error::io(out))?.into_os_string();
    schema_path.push(".schema.toml");
    let schema_path = PathBuf::from(schema_path);
    if let Some(parent) = schema_path.parent() {
        std::fs::create_dir_all(parent).map_err(Error::io(parent))?;
    }
    let before = std::fs::read(&schema_path).ok();
    write_file(&schema_path, schema_text.as_bytes())?;
    let out = match dataset::write(out, if_exists, &parts) {
        Ok(out) => out,
        Err(error) => {
            match before {
                Some(text) => write_file(&schema_path, &text)?,
                None => std::fs::remove_file(&schema_path).map_err(Error::io(&schema_path))?,
            }
            return Err(error);
        }
    };
    let counts = Counts {
        users: parts.users.len() as u64,
        items: parts.items.len() as u64,
        events: parts.timeline.items.len() as u64,
        test_events: parts.test.iter().map(|user| user.items.len() as u64).sum(),
        test_users: parts.test.len() as u64,
    };
    if assembled.merged > 0 {
        notes.push(format!("{} repeated user-item pairs merged", assembled.merged));
    }
    if assembled.dropped > 0 {
        notes.push(format!("{} events inside the gap dropped", assembled.dropped));
    }
    Ok(ImportSummary { out, counts, schema_path, merged: assembled.merged, dropped_in_gap: assembled.dropped, notes })
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests;
