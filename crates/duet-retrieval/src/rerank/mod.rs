//! A second stage: boosted trees that order the candidates of a first recommender anew.
//!
//! * [`boosting`]: gradient boosting of regression trees on histograms, with a logistic or a LambdaMART objective.
//! * [`Forest`]: the trees, ready to score, and their file.
//! * [`Reranked`]: a recommender whose first `candidates` items are put in the order of a [`Rescorer`].
//!
//! What the features are is the business of whoever makes them: rows of `f32` come in, NaN is "not known".

pub mod boosting;
mod forest;
mod reranked;

pub use self::{
    boosting::{BoostingOptions, Examples, Fitted, Objective},
    forest::Forest,
    reranked::{Reranked, Rescorer, in_order_of},
};
