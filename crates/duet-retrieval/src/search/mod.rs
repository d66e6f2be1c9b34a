//! The top-K items by dot product with a query vector.
//!
//! * [`brute_force`]: plain `f32`, the reference.
//! * [`ExactIndex`]: an int8 scan whose error bound proves that the re-ranked result equals [`brute_force`].
//! * [`IvfIndex`]: the same scan over the lists nearest to the query.
//! * [`Index`]: whichever of the two fits the size of the catalogue.
//!
//! Filters and exclusions are applied inside the scan: K results come back whenever K allowed items exist.

mod clustering;
mod codes;
mod exact;
mod gather;
mod index;
mod ivf;
mod ivf_file;
mod kernels;
mod tuning;

use duet_core::{Error, ItemIdx, Result};

pub use self::{
    exact::{ExactIndex, brute_force},
    index::{EXACT_BELOW, Index},
    ivf::{IvfIndex, IvfOptions},
    kernels::Kernel,
    tuning::Tuning,
};
use crate::{
    filter::ItemFilter,
    recommender::{Query, Scored},
    vectors::{Vectors, first_bad},
};

/// What one query vector asks for: see [`Query`] for the meaning of the fields.
#[derive(Debug, Clone, Copy)]
pub struct SearchRequest<'a> {
    /// How many items are wanted; at least 1.
    pub k: usize,
    /// Which items may be returned; `None` allows all.
    pub filter: Option<&'a ItemFilter>,
    /// Items that must not be returned, sorted ascending without repeats.
    pub exclude: &'a [ItemIdx],
}

impl<'a> SearchRequest<'a> {
    /// The best `k` of all items.
    pub fn top(k: usize) -> Self {
        Self { k, filter: None, exclude: &[] }
    }

    /// Whether `item` may stand in the answer.
    #[inline]
    pub(crate) fn allows(&self, item: ItemIdx) -> bool {
        self.filter.is_none_or(|filter| filter.contains(item))
            && (self.exclude.is_empty() || self.exclude.binary_search(&item).is_err())
    }

    fn as_query(&self) -> Query<'a> {
        Query { user: None, history: &[], k: self.k, filter: self.filter, exclude: self.exclude }
    }
}

/// Top-K search over a fixed set of item vectors.
pub trait VectorSearch: Send + Sync {
    /// A short name for reports, e.g. `ivf`.
    fn name(&self) -> &str;

    /// Whether the answers equal those of [`brute_force`].
    fn is_exact(&self) -> bool;

    /// The item vectors, by [`ItemIdx`].
    fn vectors(&self) -> &Vectors;

    /// One list for each request; `queries` `[requests, dim]`. Lists follow the contract of
    /// [`crate::recommender`].
    ///
    /// # Errors
    /// [`Error::Input`] for an impossible request (see [`Query::check`]) or a query vector that is not finite.
    fn search(&self, queries: &[f32], requests: &[SearchRequest<'_>]) -> Result<Vec<Vec<Scored>>>;
}

/// Checks a batch against the vectors searched.
fn check_batch(vectors: &Vectors, queries: &[f32], requests: &[SearchRequest<'_>]) -> Result<()> {
    if queries.len() != requests.len() * vectors.dim {
        return Err(Error::input(format!(
            "{} query components for {} requests of dimension {}",
            queries.len(),
            requests.len(),
            vectors.dim
        )));
    }
    if let Some(at) = first_bad(queries) {
        return Err(Error::input(format!(
            "query {}: component {} is {}",
            at / vectors.dim,
            at % vectors.dim,
            queries[at]
        )));
    }
    requests.iter().try_for_each(|request| request.as_query().check(vectors.len()))
}

impl<S: VectorSearch + ?Sized> VectorSearch for Box<S> {
    fn name(&self) -> &str {
        (**self).name()
    }

    fn is_exact(&self) -> bool {
        (**self).is_exact()
    }

    fn vectors(&self) -> &Vectors {
        (**self).vectors()
    }

    fn search(&self, queries: &[f32], requests: &[SearchRequest<'_>]) -> Result<Vec<Vec<Scored>>> {
        (**self).search(queries, requests)
    }
}
