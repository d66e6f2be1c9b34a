//! IVF: an inverted file over spherical k-means cells (Jégou, Douze & Schmid 2011), scanned in int8.
//!
//! Items stand list by list as int8 codes; a query scans the lists of the nearest centroids and re-ranks what the
//! error bound leaves in `f32`. So the only loss is the lists that were not scanned: with all of them the answer
//! equals exact search. [`IvfIndex::tune`] finds how many lists a recall floor takes on held-out queries.
//!
//! Where the scanned lists hold fewer than K allowed items, further lists are scanned until K are found or none is
//! left. More is done for the recall of filtered queries. The allowed best K of a filter with share f reach about as
//! far as the best K / f of all. Up to 50 tuning covers that (it looks at 100). Beyond, the lists grow with the
//! square of that depth, and from a quarter of the lists on all are scanned, which is exact; with growth in
//! proportion, a third of the items allowed at K = 100 gave a recall of .914. Where the nearest lists hold less than
//! half of the filter's share, the filter forbids just what lies near the query, and all lists are scanned too. A
//! filter that leaves under 2 % is scored item by item, exactly.
//!
//! Made for vectors of about one length (towers that end in L2 normalisation). It works on others, but centroids
//! only know directions: tuning then asks for more lists.

use std::sync::Arc;

use duet_core::{Error, ItemIdx, Result};
use rayon::prelude::*;

use super::{
    SearchRequest, VectorSearch, check_batch,
    clustering::{Clustering, group},
    codes::{CodeTable, PADDING},
    gather::{Gatherer, is_sparse},
    kernels::{BLOCK, Kernel},
    tuning::Tuning,
};
use crate::{recommender::Scored, topk::unpack, vectors::Vectors};

/// The deepest rank that tuning looks at.
const TUNED_DEPTH: f64 = 100.0;

/// How to build an [`IvfIndex`].
#[derive(Debug, Clone, Copy)]
pub struct IvfOptions {
    /// Lists; `None` takes 2 sqrt(items).
    pub lists: Option<usize>,
    /// K-means iterations at most.
    pub iterations: usize,
    /// Items sampled for training, per list.
    pub sample_per_list: usize,
    /// Seed of sampling and initialisation.
    pub seed: u64,
}

impl Default for IvfOptions {
    fn default() -> Self {
        Self { lists: None, iterations: 10, sample_per_list: 64, seed: 1 }
    }
}

/// The index. See the module docs.
#[derive(Debug, Clone)]
pub struct IvfIndex {
    pub(super) vectors: Arc<Vectors>,
    pub(super) centroids: Vectors,
    /// The items of each list, ascending.
    pub(super) lists: Vec<Vec<u32>>,
    pub(super) nprobe: usize,
    pub(super) tuning: Option<Tuning>,
    centroid_table: CodeTable,
    table: CodeTable,
    /// First slot of each list and, at the end, the number of slots.
    starts: Vec<usize>,
    kernel: Kernel,
}

impl IvfIndex {
    /// Clusters and codes the vectors. The index scans an eighth of its lists until it is tuned.
    ///
    /// # Errors
    /// As [`Vectors::check`]; [`Error::Input`] if there are no vectors or `options.lists` is not from 1 to their
    /// number.
    pub fn new(vectors: Arc<Vectors>, options: &IvfOptions) -> Result<Self> {
        vectors.check()?;
        let n_items = vectors.len();
        if n_items == 0 {
            return Err(Error::input("an IVF index needs at least one vector"));
        }
        let lists = options.lists.unwrap_or((2.0 * (n_items as f64).sqrt()).round() as usize);
        if options.lists.is_some() && !(1..=n_items).contains(&lists) {
            return Err(Error::input(format!("{lists} lists for {n_items} items; it must be from 1 to {n_items}")));
        }
        let clustering = Clustering {
            lists: lists.clamp(1, n_items),
            iterations: options.iterations,
            sample_per_list: options.sample_per_list,
            seed: options.seed,
            kernel: Kernel::detect(),
        };
        let centroids = clustering.train(&vectors);
        let lists = group(&clustering.assign(&vectors, &centroids), clustering.lists);
        let nprobe = lists.len().div_ceil(8);
        Ok(Self::from_parts(vectors, centroids, lists, nprobe, None))
    }

