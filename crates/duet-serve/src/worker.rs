//! A worker's state over one engine: the towers made ready, working memory, the re-ranker's thread. Answers batches.

use std::sync::Arc;

use duet_train::embedding_pass::UserEmbedder;

use crate::{
    engine::Engine,
    request::{Answer, ListRequest},
    stages::{self, Draft, rerank::RerankThread, user_vector::Towers},
};

/// Answers requests on one engine; made once a thread, for it holds working memory as large as the item table has rows.
#[derive(Debug)]
pub struct Worker {
    engine: Arc<Engine>,
    towers: Towers,
    reranking: Option<RerankThread>,
}

impl Worker {
    /// Makes an engine's towers ready.
    pub fn new(engine: Arc<Engine>) -> Self {
        let towers = UserEmbedder::new(Arc::clone(&engine.model));
        let reranking = engine.reranker.as_ref().and_then(|reranker| {
            let thread = RerankThread::start(Arc::clone(reranker));
            thread.inspect_err(|error| tracing::error!(%error, "lists go on without the re-ranker")).ok()
        });
        Self { engine, towers, reranking }
    }

    /// The engine that answers.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// One answer a request, in their order. The requests' rows must be those of this worker's engine.
    pub fn answer(&mut self, batch: &[ListRequest]) -> Vec<Answer> {
        let engine = &self.engine;
        let mut drafts: Vec<Draft<'_>> = batch.iter().map(Draft::new).collect();
        stages::history::run(engine, &mut drafts);
        stages::user_vector::run(engine, &mut self.towers, &mut drafts);
        stages::candidates::run(engine, &mut drafts);
        stages::filters::run(engine, &mut drafts);
        stages::rerank::run(engine, self.reranking.as_mut(), &mut drafts);
        stages::diversity::run(engine, &mut drafts);
        stages::answer::run(engine, Some(&mut self.towers), &mut drafts);
        drafts.into_iter().map(Draft::finish).collect()
    }
}
