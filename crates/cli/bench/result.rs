//! What was measured: rows of one table, and its JSON.

use serde::{Deserialize, Serialize};

/// One figure.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Measurement {
    /// The section it belongs to.
    #[serde(default)]
    pub(super) section: String,
    /// What exactly.
    pub(super) case: String,
    /// Threads of the process.
    #[serde(default)]
    pub(super) threads: usize,
    pub(super) value: f64,
    pub(super) unit: String,
    /// Seconds of whatever `value` counts, if there is a floor under them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) seconds: Option<f64>,
    /// The counted work of those seconds.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(super) phases: Vec<Phase>,
    /// Share of the floor reached: 1 is as fast as the machine's two ceilings allow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) of_floor: Option<f64>,
    /// How many times what PyTorch reaches.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) of_torch: Option<f64>,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub(super) note: String,
}

/// A part of a step: its least work, and what it took.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub(super) struct Phase {
    pub(super) name: String,
    pub(super) flops: f64,
    pub(super) bytes: f64,
    pub(super) seconds: f64,
}

/// The two ceilings of a machine at some number of threads.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
pub(super) struct Ceilings {
    pub(super) threads: usize,
    /// Floating-point operations a second of a large matrix product.
    pub(super) flops: f64,
    /// Bytes a second of a copy.
    pub(super) bytes: f64,
}

impl Phase {
    /// The least seconds: what the slower of the two ceilings takes.
    pub(super) fn floor(&self, ceilings: &Ceilings) -> f64 {
        (self.flops / ceilings.flops).max(self.bytes / ceilings.bytes)
    }
}

impl Measurement {
    pub(super) fn new(case: impl Into<String>, value: f64, unit: &str) -> Self {
        Self { case: case.into(), value, unit: unit.to_owned(), ..Self::default() }
    }

    /// Holds the figure against the floor.
    pub(super) fn against(mut self, ceilings: &Ceilings) -> Self {
        if let Some(seconds) = self.seconds.filter(|_| !self.phases.is_empty()) {
            self.of_floor = Some(self.phases.iter().map(|phase| phase.floor(ceilings)).sum::<f64>() / seconds);
        }
        self
    }
}

/// Everything of a run.
#[derive(Debug, Serialize)]
pub(super) struct Results {
    pub(super) device: String,
    pub(super) processor: String,
    pub(super) revision: String,
    pub(super) version: &'static str,
    /// Processes that wanted to run besides, over the last minute, before and after.
    pub(super) load: [Option<f64>; 2],
    pub(super) ceilings: Vec<Ceilings>,
    pub(super) measurements: Vec<Measurement>,
}

impl Results {
    /// The table that people read.
    pub(super) fn table(&self) -> String {
        let header = ["section", "case", "threads", "measured", "unit", "of floor", "x PyTorch", ""];
        let mut rows = vec![header.map(str::to_owned)];
        for ceilings in &self.ceilings {
            let values = [
                ("matrix product", ceilings.flops / 1e9, "Gflop/s"),
                ("copy, read and written", ceilings.bytes / 1e9, "GB/s"),
            ];
            for (case, value, unit) in values {
                let case = case.to_owned();
                let threads = ceilings.threads.to_string();
                rows.push(["ceilings".to_owned(), case, threads, number(value), unit.to_owned()].into_row());
            }
        }
        for found in &self.measurements {
            rows.push([
                found.section.clone(),
                found.case.clone(),
                found.threads.to_string(),
                number(found.value),
                found.unit.clone(),
                found.of_floor.map_or_else(String::new, |share| format!("{share:.2}")),
                found.of_torch.map_or_else(String::new, |ratio| format!("{ratio:.2}")),
                found.note.clone(),
            ]);
            let ceilings = self.ceilings.iter().find(|ceilings| ceilings.threads == found.threads);
            for phase in &found.phases {
                let floor = ceilings.map(|ceilings| format!("{:.2}", phase.floor(ceilings) / phase.seconds));
                rows.push([
                    String::new(),
                    format!("  {}", phase.name),
                    String::new(),
                    number(phase.seconds * 1e3),
                    "ms".to_owned(),
                    floor.unwrap_or_default(),
                    String::new(),
                    format!("{} Mflop, {} MB", number(phase.flops / 1e6), number(phase.bytes / 1e6)),
                ]);
            }
        }
        layout(&rows)
    }
}

trait IntoRow {
    fn into_row(self) -> [String; 8];
}

impl IntoRow for [String; 5] {
    fn into_row(self) -> [String; 8] {
        let mut cells = self.into_iter();
        std::array::from_fn(|_| cells.next().unwrap_or_default())
    }
}

/// Columns aligned, figures to the right.
fn layout(rows: &[[String; 8]]) -> String {
    let widths: [usize; 8] =
        std::array::from_fn(|at| rows.iter().map(|row| row[at].chars().count()).max().unwrap_or(0));
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (at, (cell, width)) in row.iter().zip(widths).enumerate() {
            let is_figure = matches!(at, 2 | 3 | 5 | 6);
            line += &if is_figure { format!("{cell:>width$}  ") } else { format!("{cell:<width$}  ") };
        }
        text += line.trim_end();
        text.push('\n');
    }
    text
}

/// Four digits that matter.
fn number(value: f64) -> String {
    match value.abs() {
        size if size >= 1000.0 => duet_core::number::grouped(value.abs().round() as u64),
        size if size >= 100.0 => format!("{value:.0}"),
        size if size >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_floor_is_the_slower_of_the_two_ceilings() {
        let ceilings = Ceilings { threads: 1, flops: 100.0, bytes: 10.0 };
        let phase = |flops, bytes| Phase { flops, bytes, ..Phase::default() };
        assert_eq!((phase(200.0, 5.0).floor(&ceilings), phase(10.0, 30.0).floor(&ceilings)), (2.0, 3.0));
        let found = Measurement {
            seconds: Some(10.0),
            phases: vec![phase(200.0, 5.0), phase(10.0, 30.0)],
            ..Measurement::new("step", 1.0, "step/s")
        };
        assert_eq!(found.against(&ceilings).of_floor, Some(0.5));
    }

    #[test]
    fn columns_are_aligned() {
        let results = Results {
            device: "cpu".to_owned(),
            processor: String::new(),
            revision: String::new(),
            version: "",
            load: [None; 2],
            ceilings: vec![Ceilings { threads: 2, flops: 1.234e11, bytes: 2e10 }],
            measurements: vec![Measurement {
                section: "training".to_owned(),
                of_torch: Some(1.5),
                threads: 2,
                ..Measurement::new("mean", 61_234.4, "positions/s")
            }],
        };
        let table = results.table();
        let lines: Vec<&str> = table.lines().collect();
        assert_eq!(lines.len(), 4, "{table}");
        assert!(lines[1].contains("123  Gflop/s") && lines[3].contains("61,234  positions/s"), "{table}");
        assert_eq!(lines[0].find("unit"), lines[3].find("positions/s"), "{table}");
    }
}