    /// Codes the parts; `lists` must hold every item once.
    pub(super) fn from_parts(
        vectors: Arc<Vectors>,
        centroids: Vectors,
        lists: Vec<Vec<u32>>,
        nprobe: usize,
        tuning: Option<Tuning>,
    ) -> Self {
        let mut slots = Vec::with_capacity(vectors.len() + lists.len() * BLOCK);
        let mut starts = Vec::with_capacity(lists.len() + 1);
        for list in &lists {
            starts.push(slots.len());
            slots.extend_from_slice(list);
            slots.resize(slots.len().next_multiple_of(BLOCK), PADDING);
        }
        starts.push(slots.len());
        let table = CodeTable::new(&vectors, slots);
        let centroid_table = CodeTable::estimates_only(&centroids);
        Self { vectors, centroids, lists, nprobe, tuning, centroid_table, table, starts, kernel: Kernel::detect() }
    }

    /// Uses another kernel, one of [`Kernel::available`]; the answers stay the same.
    pub fn with_kernel(mut self, kernel: Kernel) -> Self {
        self.kernel = kernel;
        self
    }

    /// Number of lists.
    pub fn n_lists(&self) -> usize {
        self.lists.len()
    }

    /// Lists scanned for a query of up to 100 items without a filter.
    pub fn nprobe(&self) -> usize {
        self.nprobe
    }

    /// Scans `nprobe` lists from now on, cut to 1 and the number of lists; forgets the tuning.
    pub fn set_nprobe(&mut self, nprobe: usize) {
        self.nprobe = nprobe.clamp(1, self.lists.len());
        self.tuning = None;
    }

    /// What [`IvfIndex::tune`] measured, if it was called.
    pub fn tuning(&self) -> Option<&Tuning> {
        self.tuning.as_ref()
    }

    /// Lists to scan for a request at least, at `nprobe` for the plain case.
    fn probes(&self, nprobe: usize, request: &SearchRequest<'_>) -> usize {
        let allowed = request.filter.map_or(self.vectors.len(), |filter| filter.count().max(1));
        let depth = request.k as f64 * self.vectors.len() as f64 / allowed as f64;
        let shallow = if request.filter.is_some() { TUNED_DEPTH / 2.0 } else { TUNED_DEPTH };
        let growth = (depth / shallow).max(1.0).powi(2);
        let probes = (nprobe as f64 * growth).ceil() as usize;
        let all = growth > 1.0 && probes.saturating_mul(4) >= self.lists.len();
        if all { self.lists.len() } else { probes.min(self.lists.len()) }
    }

    fn search_one(
        &self,
        gatherer: &mut Gatherer,
        order: &mut Vec<u64>,
        vector: &[f32],
        request: &SearchRequest<'_>,
        nprobe: usize,
    ) -> Vec<Scored> {
        let k = request.k.min(self.vectors.len());
        if is_sparse(request, self.vectors.len()) {
            return gatherer.scan_allowed(&self.vectors, vector, k, request);
        }
        gatherer.start(vector, k);
        let probes = self.probes(nprobe, request);
        gatherer.nearest_lists(&self.centroid_table, probes, order);
        let (mut scanned, mut allowed) = (0, 0);
        let mut against = false;
        for at in 0..order.len() {
            if at == probes {
                against =
                    request.filter.is_some_and(|filter| 2 * allowed * self.vectors.len() < filter.count() * scanned);
            }
            if at >= probes && gatherer.accepted() >= k && !against {
                break;
            }
            if at == probes {
                // Only the first lists were put in order.
                order[probes..].sort_unstable_by(|left, right| right.cmp(left));
            }
            let list = unpack(order[at]).item.index();
            gatherer.scan(&self.table, self.starts[list], self.starts[list + 1], request);
            if let Some(filter) = request.filter.filter(|_| at < probes) {
                scanned += self.lists[list].len();
                allowed += self.lists[list].iter().filter(|&&item| filter.contains(ItemIdx(item))).count();
            }
        }
        gatherer.finish(&self.vectors, vector)
    }

    /// Searches with another number of lists than the index's own.
    pub(super) fn search_with(
        &self,
        queries: &[f32],
        requests: &[SearchRequest<'_>],
        nprobe: usize,
    ) -> Result<Vec<Vec<Scored>>> {
        check_batch(&self.vectors, queries, requests)?;
        Ok(queries
            .par_chunks(self.vectors.dim)
            .zip(requests)
            .map_init(
                || (Gatherer::new(self.kernel), Vec::new()),
                |(gatherer, order), (vector, request)| self.search_one(gatherer, order, vector, request, nprobe),
            )
            .collect())
    }
}

impl VectorSearch for IvfIndex {
    fn name(&self) -> &str {
        "ivf"
    }

    fn is_exact(&self) -> bool {
        self.nprobe == self.lists.len()
    }

    fn vectors(&self) -> &Vectors {
        &self.vectors
    }

