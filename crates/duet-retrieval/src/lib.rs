//! From vectors and histories to evaluated top-K lists: exact and approximate search, filters, baselines, metrics.
//!
//! * [`recommender`]: the contract ([`Recommender`], [`Query`], [`Scored`]) that models, indexes and baselines share.
//! * [`search`]: top-K by dot product: exact int8 scan with a proven bound, and an IVF index above some 200,000 items.
//! * [`vectors`]: the vectors file (Parquet). [`filter`]: which items are allowed. [`topk`]: the selector.
//! * [`baselines`]: random, popularity, trending, ItemKNN, content, EASE, ALS, BPR, oracle.
//! * [`rerank`]: boosted trees that put the candidates of another recommender in order.
//! * [`evaluation`], [`metrics`], [`bootstrap`]: full-catalogue ranking quality with user-level intervals.
//! * [`verdict`], [`segments`]: who is better, and for whom. [`calibration`]: scores against clicks. [`unit_vectors`]: likeness.
//!
//! No model and no training lives here: vectors come in, lists go out.
//!
//! ```
//! use std::sync::Arc;
//! use duet_core::{ItemIdx, UserIdx};
//! use duet_retrieval::{Query, Recommender, VectorRecommender, Vectors, search::{Index, IvfOptions}};
//!
//! let items = Arc::new(Vectors::new(2, vec![1.0, 0.0, 0.6, 0.8, 0.0, 1.0])?);
//! let users = Vectors::new(2, vec![0.0, 1.0])?;
//! let towers = VectorRecommender::new("two_tower", users, Index::auto(items, &IvfOptions::default())?)?;
//! let heard = [ItemIdx(2)];
//! let query = Query { user: Some(UserIdx(0)), history: &heard, k: 1, filter: None, exclude: &heard };
//! assert_eq!(towers.recommend(&[query])?[0][0].item, ItemIdx(1));
//! # Ok::<(), duet_core::Error>(())
//! ```

pub mod baselines;
pub mod bootstrap;
pub mod calibration;
pub mod diversity;
pub mod evaluation;
pub mod filter;
pub mod metrics;
pub mod recommender;
pub mod rerank;
pub mod search;
pub mod segments;
pub mod topk;
pub mod two_tower;
pub mod unit_vectors;
pub mod vectors;
pub mod verdict;

pub use evaluation::{Evaluation, EvaluationCase, EvaluationOptions, Panel, evaluate};
pub use filter::ItemFilter;
pub use recommender::{Query, Recommender, Scored};
pub use two_tower::VectorRecommender;
pub use vectors::{Vectors, read_vectors, write_vectors};
