//! The learning curve of a run, from the log of its training.

use std::{collections::BTreeMap, path::Path};

use serde_json::Value;

use super::report::LearningPoint;
use crate::metrics_log;

/// Loss and validation by epoch, of the pass that looked for the best epoch (all passes, where there was no other). Empty if the run
/// keeps no log. Lines that can't be read are left out: the log is for people.
pub(super) fn learning(run: &Path) -> Vec<LearningPoint> {
    let text = fs_err::read_to_string(run.join(metrics_log::FILE)).unwrap_or_default();
    let lines: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let searched = lines.iter().any(|line| line["phase"] == "search");
    let mut epochs: BTreeMap<u64, (Vec<f64>, Option<f64>, bool)> = BTreeMap::new();
    for line in &lines {
        let Some(epoch) = line["epoch"].as_u64() else { continue };
        if line["event"] == "validation" {
            let entry = epochs.entry(epoch).or_default();
            entry.1 = line["ndcg_at_10"].as_f64();
            entry.2 = line["best"] == true;
        } else if line["event"] == "step" && (!searched || line["phase"] == "search") {
            // A step names the epoch under way, a validation those that are done.
            epochs.entry(epoch + 1).or_default().0.extend(line["loss"].as_f64());
        }
    }
    let point = |(epoch, (losses, validation_ndcg, best)): (u64, (Vec<f64>, Option<f64>, bool))| LearningPoint {
        epoch: epoch as usize,
        loss: (!losses.is_empty()).then(|| losses.iter().sum::<f64>() / losses.len() as f64),
        validation_ndcg,
        best,
    };
    epochs.into_iter().map(point).collect()
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    #[test]
    fn the_log_becomes_a_curve() {
        let dir = tempfile::tempdir().unwrap();
        assert!(learning(dir.path()).is_empty());
        let log = r#"{"event":"step","phase":"search","epoch":0,"step":50,"loss":4.0}
{"event":"step","phase":"search","epoch":0,"step":99,"loss":2.0}
{"event":"validation","epoch":1,"step":99,"ndcg_at_10":0.1,"best":true}
{"event":"step","phase":"search","epoch":1,"step":150,"loss":1.0}
{"event":"validation","epoch":2,"step":198,"ndcg_at_10":0.09,"best":false}
{"event":"step","phase":"refit","epoch":0,"step":50,"loss":9.0}
{"event":"st"#;
        std::fs::write(dir.path().join(metrics_log::FILE), log).unwrap();
        let point =
            |epoch, loss, ndcg, best| LearningPoint { epoch, loss: Some(loss), validation_ndcg: Some(ndcg), best };
        assert_eq!(learning(dir.path()), [point(1, 3.0, 0.1, true), point(2, 1.0, 0.09, false)]);
    }
}
