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
    nn::{Dropout, DropoutConfig, Linear, LinearConfig},
    optim::GradientsParams,
    tensor::{Device, Tensor, TensorData, activation},
};
use duet_core::Result;

use crate::{
    embedding::{indices, to_host},
    encoder::hand,
    feature_bags::FeatureRows,
    host::head::{HeadGradients, Network},
};

/// A two-layer network whose output is added to its input's first part.
#[derive(Module, Debug)]
pub struct Residual {
    inner: Linear,
    outer: Linear,
    dropout: Dropout,
}

impl Residual {
    /// `hidden` units between `input` and `output` values.
    pub fn new(input: usize, hidden: usize, output: usize, dropout: f64, device: &Device) -> Self {
        Self {
            inner: LinearConfig::new(input, hidden).init(device),
            outer: LinearConfig::new(hidden, output).init(device),
            dropout: DropoutConfig::new(dropout).init(),
        }
    }

    /// # Shapes
    /// `[n, input]` to `[n, output]`.
    pub fn forward(&self, input: Tensor<2>) -> Tensor<2> {
        self.outer.forward(self.dropout.forward(activation::silu(self.inner.forward(input))))
    }

    /// The weights as arrays. Reads from the device.
    pub(crate) fn network(&self) -> Result<Network> {
        let bias = |linear: &Linear| match &linear.bias {
            Some(bias) => to_host(bias.val().inner()),
            None => Ok(vec![0.0; linear.weight.val().dims()[1]]),
        };
        Ok(Network::new(
            to_host(self.inner.weight.val().inner())?,
            bias(&self.inner)?,
            to_host(self.outer.weight.val().inner())?,
            bias(&self.outer)?,
        ))
    }

    /// Hands gradients computed in host memory to the optimiser.
    pub(crate) fn register(&self, head: &mut HeadGradients, gradients: &mut GradientsParams) {
        let mut linear = |linear: &Linear, weight: &mut Vec<f32>, bias: &mut Vec<f32>| {
            hand(&linear.weight, std::mem::take(weight), gradients);
            if let Some(parameter) = &linear.bias {
                hand(parameter, std::mem::take(bias), gradients);
            }
        };
        linear(&self.inner, &mut head.inner, &mut head.inner_bias);
        linear(&self.outer, &mut head.outer, &mut head.outer_bias);
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
