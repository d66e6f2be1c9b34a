//! The two towers: what is added up, and the residual network on top.
//!
//! ```text
//! item = id embedding + features + residual(...)
//! user = history + start + log-length + features (+ user embedding) + residual(...)
//! ```
//!
//! The residual network starts at zero, so that an untrained tower is the sum of its parts.

use burn::{
    module::{Module, Param},
    nn::{Linear, LinearConfig},
    tensor::{Device, Tensor, TensorData, activation},
};

use crate::{dropout::Dropout, embedding::indices, feature_bags::FeatureRows};

/// A two-layer network whose output is added to its input's first part.
#[derive(Module, Debug)]
pub struct Residual {
    inner: Linear,
    outer: Linear,
    dropout: Dropout,
}

impl Residual {
    /// `hidden` units between `input` and `output` values; `host`: whether tensors live in host memory.
    pub fn new(input: usize, hidden: usize, output: usize, dropout: f64, device: &Device, host: bool) -> Self {
        Self {
            inner: LinearConfig::new(input, hidden).init(device),
            outer: LinearConfig::new(hidden, output).init(device),
            dropout: Dropout::new(dropout, host),
        }
    }

    /// # Shapes
    /// `[n, input]` to `[n, output]`.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.outer.forward(self.dropout.forward(activation::silu(self.inner.forward(input))))
    }
}

/// Encoded features to one vector of the model's width: the sum of the slots' pooled embeddings and of a linear map of the
/// dense values.
#[derive(Module, Debug)]
pub struct FeatureSum {
    /// `[dense_width, dim]`; absent without dense values.
    dense: Option<Param<Tensor<2>>>,
}

impl FeatureSum {
    /// For `dense_width` dense values.
    pub fn new(dense_width: usize, dim: usize, device: &Device) -> Self {
        Self { dense: (dense_width > 0).then(|| Param::from_tensor(Tensor::zeros([dense_width, dim], device))) }
    }

    /// # Shapes
    /// `embeddings`: `[unique, dim]`, the rows of the feature table that `features.unique` names; returns `[rows, dim]`, or
    /// nothing if there are no features at all.
    pub fn forward(&self, embeddings: Option<Tensor<2>>, features: &FeatureRows, device: &Device) -> Option<Tensor<2>> {
        let slots = embeddings.map(|embeddings| {
            let [_, dim] = embeddings.dims();
            let entries = embeddings.select(0, indices(&features.entries, device)); // [entries, dim]
            if features.is_single_valued() {
                return entries.reshape([features.rows, features.slots, dim]).sum_dim(1).reshape([features.rows, dim]);
            }
            let count = features.entries.len();
            let shares = Tensor::<2>::from_data(TensorData::new(features.shares.clone(), [count, 1]), device);
            let rows: Vec<u32> = features.bags.iter().map(|bag| bag / features.slots as u32).collect();
            Tensor::zeros([features.rows, dim], device).select_assign(
                0,
                indices(&rows, device),
                entries * shares,
                burn::tensor::IndexingUpdateOp::Add,
            )
        });
        let dense = self.dense.as_ref().map(|weight| {
            let shape = [features.rows, features.dense_width];
            Tensor::<2>::from_data(TensorData::new(features.dense.clone(), shape), device).matmul(weight.val())
        });
        match (slots, dense) {
            (Some(slots), Some(dense)) => Some(slots + dense),
            (slots, dense) => slots.or(dense),
        }
    }
}

/// Rows scaled to length 1; a zero row stays zero.
pub fn l2_normalise(rows: Tensor<2>) -> Tensor<2> {
    let norms = rows.clone().square().sum_dim(1).add_scalar(1e-12).sqrt();
    rows / norms
}
