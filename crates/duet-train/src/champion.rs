//! Which bundle is the champion: a link, and the history of who it was.
//!
//! ```text
//! PLACE/champion          a link to a bundle, replaced by a rename
//! PLACE/champion.jsonl    one line a promotion or rollback, the newest last
//! ```
//!
//! Promotions are a stack: a rollback goes to the champion before the last promotion that still stands, another one further back. The
//! line is written before the link is turned; where a process died between the two, the next one takes the line back.

use std::{
    fs::File,
    path::{Component, Path, PathBuf},
};

use chrono::{SecondsFormat, Utc};
use duet_core::{Error, Result, artifact};
use fs_err as fs;
use serde::{Deserialize, Serialize};

use crate::{bundle, pointer};

/// The link.
pub const CHAMPION: &str = "champion";
/// The history beside it.
pub const HISTORY: &str = "champion.jsonl";

/// What was done.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Action {
    /// A bundle became champion.
    Promote,
    /// The champion before became champion again.
    Rollback,
}

/// A line of the history.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Change {
    /// When, UTC.
    pub at: String,
    /// What was done.
    pub action: Action,
    /// The champion from then on, relative to the place.
    pub bundle: String,
    /// The champion until then.
    pub before: Option<String>,
    /// The dataset of the champion from then on.
    pub dataset_fingerprint: String,
}

/// The place whose champion a bundle becomes if none is named: the bundle's directory, or that of `bundles` where it lies in one (as in
/// the work directory of `duet run`).
pub fn default_place(bundle: &Path) -> Result<PathBuf> {
    let bundle = std::path::absolute(bundle).map_err(Error::io(bundle))?;
    let parent = bundle.parent().ok_or_else(|| Error::input(format!("{} lies in no directory", bundle.display())))?;
    let outer = parent.parent().filter(|_| parent.ends_with("bundles"));
    Ok(outer.unwrap_or(parent).to_path_buf())
}

/// Makes a bundle the champion of `place`, after checking every file of it.
///
/// # Errors
/// [`Error::Data`] naming what is missing or damaged if it is no bundle; [`Error::Input`] if it is the champion already, or another
/// process is changing it. Nothing changes then.
pub fn promote(bundle: &Path, place: &Path) -> Result<Change> {
    let info = bundle::open_info(bundle)?;
    let store = Store::open(place)?;
    let bundle = relative(&fs::canonicalize(bundle).map_err(Error::io(bundle))?, &store.place);
    let before = store.target();
    if before.as_ref() == Some(&bundle) {
        return Err(Error::input(format!("{bundle} is the champion of {} already", place.display())));
    }
    store.change(Action::Promote, bundle, before, info.dataset_fingerprint)
}

/// Makes the champion before the last standing promotion the champion again, after checking every file of it.
///
/// # Errors
/// [`Error::Input`] if there is no champion before, or the link was turned by other hands; [`Error::Data`] if that bundle is gone or
/// damaged. Nothing changes then.
pub fn rollback(place: &Path) -> Result<Change> {
    let store = Store::open(place)?;
    let mut standing = standing(&store.history);
    let shown = place.display();
    let Some(current) = standing.pop() else {
        return Err(Error::input(format!(
            "{shown} has no history of champions: there is nothing to roll back; duet promote begins one"
        )));
    };
    if store.target().as_ref() != Some(&current) {
        return Err(Error::input(format!(
            "{} does not point to {current}, the champion by its history: it was turned by other hands; promote a bundle to go on",
            store.place.join(CHAMPION).display()
        )));
    }
    let Some(bundle) = standing.pop() else {
        return Err(Error::input(format!("{current} is the first champion of {shown}: there is none before it")));
    };
    let info = bundle::open_info(&store.place.join(&bundle))?;
    store.change(Action::Rollback, bundle, Some(current), info.dataset_fingerprint)
}

/// The bundles that the champion of `place` is, and that rollbacks would lead to, as the history names them.
///
/// # Errors
/// [`Error::Data`] naming the row of the history that can't be read.
pub fn champions(place: &Path) -> Result<Vec<String>> {
    let mut found = standing(&read(&place.join(HISTORY))?);
    found.extend(pointer::target(place, CHAMPION).map(|target| target.to_string_lossy().into_owned()));
    Ok(found)
}

