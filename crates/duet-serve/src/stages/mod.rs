//! The way from a request to a list: one file a stage, each with a span and a histogram (`duet_stage_seconds{stage}`).
//!
//! ```text
//! history -> user vector -> candidates -> filters -> re-rank -> diversity -> answer
//! ```
//!
//! A stage takes a batch of drafts and leaves them further on. None of them fails: where something can't be had, the draft goes on
//! with less and says so (`degraded`). Filters and exclusions are given to the search, so that K items come back; the stage
//! `filters` is the last word on what may be shown, wherever the candidates come from.

pub(crate) mod answer;
pub(crate) mod candidates;
pub(crate) mod diversity;
pub(crate) mod filters;
pub(crate) mod history;
pub(crate) mod reasons;
pub(crate) mod rerank;
pub(crate) mod retriever;
pub(crate) mod user_vector;

use duet_retrieval::Scored;

use self::history::History;
use crate::{
    engine::{Engine, rankings::Allowed},
    request::{Answer, AnswerItem, ListRequest, Source},
};

/// A list in the making.
#[derive(Debug)]
pub(crate) struct Draft<'a> {
    pub(crate) request: &'a ListRequest,
    pub(crate) history: History,
    /// The listener's vector, where the list is to be personal.
    pub(crate) vector: Option<Vec<f32>>,
    pub(crate) source: Source,
    pub(crate) degraded: Vec<&'static str>,
    /// Best first; more than K where a later stage chooses.
    pub(crate) candidates: Vec<Scored>,
    /// Made by the stage `answer`.
    pub(crate) items: Vec<AnswerItem>,
}

impl<'a> Draft<'a> {
    pub(crate) fn new(request: &'a ListRequest) -> Self {
        Self {
            request,
            history: History::default(),
            vector: None,
            source: Source::Trending,
            degraded: Vec::new(),
            candidates: Vec::new(),
            items: Vec::new(),
        }
    }

    /// What may stand in the list.
    pub(crate) fn allowed(&self) -> Allowed<'_> {
        Allowed { filter: self.request.filter.as_deref(), exclude: &self.history.exclude }
    }

    /// Goes on with what is played now.
    pub(crate) fn fall_back(&mut self, engine: &Engine, why: Option<&'static str>) {
        let depth = candidates::diverse(engine, self.request.k);
        let (source, candidates) = engine.rankings.list(self.request.listener.row(), depth, self.allowed());
        (self.source, self.candidates, self.vector) = (source, candidates, None);
        self.degraded.extend(why);
    }

    pub(crate) fn finish(self) -> Answer {
        Answer { source: self.source, degraded: self.degraded, items: self.items }
    }
}

/// A list without the towers.
pub(crate) fn fallback(engine: &Engine, request: &ListRequest, why: &'static str) -> Answer {
    let mut draft = [Draft::new(request)];
    history::run(engine, &mut draft);
    draft[0].fall_back(engine, Some(why));
    diversity::run(engine, &mut draft);
    answer::run(engine, None, &mut draft);
    let [draft] = draft;
    draft.finish()
}
