//! The search that fits the size of the catalogue.

use std::sync::Arc;

use duet_core::Result;

use super::{ExactIndex, IvfIndex, IvfOptions, SearchRequest, VectorSearch};
use crate::{recommender::Scored, vectors::Vectors};

/// Catalogues below this are searched exactly: it costs under 0.3 ms a query there, and nothing can be missed.
pub const EXACT_BELOW: usize = 200_000;

/// Exact or IVF.
///
/// Only [`IvfIndex`] has a file of its own: an exact index is made from the vectors file in a pass.
#[derive(Debug, Clone)]
#[expect(clippy::large_enum_variant, reason = "one or two live in a process; a box would only be in the way")]
pub enum Index {
    /// Int8 scan of everything.
    Exact(ExactIndex),
    /// The nearest lists.
    Ivf(IvfIndex),
}

impl Index {
    /// Exact below [`EXACT_BELOW`] items, IVF (still to be tuned) from there on.
    ///
    /// # Errors
    /// As [`ExactIndex::new`] and [`IvfIndex::new`].
    pub fn auto(vectors: Arc<Vectors>, options: &IvfOptions) -> Result<Self> {
        if vectors.len() < EXACT_BELOW {
            Ok(Self::Exact(ExactIndex::new(vectors)?))
        } else {
            Ok(Self::Ivf(IvfIndex::new(vectors, options)?))
        }
    }

    fn inner(&self) -> &dyn VectorSearch {
        match self {
            Self::Exact(index) => index,
            Self::Ivf(index) => index,
        }
    }
}

impl VectorSearch for Index {
    fn name(&self) -> &str {
        self.inner().name()
    }

    fn is_exact(&self) -> bool {
        self.inner().is_exact()
    }

    fn vectors(&self) -> &Vectors {
        self.inner().vectors()
    }

    fn search(&self, queries: &[f32], requests: &[SearchRequest<'_>]) -> Result<Vec<Vec<Scored>>> {
        self.inner().search(queries, requests)
    }
}
