//! The report in words: for a terminal, and as Markdown.

use duet_retrieval::segments::FoldLimits;

use super::{Protocol, Report};
use crate::{
    evaluate::{
        groups::{fold_notes, groups_asked},
        table::Table,
        words::{display_name, segment_lines},
    },
    served::TWO_TOWER,
};

/// What a part of the report is about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(in crate::evaluate) enum Topic {
    Differences,
    BeyondAccuracy,
    NewUsers,
    NewItems,
    Exposure,
    OverFitting,
    Calibration,
    Baselines,
}

impl Topic {
    pub(in crate::evaluate) fn title(self) -> &'static str {
        match self {
            Self::Differences => "Differences",
            Self::BeyondAccuracy => "Beyond accuracy",
            Self::NewUsers => "Cold start: users",
            Self::NewItems => "Cold start: items",
            Self::Exposure => "Exposure",
            Self::OverFitting => "Over-fitting",
            Self::Calibration => "Calibration",
            Self::Baselines => "Baselines",
        }
    }
}

/// Part of the report: what it is about, what is said of it, its table.
pub(in crate::evaluate) struct Section {
    pub(in crate::evaluate) topic: Topic,
    pub(in crate::evaluate) note: String,
    pub(in crate::evaluate) table: Option<Table>,
}

impl Report {
    /// What was measured on whom, in a sentence or two.
    pub fn headline(&self) -> String {
        let Protocol { users, cold_users, catalogue, resamples, keep_seen, truth, unknown_truth, .. } = &self.protocol;
        let item = &self.dataset.item_kind;
        let mut text = format!(
            "{users} users ({cold_users} of them without training events), each ranked over {catalogue} {item}s; {} \
             Intervals: 95 %, {resamples} bootstrap resamples of users.",
            match keep_seen {
                true => "what they had in training may be recommended again.",
                false => "what they had in training is neither recommended nor counted.",
            }
        );
        if *unknown_truth > 0 {
            text +=
                &format!(" {unknown_truth} of the {truth} held-out {item}s are in no catalogue and can't be found.");
        }
        let (first, _) = self.protocol.cut_offs();
        let mean = |name: &str| Some(self.evaluation(name)?.all.metric(&format!("ndcg@{first}"))?.mean);
        if let (Some(own), Some(oracle)) = (mean(TWO_TOWER), mean("oracle"))
            && oracle > 0.0
        {
            let share = 100.0 * own / oracle;
            text += &format!(" The two-tower reaches {share:.0} % of the oracle's NDCG@{first}.");
        }
        text
    }

    /// The run's verdicts by segment, in lines.
    pub(in crate::evaluate) fn verdict_lines(&self) -> Vec<String> {
        let Some(against) = &self.findings.segments.against else { return Vec::new() };
        let own = display_name(TWO_TOWER);
        let mut lines = vec![format!(
            "{own} against {}, the best of the baselines on these users (verdicts corrected over all segments, Holm):",
            display_name(against)
        )];
        lines.extend(segment_lines(&self.findings.segments.divisions).into_iter().map(|line| format!("  {line}")));
        lines
    }

    /// What was folded or left out.
    pub(in crate::evaluate) fn fold_notes(&self) -> Vec<String> {
        let limits = FoldLimits { min_users: self.protocol.min_segment_users, max_groups: self.protocol.max_segments };
        fold_notes(&self.findings.segments.divisions, limits)
    }

    /// How well scores go with clicks, in a sentence.
    pub(in crate::evaluate) fn calibration_sentence(&self) -> Option<String> {
        let found = self.findings.calibration.as_ref()?;
        Some(format!(
            "Scores against clicks, over {} impressions of the training period ({:.1} % clicked): a logistic curve of the score, fitted \
             on one half of the users, has an expected calibration error of {:.4} on the other half (a constant: {:.4}); AUC {:.3}.",
            found.impressions,
            100.0 * found.click_rate,
            found.ece,
            found.constant_ece,
            found.auc
        ))
    }

