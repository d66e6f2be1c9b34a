//! Over-fitting, from the record of the training: the gap that `duet evaluate` measured, held against a limit.

use std::path::{Path, PathBuf};

use duet_core::{Error, Result};
use fs_err as fs;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The file that `duet evaluate` writes.
const FILE: &str = "evaluation.json";

/// What the evaluation of the bundle's run says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct OverFit {
    /// NDCG@10 on what was learned from.
    pub training: f64,
    /// NDCG@10 on the validation part.
    pub validation: f64,
    /// `1 - validation / training`.
    pub gap: f64,
    /// The largest gap without an alarm.
    pub max_gap: f64,
    /// Whether the gap is larger.
    pub alarm: bool,
    /// Whether the test part is implausibly easy: a feature or a history may know the future.
    pub leak: bool,
}

impl OverFit {
    /// In a sentence.
    pub fn sentence(&self) -> String {
        let Self { training, validation, gap, max_gap, .. } = self;
        let mut text = format!(
            "NDCG@10 {training:.4} on the training sample, {validation:.4} on the validation part: a drop of {:.0} %, {:.0} % is allowed",
            100.0 * gap,
            100.0 * max_gap
        );
        if self.leak {
            text += "; the test part is easier than the training sample: does a feature know the future?";
        }
        text
    }
}

/// Where the evaluation of a bundle lies, if it is the bundle of a tick of `duet run`: `bundles/ID` and `evaluations/ID`.
pub(super) fn place_of(bundle: &Path) -> Option<PathBuf> {
    let bundle = fs::canonicalize(bundle).ok()?;
    let place = bundle.parent()?.parent()?.join("evaluations").join(bundle.file_name()?).join(FILE);
    place.is_file().then_some(place)
}

/// Reads the gap from an evaluation: its directory or `evaluation.json`. `max_gap` of 0 is the evaluation's own limit. Nothing, if the
/// evaluation could not measure a gap.
///
/// # Errors
/// [`Error::Data`] if it is no evaluation; [`Error::Io`].
pub(super) fn read(place: &Path, max_gap: f64) -> Result<Option<OverFit>> {
    let file = if place.is_dir() { place.join(FILE) } else { place.to_path_buf() };
    let text = fs::read_to_string(&file).map_err(Error::io(&file))?;
    let value: Value = serde_json::from_str(&text).map_err(|error| Error::data(&file, error.to_string()))?;
    let Some(found) = find(&value) else {
        return Err(Error::data(&file, format!("no fit_gap in it: expected the {FILE} of duet evaluate")));
    };
    if found.is_null() {
        return Ok(None);
    }
    let number = |value: &Value, key: &str| {
        value.as_f64().ok_or_else(|| Error::data(&file, format!("fit_gap.{key} must be a number")))
    };
    let gap = number(&found["gap"], "gap")?;
    let max_gap = if max_gap > 0.0 { max_gap } else { number(&found["max_gap"], "max_gap")? };
    let leak = found["leak"].as_bool().unwrap_or(false);
    Ok(Some(OverFit {
        training: number(&found["training"]["mean"], "training.mean")?,
        validation: number(&found["validation"]["mean"], "validation.mean")?,
        gap,
        max_gap,
        alarm: gap > max_gap || leak,
        leak,
    }))
}

/// The gap is among the findings of the report.
fn find(value: &Value) -> Option<&Value> {
    value.get("fit_gap").or_else(|| value.get("findings")?.get("fit_gap"))
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_gap_is_read_and_judged() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join(FILE);
        let text = r#"{"findings":{"fit_gap":{"training":{"users":5,"mean":0.2,"low":0.1,"high":0.3,"popularity":0.05},
            "validation":{"users":5,"mean":0.05,"low":0.0,"high":0.1,"popularity":0.05},
            "gap":0.75,"max_gap":0.8,"alarm":false,"leak":false}}}"#;
        fs::write(&file, text).unwrap();
        let found = read(dir.path(), 0.0).unwrap().unwrap();
        assert!(!found.alarm && found.gap == 0.75 && found.sentence().contains("75 %"), "{found:?}");
        assert!(read(&file, 0.5).unwrap().unwrap().alarm);
        fs::write(&file, r#"{"findings":{"fit_gap":null}}"#).unwrap();
        assert_eq!(read(&file, 0.5).unwrap(), None);
        fs::write(&file, "{}").unwrap();
        assert!(read(&file, 0.5).unwrap_err().to_string().contains("duet evaluate"));
    }

    #[test]
    fn beside_the_bundle_of_a_tick() {
        let dir = tempfile::tempdir().unwrap();
        let (bundle, evaluation) = (dir.path().join("bundles/t1"), dir.path().join("evaluations/t1"));
        fs::create_dir_all(&bundle).unwrap();
        assert_eq!(place_of(&bundle), None);
        fs::create_dir_all(&evaluation).unwrap();
        fs::write(evaluation.join(FILE), "{}").unwrap();
        assert!(place_of(&bundle).unwrap().ends_with("evaluations/t1/evaluation.json"));
    }
}
