//! What all recommenders of an evaluation or a comparison share: the dataset, the users, the parts they are divided into, the
//! protocol.

use duet_core::{Error, Result, table::FeatureTable};
use duet_data::dataset::{Dataset, Timeline};
use duet_retrieval::{
    Evaluation, EvaluationOptions, Panel, Recommender,
    evaluation::{self, CatalogueInfo},
    segments::{Division, FoldLimits, Group, ItemDivision},
    unit_vectors::UnitVectors,
};

use super::{
    baseline::{Baseline, Materials},
    case::test_cases,
    divisions::{UserKnowledge, item_divisions, items_by_events},
    future::check_before_cutoff,
    parameters::Parameters,
};
use crate::{interactions::interactions, prior::item_counts};

/// A dataset, made ready to measure on.
pub(crate) struct TestBed {
    pub(crate) dataset: Dataset,
    pub(crate) items: FeatureTable,
    pub(crate) timeline: Timeline,
    pub(crate) panel: Panel,
    pub(crate) materials: Materials,
    /// Training listeners of each item.
    pub(crate) popularity: Vec<u32>,
    /// The users by everything known of them, folded.
    pub(crate) divisions: Vec<Division>,
    /// The users by training events, not folded.
    pub(crate) history: Division,
    /// The items by popularity and followers; the last division is by training events.
    pub(crate) item_divisions: Vec<ItemDivision>,
    /// What likeness of items is told by.
    pub(crate) vectors: Option<UnitVectors>,
    listeners: usize,
    options: EvaluationOptions,
}

impl TestBed {
    /// Reads the dataset and divides its users and items.
    ///
    /// # Errors
    /// [`Error::Input`] for a dataset without a held-out part, or if nobody has anything left to find; [`Error::Data`] for training
    /// events in the held-out period; the errors of reading.
    pub(crate) fn new(
        dataset: Dataset,
        keep_seen: bool,
        limits: FoldLimits,
        options: EvaluationOptions,
    ) -> Result<Self> {
        if dataset.info.counts.test_events == 0 {
            return Err(Error::input(format!(
                "{} has no held-out part, so there is nothing to evaluate on; import it again with --split (for instance \
                 --split leave-last-out), train on that, and evaluate",
                dataset.dir.display()
            )));
        }
        let items = dataset.items()?;
        let timeline = dataset.timeline()?;
        check_before_cutoff(&dataset.dir, &timeline, &dataset.info.split)?;
        let cases = test_cases(&dataset.test()?, &timeline, &items.ids, keep_seen);
        if cases.is_empty() {
            return Err(Error::input(format!(
                "{}: nobody has a held-out {item} that was not in their training part; --keep-seen counts those too",
                dataset.dir.display(),
                item = dataset.info.item_kind
            )));
        }
        let panel = Panel::new(cases)?;
        let popularity = interactions(&timeline, items.len())?.popularity(i64::MIN);
        let materials = Materials::new(&dataset, &timeline)?;
        let vectors = materials.content.as_ref().map(|content| content.vectors()).transpose()?;
        let mut item_divisions = item_divisions(&items, &popularity);
        item_divisions.push(items_by_events(&item_counts(&timeline, items.len())));
        let users = dataset.users()?;
        let knowledge =
            UserKnowledge { panel: &panel, users: &users, columns: &dataset.info.schema.users, timeline: &timeline };
        let divisions = knowledge.divisions(limits);
        let groups: Vec<Group> = knowledge.history();
        let history = Division::fold("training events of the user", groups, FoldLimits { min_users: 1, ..limits });
        let listeners = timeline.offsets.windows(2).filter(|pair| pair[0] < pair[1]).count();
        Ok(Self {
            dataset,
            items,
            timeline,
            panel,
            materials,
            popularity,
            divisions,
            history,
            item_divisions,
            vectors,
            listeners,
            options,
        })
    }

    /// Ranks and measures.
    ///
    /// # Errors
    /// As [`evaluation::evaluate`].
    pub(crate) fn measure(&self, recommender: &dyn Recommender) -> Result<Evaluation> {
        let catalogue = CatalogueInfo {
            popularity: &self.popularity,
            listeners: self.listeners,
            vectors: self.vectors.as_ref(),
            divisions: &self.item_divisions,
        };
        let evaluation = evaluation::evaluate(recommender, &self.panel, catalogue, &self.options)?;
        tracing::info!(recommender = evaluation.recommender, seconds = evaluation.seconds, "evaluated");
        Ok(evaluation)
    }

    /// Fits a baseline on the training events.
    ///
    /// # Errors
    /// As [`Baseline::build`].
    pub(crate) fn fit(&self, baseline: Baseline, parameters: &Parameters, seed: u64) -> Result<Box<dyn Recommender>> {
        baseline.build(&interactions(&self.timeline, self.items.len())?, &self.materials, parameters, seed)
    }
}
