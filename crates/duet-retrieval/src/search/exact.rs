//! Exact search: an int8 scan of all items, re-ranked in `f32`, and the plain scan it must equal.

use std::sync::Arc;

use duet_core::{ItemIdx, Result};
use rayon::prelude::*;

use super::{
    SearchRequest, VectorSearch, check_batch,
    codes::CodeTable,
    gather::{Gatherer, is_sparse},
    kernels::Kernel,
};
use crate::{recommender::Scored, topk::TopK, vectors::Vectors};

/// Plain `f32` search: every allowed item scored by [`Kernel::dot`]. The reference for every other search.
///
/// # Errors
/// As [`VectorSearch::search`].
pub fn brute_force(vectors: &Vectors, queries: &[f32], requests: &[SearchRequest<'_>]) -> Result<Vec<Vec<Scored>>> {
    check_batch(vectors, queries, requests)?;
    let kernel = Kernel::detect();
    Ok(queries
        .par_chunks(vectors.dim)
        .zip(requests)
        .map(|(vector, request)| {
            let mut top = TopK::new(request.k.min(vectors.len()));
            for row in 0..vectors.len() {
                let score = kernel.dot(vector, vectors.row(row));
                if top.admits(score) && request.allows(ItemIdx::from(row)) {
                    top.push(score, ItemIdx::from(row));
                }
            }
            top.into_sorted()
        })
        .collect())
}

/// Queries scanned together, so that a run of codes is used by all of them while it is in the cache.
const TILE: usize = 8;

/// Slots of such a run: 32 KiB of codes at 64 dimensions.
const RUN: usize = 512;

/// Int8 scan with `f32` re-rank; the answers are those of [`brute_force`], bit for bit (see the module `codes` for
/// the bound and `gather` for why nothing is lost).
#[derive(Debug, Clone)]
pub struct ExactIndex {
    vectors: Arc<Vectors>,
    table: CodeTable,
    kernel: Kernel,
}

impl ExactIndex {
    /// Codes the vectors: a pass over them, no training.
    ///
    /// # Errors
    /// As [`Vectors::check`].
    pub fn new(vectors: Arc<Vectors>) -> Result<Self> {
        vectors.check()?;
        let table = CodeTable::in_order(&vectors);
        Ok(Self { vectors, table, kernel: Kernel::detect() })
    }

    /// Uses another kernel, one of [`Kernel::available`]; the answers stay the same.
    pub fn with_kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    fn search_tile(
        &self,
        gatherers: &mut [Gatherer],
        queries: &[f32],
        requests: &[SearchRequest<'_>],
    ) -> Vec<Vec<Scored>> {
        let dim = self.vectors.dim;
        let wanted = |request: &SearchRequest<'_>| request.k.min(self.vectors.len());
        let rows = || queries.chunks(dim).zip(requests);
        for (gatherer, (vector, request)) in gatherers.iter_mut().zip(rows()) {
            gatherer.start(vector, wanted(request));
        }
        for start in (0..self.table.slots()).step_by(RUN) {
            let end = self.table.slots().min(start + RUN);
            for (gatherer, request) in gatherers.iter_mut().zip(requests) {
                if !is_sparse(request, self.vectors.len()) {
                    gatherer.scan(&self.table, start, end, request);
                }
            }
        }
        gatherers
            .iter_mut()
            .zip(rows())
            .map(|(gatherer, (vector, request))| {
                if is_sparse(request, self.vectors.len()) {
                    gatherer.scan_allowed(&self.vectors, vector, wanted(request), request)
                } else {
                    gatherer.finish(&self.vectors, vector)
                }
            })
            .collect()
    }
}

impl VectorSearch for ExactIndex {
    fn name(&self) -> &str {
        "exact"
    }

    fn is_exact(&self) -> bool {
        true
    }

    fn vectors(&self) -> &Vectors {
        &self.vectors
    }

    fn search(&self, queries: &[f32], requests: &[SearchRequest<'_>]) -> Result<Vec<Vec<Scored>>> {
        check_batch(&self.vectors, queries, requests)?;
        // Few queries are spread over the threads before they are put in tiles.
        let tile = requests.len().div_ceil(rayon::current_num_threads()).clamp(1, TILE);
        let lists: Vec<Vec<Vec<Scored>>> = queries
            .par_chunks(tile * self.vectors.dim)
            .zip(requests.par_chunks(tile))
            .map_init(
                || (0..tile).map(|_| Gatherer::new(self.kernel)).collect::<Vec<_>>(),
                |gatherers, (queries, requests)| self.search_tile(gatherers, queries, requests),
            )
            .collect();
        Ok(lists.into_iter().flatten().collect())
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::filter::ItemFilter;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(200))]
        #[test]
        fn equals_plain_search(
            dim in 1_usize..40, n_items in 1_usize..700, k in 1_usize..60, seed: u64,
            // Coarse components make exact ties, duplicates and zero vectors.
            coarse: bool, filtered in prop::option::of(1_u32..60), excluded in 0_usize..20,
        ) {
            use rand::{RngExt, SeedableRng};
            let mut rng = rand_pcg::Pcg64Mcg::seed_from_u64(seed);
            let mut component = || {
                let value: f32 = rng.random_range(-1.0..1.0);
                if coarse { value.round() } else { value }
            };
            let vectors = Arc::new(Vectors::new(dim, (0..n_items * dim).map(|_| component()).collect()).unwrap());
            let queries: Vec<f32> = (0..3 * dim).map(|_| component()).collect();
            let filter = filtered.map(|step| ItemFilter::from_predicate(n_items, |item| item.0 % step == 0));
            let exclude: Vec<ItemIdx> = (0..n_items).step_by(n_items.div_ceil(20)).take(excluded).map(ItemIdx::from).collect();
            let request = SearchRequest { k, filter: filter.as_ref(), exclude: &exclude };
            let requests = [request, SearchRequest::top(k), request];
            let expected = brute_force(&vectors, &queries, &requests).unwrap();
            let index = ExactIndex::new(vectors).unwrap();
            for kernel in Kernel::available() {
                let found = index.clone().with_kernel(kernel).search(&queries, &requests).unwrap();
                prop_assert_eq!(&found, &expected, "{:?}", kernel);
            }
        }
    }

    #[test]
    fn impossible_batches_are_refused() {
        let index = ExactIndex::new(Arc::new(Vectors::new(2, vec![1.0; 8]).unwrap())).unwrap();
        assert!(index.search(&[1.0], &[SearchRequest::top(1)]).is_err());
        assert!(index.search(&[1.0, f32::NAN], &[SearchRequest::top(1)]).unwrap_err().to_string().contains("query 0"));
        assert!(index.search(&[1.0, 1.0], &[SearchRequest::top(0)]).is_err());
        let filter = ItemFilter::all(3);
        let request = SearchRequest { filter: Some(&filter), ..SearchRequest::top(1) };
        assert!(index.search(&[1.0, 1.0], &[request]).is_err());
        assert!(index.search(&[], &[]).unwrap().is_empty());
    }
}