/// The promotions that no rollback took back, and where the last rollback without one led: the stack, its top last.
fn standing(history: &[Change]) -> Vec<String> {
    let mut stack: Vec<String> = Vec::new();
    for change in history {
        match change.action {
            Action::Promote => {
                // A link that was turned by hand since is where this promotion came from.
                if let Some(before) = &change.before
                    && stack.last() != Some(before)
                {
                    stack.push(before.clone());
                }
                stack.push(change.bundle.clone());
            }
            Action::Rollback => {
                stack.pop();
            }
        }
    }
    stack
}

fn read(path: &Path) -> Result<Vec<Change>> {
    let text = if path.exists() { fs::read_to_string(path).map_err(Error::io(path))? } else { String::new() };
    let line = |(number, line): (usize, &str)| {
        serde_json::from_str(line)
            .map_err(|error| Error::data_row(path, number as u64 + 1, format!("not a change of champion: {error}")))
    };
    text.lines().enumerate().map(line).collect()
}

/// A place that this process holds.
struct Store {
    place: PathBuf,
    history: Vec<Change>,
    _lock: File,
}

impl Store {
    fn open(place: &Path) -> Result<Self> {
        let place = fs::canonicalize(place).map_err(Error::io(place))?;
        let path = place.join(".champion.lock");
        let lock = File::create(&path).map_err(Error::io(&path))?;
        if lock.try_lock().is_err() {
            return Err(Error::input(format!("{}: another process is changing the champion", place.display())));
        }
        let history = read(&place.join(HISTORY))?;
        let mut store = Self { place, history, _lock: lock };
        store.take_back()?;
        Ok(store)
    }

    fn target(&self) -> Option<String> {
        pointer::target(&self.place, CHAMPION).map(|target| target.to_string_lossy().into_owned())
    }

    /// Drops a last line that was written and not followed by the link.
    fn take_back(&mut self) -> Result<()> {
        let target = self.target();
        let is_unfinished =
            |last: &Change| target.as_ref() != Some(&last.bundle) && target.as_ref() == last.before.as_ref();
        if self.history.last().is_some_and(is_unfinished) {
            self.history.pop();
            self.write(&self.history)?;
        }
        Ok(())
    }

    fn write(&self, history: &[Change]) -> Result<()> {
        let mut text = String::new();
        for change in history {
            text += &serde_json::to_string(change).map_err(|error| Error::Internal(format!("{HISTORY}: {error}")))?;
            text.push('\n');
        }
        artifact::write_file(&self.place.join(HISTORY), text.as_bytes())
    }

    fn change(
        &self,
        action: Action,
        bundle: String,
        before: Option<String>,
        dataset_fingerprint: String,
    ) -> Result<Change> {
        let at = Utc::now().to_rfc3339_opts(SecondsFormat::Millis, true);
        let change = Change { at, action, bundle, before, dataset_fingerprint };
        let mut history = self.history.clone();
        history.push(change.clone());
        self.write(&history)?;
        pointer::turn(&self.place, CHAMPION, &change.bundle)?;
        Ok(change)
    }
}

/// The way from one absolute directory to another path.
fn relative(path: &Path, from: &Path) -> String {
    let (path, from): (Vec<Component<'_>>, Vec<Component<'_>>) =
        (path.components().collect(), from.components().collect());
    let shared = path.iter().zip(&from).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n(Component::ParentDir, from.len() - shared);
    let way: PathBuf = up.chain(path[shared..].iter().copied()).collect();
    way.to_string_lossy().into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn change(action: Action, bundle: &str, before: Option<&str>) -> Change {
        let before = before.map(str::to_owned);
        Change { at: String::new(), action, bundle: bundle.to_owned(), before, dataset_fingerprint: String::new() }
    }

    #[test]
    fn promotions_are_a_stack() {
        use Action::{Promote, Rollback};
        let mut history =
            vec![change(Promote, "a", None), change(Promote, "b", Some("a")), change(Promote, "c", Some("b"))];
        assert_eq!(standing(&history), ["a", "b", "c"]);
        history.push(change(Rollback, "b", Some("c")));
        history.push(change(Rollback, "a", Some("b")));
        assert_eq!(standing(&history), ["a"]);
        history.push(change(Promote, "d", Some("by hand")));
        assert_eq!(standing(&history), ["a", "by hand", "d"]);
    }

    #[test]
    fn ways_are_relative() {
        let way = |path: &str, from: &str| relative(Path::new(path), Path::new(from));
        assert_eq!(way("/work/bundles/x", "/work"), "bundles/x");
        assert_eq!(way("/other/x", "/work/place"), "../../other/x");
        assert_eq!(way("/work/x", "/work"), "x");
    }
}