    fn cold_start_note(&self) -> String {
        match &self.findings.cold_start.against {
            Some(against) => {
                format!("+ and -: the 95 % interval of the difference to {} leaves zero out.", display_name(against))
            }
            None => String::new(),
        }
    }

    /// Everything that has a table, but for the first one.
    pub(in crate::evaluate) fn sections(&self) -> Vec<Section> {
        let mut sections = Vec::new();
        let mut add = |topic, note: String, table: Option<Table>| sections.push(Section { topic, note, table });
        if !self.differences.is_empty() {
            let note = "Over the same users; * where the 95 % interval leaves zero out.".to_owned();
            add(Topic::Differences, note, Some(self.difference_table()));
        }
        let diversity = match self.protocol.diversity_by {
            Some(by) => format!("mean 1 - cosine of {by} within a list"),
            None => "not measured, the items have no features".to_owned(),
        };
        let note = format!(
            "coverage: share of the catalogue that anyone was recommended; Gini: concentration of what is shown, 0 even, 1 one item; \
             popularity: training listeners of a recommended item (of the whole catalogue: {:.0}); popularity lift: over the users' own \
             histories; novelty: mean self-information; diversity: {diversity}.",
            self.evaluations.first().map_or(0.0, |evaluation| evaluation.catalogue_popularity)
        );
        add(Topic::BeyondAccuracy, note, Some(self.beyond_table()));
        let cold = &self.findings.cold_start;
        if !cold.users.groups.is_empty() {
            add(Topic::NewUsers, self.cold_start_note(), Some(self.cold_start_table(&cold.users)));
        }
        if !cold.items.groups.is_empty() {
            let note = format!(
                "Recall of test items that had so many training events, over the users who have such. {}",
                self.cold_start_note()
            );
            add(Topic::NewItems, note, Some(self.cold_start_table(&cold.items)));
        }
        let note = "Share of the training listens, of the test items, and of the places in each recommender's lists."
            .to_owned();
        add(Topic::Exposure, note, Some(self.exposure_table()));
        if let Some(gap) = &self.findings.fit_gap {
            add(Topic::OverFitting, gap.sentence(), None);
        }
        if let Some(sentence) = self.calibration_sentence() {
            add(Topic::Calibration, sentence, None);
        }
        if !self.baselines.is_empty() {
            add(Topic::Baselines, String::new(), Some(self.baseline_table()));
        }
        sections
    }

    /// For a terminal.
    pub fn to_text(&self) -> String {
        let mut text = format!("{}\n\n{}", self.headline(), self.table().to_text());
        let lines = self.verdict_lines();
        if !lines.is_empty() {
            text += &format!("\n{}\n", lines.join("\n"));
        }
        for Section { topic, note, table } in self.sections() {
            text += &format!("\n{}", topic.title());
            text += &if note.is_empty() { "\n".to_owned() } else { format!(". {note}\n") };
            text += &table.map_or_else(String::new, |table| table.to_text());
        }
        text
    }

    /// For a repository or a pull request.
    pub fn to_markdown(&self) -> String {
        let mut text = format!("# Evaluation\n\n{}\n\n{}", self.headline(), self.table().to_markdown());
        for Section { topic, note, table } in self.sections() {
            text += &format!("\n## {}\n", topic.title());
            if !note.is_empty() {
                text += &format!("\n{}\n", note.replace('*', "\\*"));
            }
            text += &table.map_or_else(String::new, |table| format!("\n{}", table.to_markdown()));
        }
        if groups_asked(&self.findings.segments.divisions) > 0 {
            text += "\n## Segments\n\n";
            let lines = self.verdict_lines();
            if !lines.is_empty() {
                text += &format!("```\n{}\n```\n\n", lines.join("\n"));
            }
            text += &self.segment_table().to_markdown();
            for note in self.fold_notes() {
                text += &format!("\n* {note}");
            }
            text += "\n";
        }
        text + "\n## Data and model\n\n" + &self.facts().to_markdown()
    }
}
