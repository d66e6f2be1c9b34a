//! Third stage: the best items by the listener's vector, or by a baseline, or what is played now.
//!
//! Filters and exclusions go into the search. A batch is searched at once: the scan of the codes is shared. Where a database was given
//! to search in (`retriever.rs`), it is asked first, and the index of the bundle has the lists it could not make.

use duet_core::{ItemIdx, Result};
use duet_retrieval::{
    Query, Scored,
    search::{SearchRequest, VectorSearch},
};

use super::{Draft, retriever::TableThread};
use crate::{engine::Engine, meters::StageMeter, request::Source, variants::Arm};

static METER: StageMeter = StageMeter::new("candidates");

/// With diversity, so many times K are searched for...
const DIVERSE_TIMES: usize = 4;
/// ... but no more than this: deeper searches read a growing part of the index.
const DIVERSE_MOST: usize = 100;

const SEARCH_FAILED: &str = "search_failed";
const BASELINE_FAILED: &str = "baseline_failed";

pub(crate) fn run(engine: &Engine, table: Option<&mut TableThread>, drafts: &mut [Draft<'_>]) {
    let _span = tracing::debug_span!("candidates", lists = drafts.len()).entered();
    let _timer = METER.start();
    personal(engine, table, drafts);
    for draft in drafts.iter_mut().filter(|draft| draft.source != Source::Personal) {
        let variant = &draft.request.variant;
        match &variant.recommender {
            Arm::TwoTower => draft.fall_back(engine, None),
            Arm::Baseline(name) => match baseline(engine, name, draft) {
                Ok(Some(candidates)) => (draft.source, draft.candidates) = (Source::Baseline, candidates),
                Ok(None) => draft.fall_back(engine, Some(BASELINE_FAILED)),
                Err(error) => {
                    tracing::error!(%error, baseline = %name, "a baseline failed");
                    draft.fall_back(engine, Some(BASELINE_FAILED));
                }
            },
        }
    }
}

fn personal(engine: &Engine, table: Option<&mut TableThread>, drafts: &mut [Draft<'_>]) {
    let mut personal: Vec<usize> = (0..drafts.len()).filter(|&at| drafts[at].source == Source::Personal).collect();
    if let Some(table) = table {
        personal.retain(|&at| {
            let k = wanted(engine, &drafts[at]);
            !table.fills(engine, &mut drafts[at], k)
        });
    }
    if personal.is_empty() {
        return;
    }
    let mut vectors = Vec::with_capacity(personal.len() * engine.index.vectors().dim);
    let mut requests = Vec::with_capacity(personal.len());
    for draft in personal.iter().map(|&at| &drafts[at]) {
        vectors.extend_from_slice(draft.vector.as_deref().unwrap_or_default());
        let allowed = draft.allowed();
        requests.push(SearchRequest { k: wanted(engine, draft), filter: allowed.filter, exclude: allowed.exclude });
    }
    let lists = engine.index.search(&vectors, &requests);
    match lists {
        Ok(lists) => {
            for (at, list) in personal.into_iter().zip(lists) {
                drafts[at].candidates = list;
            }
        }
        Err(error) => {
            tracing::error!(%error, "the search failed");
            for at in personal {
                drafts[at].fall_back(engine, Some(SEARCH_FAILED));
            }
        }
    }
}

/// How many candidates the later stages choose from.
fn wanted(engine: &Engine, draft: &Draft<'_>) -> usize {
    let reranked =
        if draft.request.variant.rerank && engine.reranker.is_some() { engine.options.rerank_candidates } else { 0 };
    diverse(engine, draft.request.k).max(reranked)
}

/// How many candidates K varied ones are chosen from.
pub(crate) fn diverse(engine: &Engine, k: usize) -> usize {
    if engine.groups.is_empty() { k } else { k.max((k * DIVERSE_TIMES).min(DIVERSE_MOST)) }
}

fn baseline(engine: &Engine, name: &str, draft: &Draft<'_>) -> Result<Option<Vec<Scored>>> {
    let Some(baseline) = engine.baseline(name) else { return Ok(None) };
    let allowed = draft.allowed();
    let history: &[ItemIdx] = &draft.history.items;
    let query = Query {
        user: draft.request.listener.row(),
        history,
        k: wanted(engine, draft),
        filter: allowed.filter,
        exclude: allowed.exclude,
    };
    Ok(baseline.recommend(&[query])?.pop())
}