    fn search(&self, queries: &[f32], requests: &[SearchRequest<'_>]) -> Result<Vec<Vec<Scored>>> {
        self.search_with(queries, requests, self.nprobe)
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;
    use rand::{RngExt, SeedableRng};
    use rand_pcg::Pcg64Mcg;

    use super::*;
    use crate::{filter::ItemFilter, search::brute_force};

    fn random(dim: usize, rows: usize, seed: u64) -> Vectors {
        let mut rng = Pcg64Mcg::seed_from_u64(seed);
        Vectors::new(dim, (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect()).unwrap()
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(60))]
        #[test]
        fn all_lists_equal_plain_search_and_few_still_give_k(
            dim in 1_usize..20, n_items in 1_usize..500, k in 1_usize..200, seed: u64,
            filtered in prop::option::of(1_u32..60), excluded in 0_usize..50,
        ) {
            let vectors = Arc::new(random(dim, n_items, seed));
            let queries = random(dim, 2, seed ^ 1).data;
            let filter = filtered.map(|step| ItemFilter::from_predicate(n_items, |item| item.0 % step == 0));
            let exclude: Vec<ItemIdx> = (0..n_items.min(excluded)).map(ItemIdx::from).collect();
            let request = SearchRequest { k, filter: filter.as_ref(), exclude: &exclude };
            let requests = [request, SearchRequest::top(k)];
            let expected = brute_force(&vectors, &queries, &requests).unwrap();
            let mut index = IvfIndex::new(vectors, &IvfOptions::default()).unwrap();
            index.set_nprobe(usize::MAX);
            prop_assert!(index.is_exact());
            prop_assert_eq!(&index.search(&queries, &requests).unwrap(), &expected);
            index.set_nprobe(1);
            for kernel in Kernel::available() {
                let found = index.clone().with_kernel(kernel).search(&queries, &requests).unwrap();
                for (found, (expected, request)) in found.iter().zip(expected.iter().zip(&requests)) {
                    prop_assert_eq!(found.len(), expected.len());
                    prop_assert!(found.iter().all(|entry| request.allows(entry.item)));
                }
                prop_assert_eq!(found, index.search(&queries, &requests).unwrap());
            }
        }
    }

    #[test]
    fn a_filter_that_forbids_the_nearest_cells_keeps_its_recall() {
        let vectors = Arc::new(random(8, 20_000, 3));
        let queries = random(8, 60, 4);
        let mut index = IvfIndex::new(vectors.clone(), &IvfOptions::default()).unwrap();
        index.tune(&random(8, 100, 5).data, 0.98).unwrap();
        for row in 0..queries.len() {
            let query = queries.row(row);
            // The nearest quarter of the lists is another genre.
            let mut gatherer = Gatherer::new(Kernel::detect());
            let mut order = Vec::new();
            gatherer.start(query, 10);
            gatherer.nearest_lists(&index.centroid_table, index.n_lists(), &mut order);
            let far = order[index.n_lists() / 4..].iter().flat_map(|&key| &index.lists[unpack(key).item.index()]);
            let filter = ItemFilter::from_items(vectors.len(), far.copied().map(ItemIdx)).unwrap();
            let requests = [SearchRequest { filter: Some(&filter), ..SearchRequest::top(10) }];
            let expected = brute_force(&vectors, query, &requests).unwrap().remove(0);
            let found = index.search(query, &requests).unwrap().remove(0);
            assert_eq!(found, expected);
        }
    }

    #[test]
    fn building_does_not_depend_on_threads() {
        let vectors = Arc::new(random(8, 3000, 5));
        let build = |threads| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| IvfIndex::new(vectors.clone(), &IvfOptions::default()).unwrap())
        };
        let (one, three) = (build(1), build(3));
        assert_eq!(one.centroids, three.centroids);
        assert_eq!(one.lists, three.lists);
        assert_eq!(one.n_lists(), 110);
    }

    #[test]
    fn equal_vectors_and_impossible_options() {
        // One point repeated: every centroid but one is empty, and repair finds no better place.
        let vectors = Arc::new(Vectors::new(2, [1.0, 2.0].repeat(100)).unwrap());
        let index = IvfIndex::new(vectors.clone(), &IvfOptions::default()).unwrap();
        let found = index.search(&[1.0, 0.0], &[SearchRequest::top(100)]).unwrap();
        assert!(found[0].iter().enumerate().all(|(at, entry)| entry.item.index() == at), "ties by the lower item");
        assert_eq!(found[0].len(), 100);
        let options = |lists| IvfOptions { lists: Some(lists), ..IvfOptions::default() };
        assert!(IvfIndex::new(vectors.clone(), &options(0)).is_err());
        assert!(IvfIndex::new(vectors, &options(101)).is_err());
        assert!(IvfIndex::new(Arc::new(Vectors::new(2, Vec::new()).unwrap()), &IvfOptions::default()).is_err());
    }
}
