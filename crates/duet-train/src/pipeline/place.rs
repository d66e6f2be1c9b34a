//! The work directory: who holds it, what lies where, what is kept.

use std::{
    collections::BTreeMap,
    fs::File,
    path::{Path, PathBuf},
    thread::sleep,
    time::Duration,
};

use duet_core::{Error, Result, artifact};
use fs_err as fs;

use super::record::{self, Outcome, Record};
use crate::{champion, pointer, run};

const CURRENT: &str = "current";
const RUNS: &str = "runs";
const EVALUATIONS: &str = "evaluations";
const BUNDLES: &str = "bundles";
const RECORDS: &str = "records";

/// A work directory that this process holds.
#[derive(Debug)]
pub(super) struct Place {
    dir: PathBuf,
    _lock: File,
}

impl Place {
    /// Takes the directory, and clears up after a process that died in it.
    pub(super) fn open(dir: &Path) -> Result<Self> {
        let dir = std::path::absolute(dir).map_err(Error::io(dir))?;
        for name in [RUNS, EVALUATIONS, BUNDLES, RECORDS] {
            fs::create_dir_all(dir.join(name)).map_err(Error::io(&dir))?;
        }
        let path = dir.join(".lock");
        let lock = File::create(&path).map_err(Error::io(&path))?;
        if lock.try_lock().is_err() {
            return Err(Error::input(format!("{}: another `duet run` works there", dir.display())));
        }
        let place = Self { dir, _lock: lock };
        place.clear_up()?;
        Ok(place)
    }

    pub(super) fn dataset(&self) -> PathBuf {
        self.dir.join("dataset")
    }

    pub(super) fn run(&self, id: &str) -> PathBuf {
        self.dir.join(RUNS).join(id)
    }

    pub(super) fn evaluation(&self, id: &str) -> PathBuf {
        self.dir.join(EVALUATIONS).join(id)
    }

    pub(super) fn bundle(&self, id: &str) -> PathBuf {
        self.dir.join(BUNDLES).join(id)
    }

    fn record_path(&self, id: &str) -> PathBuf {
        self.dir.join(RECORDS).join(format!("{id}.json"))
    }

    /// A new tick with a record; waits where the last one began in the same second.
    pub(super) fn start(&self) -> Result<Record> {
        let mut id = record::id();
        while self.record_path(&id).exists() {
            sleep(Duration::from_millis(20));
            id = record::id();
        }
        let record = Record::start(id);
        self.write(&record)?;
        Ok(record)
    }

    pub(super) fn write(&self, record: &Record) -> Result<()> {
        record.write(&self.record_path(&record.id))
    }

    /// The record of a tick; none that can be read is none, with a warning.
    pub(super) fn record(&self, id: &str) -> Option<Record> {
        match Record::read(&self.record_path(id)) {
            Ok(record) => Some(record),
            Err(error) => {
                tracing::warn!(%error, "a record can't be read");
                None
            }
        }
    }

    /// The ids of all records, oldest first.
    pub(super) fn record_ids(&self) -> Result<Vec<String>> {
        let names = names(&self.dir.join(RECORDS))?;
        Ok(names.iter().filter_map(|name| name.strip_suffix(".json")).map(str::to_owned).collect())
    }

    /// The id of the bundle that is served.
    pub(super) fn current(&self) -> Option<String> {
        let target = pointer::target(&self.dir, CURRENT)?;
        let id = target.file_name()?.to_string_lossy().into_owned();
        self.bundle(&id).is_dir().then_some(id)
    }

    /// Turns `current` to the bundle of `id`; returns the bundle's path as the link names it.
    pub(super) fn publish(&self, id: &str) -> Result<String> {
        let target = format!("{BUNDLES}/{id}");
        pointer::turn(&self.dir, CURRENT, &target)?;
        Ok(target)
    }

    fn clear_up(&self) -> Result<()> {
        for dir in [BUNDLES, EVALUATIONS].map(|name| self.dir.join(name)) {
            for name in names(&dir)? {
                // `.NAME.partial`, `.NAME.old`, `.NAME.lock`
                if let Some((id, _)) = name.strip_prefix('.').and_then(|name| name.rsplit_once('.')) {
                    artifact::tidy(&dir.join(id))?;
                }
            }
        }
        artifact::tidy(&self.dataset())?;
        let current = self.current();
        for id in self.record_ids()? {
            let Some(mut record) = self.record(&id).filter(|record| record.outcome == Outcome::Running) else {
                continue;
            };
            let is_current = current.as_deref() == Some(&id);
            record.published = is_current.then(|| format!("{BUNDLES}/{id}"));
            record.outcome = if is_current { Outcome::Published } else { Outcome::Died };
            self.write(&record)?;
        }
        Ok(())
    }

    /// Removes all but the newest `keep` ticks that were published, the newest `keep` that were not, the current one, the champion and
    /// those that a rollback would lead to.
    pub(super) fn retire(&self, keep: usize) -> Result<()> {
        let current = self.current();
        let champions = champion::champions(&self.dir)?;
        let is_champion =
            |id: &str| champions.iter().any(|bundle| Path::new(bundle).ends_with(Path::new(BUNDLES).join(id)));
        let mut ticks: BTreeMap<String, bool> = BTreeMap::new();
        for dir in [RUNS, EVALUATIONS, BUNDLES] {
            for id in names(&self.dir.join(dir))? {
                if !id.starts_with('.') && !ticks.contains_key(&id) {
                    let known = self.record_path(&id).exists();
                    let outcome = known.then(|| self.record(&id)).flatten().map(|record| record.outcome);
                    ticks.insert(id, outcome == Some(Outcome::Published));
                }
            }
        }
        let (mut published, mut others) = (0, 0);
        for (id, was_published) in ticks.iter().rev() {
            let count = if *was_published { &mut published } else { &mut others };
            *count += 1;
            if *count > keep && current.as_ref() != Some(id) && !is_champion(id) {
                self.remove(id)?;
            }
        }
        Ok(())
    }

    fn remove(&self, id: &str) -> Result<()> {
        tracing::info!(id, "removing an old tick's run, evaluation and bundle");
        for artifact in [self.bundle(id), self.evaluation(id)] {
            if artifact.exists() {
                artifact::remove(&artifact)?;
            }
        }
        let run = self.run(id);
        if run.exists() {
            run::remove(&run)?;
            fs::remove_dir_all(&run).map_err(Error::io(&run))?;
        }
        Ok(())
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let mut names = Vec::new();
    for entry in fs::read_dir(dir).map_err(Error::io(dir))? {
        names.push(entry.map_err(Error::io(dir))?.file_name().to_string_lossy().into_owned());
    }
    names.sort();
    Ok(names)
}
