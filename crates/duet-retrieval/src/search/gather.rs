//! From scanned estimates to the exact best K of what was scanned.
//!
//! While scanning, the K best *lower* bounds set the bar: an item whose upper bound is below the K-th best lower
//! bound is beaten by K items and can't be among the best K. What stays is re-ranked in `f32`: first the K items of
//! the best lower bounds, whose K-th exact score is a tighter bar, then whatever still reaches that. An item of the
//! true best K has an exact score, hence an upper bound, at or above both bars, so none is lost; and the scores are
//! those of the plain dot product, so ties break alike.

use std::cmp::Reverse;

use super::{
    SearchRequest,
    codes::CodeTable,
    kernels::{BLOCK, Estimates, Kernel, MAX_BLOCKS, ScanQuery},
};
use crate::{
    recommender::Scored,
    topk::{TopK, pack, unpack},
    vectors::Vectors,
};

/// Candidates are weeded out when there are more than this and twice as many as survived the last time.
const WEED_AT: usize = 1 << 14;

#[derive(Debug, Clone, Copy)]
struct Candidate {
    upper: f32,
    /// Lower bound and item, packed.
    lower: u64,
}

/// The state of one query under way; made once a thread and used again.
#[derive(Debug)]
pub(crate) struct Gatherer {
    kernel: Kernel,
    query: ScanQuery,
    lowers: TopK,
    exact: TopK,
    candidates: Vec<Candidate>,
    weed_at: usize,
    accepted: usize,
}

impl Gatherer {
    pub(crate) fn new(kernel: Kernel) -> Self {
        Self {
            kernel,
            query: ScanQuery::default(),
            lowers: TopK::new(0),
            exact: TopK::new(0),
            candidates: Vec::new(),
            weed_at: WEED_AT,
            accepted: 0,
        }
    }

    /// Starts on a query that wants `k` (already cut to the catalogue).
    pub(crate) fn start(&mut self, vector: &[f32], k: usize) {
        self.query.set(vector);
        self.lowers.reset(k);
        self.exact.reset(k);
        self.candidates.clear();
        self.weed_at = WEED_AT;
        self.accepted = 0;
    }

    /// A number that reaches k as soon as k allowed items were scanned.
    pub(crate) fn accepted(&self) -> usize {
        self.accepted
    }

    /// Scans the slots from `start` (a multiple of the block) to `end`.
    pub(crate) fn scan(&mut self, table: &CodeTable, start: usize, end: usize, request: &SearchRequest<'_>) {
        let mut estimates: Estimates = [0.0; MAX_BLOCKS * BLOCK];
        for first in (start..end).step_by(estimates.len()) {
            let last = end.min(first + estimates.len());
            let bar = self.lowers.bar_score();
            let mut mask = table.scan(self.kernel, first, last, &self.query, bar, &mut estimates);
            while mask != 0 {
                let lane = mask.trailing_zeros() as usize;
                mask &= mask - 1;
                let item = table.item(first + lane);
                let error = table.error(first + lane, &self.query);
                let upper = estimates[lane] + error;
                // The bar may have risen within these 64 slots.
                if upper >= self.lowers.bar_score() && request.allows(item) {
                    let lower = estimates[lane] - error;
                    self.candidates.push(Candidate { upper, lower: pack(lower, item) });
                    self.lowers.push(lower, item);
                    self.accepted += 1;
                }
            }
            if self.candidates.len() >= self.weed_at {
                self.lowers.cut();
                let bar = self.lowers.bar_score();
                self.candidates.retain(|candidate| candidate.upper >= bar);
                self.weed_at = WEED_AT.max(2 * self.candidates.len());
            }
        }
    }

    /// The exact best of everything scanned.
    pub(crate) fn finish(&mut self, vectors: &Vectors, vector: &[f32]) -> Vec<Scored> {
        let least = self.lowers.cut();
        let bar = self.lowers.bar_score();
        self.candidates.retain(|candidate| candidate.upper >= bar);
        let score = |exact: &mut TopK, candidate: &Candidate| {
            let item = unpack(candidate.lower).item;
            exact.push(self.kernel.dot(vector, vectors.row(item.index())), item);
        };
        for candidate in self.candidates.iter().filter(|candidate| candidate.lower >= least) {
            score(&mut self.exact, candidate);
        }
        self.exact.cut();
        for candidate in self.candidates.iter().filter(|candidate| candidate.lower < least) {
            if self.exact.admits(candidate.upper) {
                score(&mut self.exact, candidate);
            }
        }
        self.exact.take_sorted()
    }

    /// Scores the allowed items one by one in `f32`: what a filter that leaves few items asks for.
    pub(crate) fn scan_allowed(
        &mut self,
        vectors: &Vectors,
        vector: &[f32],
        k: usize,
        request: &SearchRequest<'_>,
    ) -> Vec<Scored> {
        self.exact.reset(k);
        for item in request.filter.iter().flat_map(|filter| filter.items()) {
            let score = self.kernel.dot(vector, vectors.row(item.index()));
            if self.exact.admits(score) && request.exclude.binary_search(&item).is_err() {
                self.exact.push(score, item);
            }
        }
        self.exact.take_sorted()
    }

    /// The lists with the best estimated centroids, best first.
    pub(crate) fn nearest_lists(&self, centroids: &CodeTable, count: usize, out: &mut Vec<u64>) {
        let mut estimates: Estimates = [0.0; MAX_BLOCKS * BLOCK];
        out.clear();
        for first in (0..centroids.slots()).step_by(estimates.len()) {
            let last = centroids.slots().min(first + estimates.len());
            let mut mask = centroids.scan(self.kernel, first, last, &self.query, f32::MIN, &mut estimates);
            while mask != 0 {
                let lane = mask.trailing_zeros() as usize;
                mask &= mask - 1;
                out.push(pack(estimates[lane], centroids.item(first + lane)));
            }
        }
        if count < out.len() {
            out.select_nth_unstable_by_key(count, |&key| Reverse(key));
            out[..count].sort_unstable_by_key(|&key| Reverse(key));
        } else {
            out.sort_unstable_by_key(|&key| Reverse(key));
        }
    }
}

/// Whether a filter leaves so few items that scoring each in `f32` beats the int8 scan of everything.
///
/// The scan costs 1 to 2 ns an item, a dot product on a row from memory 20 to 40.
pub(crate) fn is_sparse(request: &SearchRequest<'_>, n_items: usize) -> bool {
    request.filter.is_some_and(|filter| filter.count() * 50 <= n_items)
}
