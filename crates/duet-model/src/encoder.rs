//! History encoders: from the items of a window to one vector for every query.
//!
//! * `mean`: a weighted sum; the weights (decay, order, leave-one-out, normalisation) come with the batch, so one matrix
//!   product serves sequences and sets.
//! * `attention`: the same weights, multiplied by a learned score of each item and normalised again.
//! * `transformer`: causal self-attention over the window, the state at each prefix taken out. Pre-norm, SwiGLU, learned
//!   bias by relative position (Klenitskiy et al., "eSASRec", 2025; Zhai et al., "Actions Speak Louder than Words", 2024).

use burn::{
    module::{Module, Param},
    nn::{Dropout, DropoutConfig, Linear, LinearConfig, RmsNorm, RmsNormConfig},
    optim::GradientsParams,
    tensor::{Device, Tensor, TensorData, activation},
};
use duet_core::Result;

use crate::{
    batch::Windows,
    embedding::{indices, to_host},
    host::{
        attention::{self, AttentionGradients, SCORE_BOUND, SUM_EPSILON},
        head::Mask,
        transformer::{self, TransformerGradients},
    },
};

/// Buckets of relative positions: exact below 8, then logarithmic.
const POSITION_BUCKETS: usize = 24;

/// Shape of a transformer.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct TransformerConfig {
    /// Length of a vector.
    pub dim: usize,
    /// Blocks.
    pub layers: usize,
    /// Heads; divide `dim`.
    pub heads: usize,
    /// Hidden units of the feed-forward part.
    pub hidden: usize,
    /// Dropout on both residual branches.
    pub dropout: f64,
}

impl TransformerConfig {
    /// Builds it on `device`.
    pub fn init(&self, device: &Device) -> Transformer {
        Transformer {
            blocks: (0..self.layers).map(|_| Block::new(self, device)).collect(),
            norm: RmsNormConfig::new(self.dim).init(device),
        }
    }
}

/// A causal transformer over windows.
#[derive(Module, Debug)]
pub struct Transformer {
    blocks: Vec<Block>,
    norm: RmsNorm,
}

#[derive(Module, Debug)]
struct Block {
    attention_norm: RmsNorm,
    query_key_value: Linear,
    attention_out: Linear,
    /// `[buckets, heads]`
    position_bias: Param<Tensor<2>>,
    feed_norm: RmsNorm,
    feed_gate_value: Linear,
    feed_out: Linear,
    dropout: Dropout,
    #[module(skip)]
    heads: usize,
}

impl Block {
    fn new(config: &TransformerConfig, device: &Device) -> Self {
        let linear = |from, to| LinearConfig::new(from, to).with_bias(false).init(device);
        Self {
            attention_norm: RmsNormConfig::new(config.dim).init(device),
            query_key_value: linear(config.dim, 3 * config.dim),
            attention_out: linear(config.dim, config.dim),
            position_bias: Param::from_tensor(Tensor::zeros([POSITION_BUCKETS, config.heads], device)),
            feed_norm: RmsNormConfig::new(config.dim).init(device),
            feed_gate_value: linear(config.dim, 2 * config.hidden),
            feed_out: linear(config.hidden, config.dim),
            dropout: DropoutConfig::new(config.dropout).init(),
            heads: config.heads,
        }
    }

    /// `states`: `[windows, length, dim]`, `mask`: `[1, 1, length, length]` (0 or -inf), `buckets`: length * length numbers.
    fn forward(&self, states: Tensor<3>, mask: Tensor<4>, buckets: &[u32]) -> Tensor<3> {
        let [windows, length, dim] = states.dims();
        let width = dim / self.heads;
        let device = states.device();
        let projected = self
            .query_key_value
            .forward(self.attention_norm.forward(states.clone()))
            .reshape([windows, length, 3, self.heads, width])
            .permute([2, 0, 3, 1, 4]); // [3, windows, heads, length, width]
        let part = |index: usize| projected.clone().narrow(0, index, 1).reshape([windows, self.heads, length, width]);
        let bias = self
            .position_bias
            .val()
            .select(0, indices(buckets, &device)) // [length * length, heads]
            .transpose()
            .reshape([1, self.heads, length, length]);
        let scores = part(0).matmul(part(1).transpose()) * (width as f32).sqrt().recip(); // [windows, heads, length, length]
        let weights = activation::softmax(scores + bias + mask, 3);
        let mixed = weights.matmul(part(2)).swap_dims(1, 2).reshape([windows, length, dim]);
        let states = states + self.dropout.forward(self.attention_out.forward(mixed));
        let hidden = self.feed_gate_value.forward(self.feed_norm.forward(states.clone())); // [windows, length, 2 * hidden]
        let half = hidden.dims()[2] / 2;
        let gate = hidden.clone().slice([0..windows, 0..length, 0..half]);
        let value = hidden.slice([0..windows, 0..length, half..2 * half]);
        states + self.dropout.forward(self.feed_out.forward(activation::silu(gate) * value))
    }
}

impl Transformer {
    /// The state of every used row.
    ///
    /// # Shapes
    /// `items`: `[windows, slots, dim]`, `start`: `[windows, dim]` (what is known before the first item);
    /// returns `[rows, dim]`.
    pub fn forward(&self, items: Tensor<3>, start: Tensor<2>, windows: &Windows) -> Tensor<2> {
        let [count, slots, dim] = items.dims();
        let device = items.device();
        let length = slots + 1;
        let mut states = Tensor::cat(vec![start.reshape([count, 1, dim]), items], 1);
        let mut mask = vec![0.0_f32; length * length];
        let mut buckets = vec![0_u32; length * length];
        for query in 0..length {
            for key in 0..length {
                let at = query * length + key;
                if key > query {
                    mask[at] = f32::NEG_INFINITY;
                } else {
                    buckets[at] = position_bucket(query - key);
                }
            }
        }
        let mask = Tensor::from_data(TensorData::new(mask, [1, 1, length, length]), &device);
        for block in &self.blocks {
            states = block.forward(states, mask.clone(), &buckets);
        }
        let rows: Vec<u32> = windows
            .row_windows
            .iter()
            .zip(&windows.row_prefixes)
            .map(|(window, prefix)| window * length as u32 + prefix)
            .collect();
        let states = states.reshape([count * length, dim]).select(0, indices(&rows, &device));
        self.norm.forward(states)
    }
}

/// Host memory.
impl Transformer {
    /// The weights for windows of up to `slots` items; `seed` fixes the dropout, without one there is none. Reads from the device.
    pub(crate) fn host(&self, dim: usize, slots: usize, seed: Option<u64>) -> Result<transformer::Transformer> {
        let linear = |linear: &Linear| {
            let weights = linear.weight.val();
            let [_, outputs] = weights.dims();
            to_host(weights.inner()).map(|weights| transformer::Linear::new(weights, outputs))
        };
        let gamma = |norm: &RmsNorm| to_host(norm.gamma.val().inner());
        let block = |block: &Block| -> Result<transformer::Block> {
            let table = to_host(block.position_bias.val().inner())?;
            let bias = |distance| {
                let start = position_bucket(distance) as usize * block.heads;
                &table[start..start + block.heads]
            };
            Ok(transformer::Block {
                attention_norm: gamma(&block.attention_norm)?,
                query_key_value: linear(&block.query_key_value)?,
                attention_out: linear(&block.attention_out)?,
                position_bias: (0..=slots).flat_map(bias).copied().collect(),
                feed_norm: gamma(&block.feed_norm)?,
                feed_gate_value: linear(&block.feed_gate_value)?,
                feed_out: linear(&block.feed_out)?,
            })
        };
        let first = self.blocks.first();
        let dropout = first.map_or(0.0, |block| if seed.is_some() { block.dropout.prob } else { 0.0 });
        Ok(transformer::Transformer {
            dim,
            heads: first.map_or(1, |block| block.heads),
            blocks: self.blocks.iter().map(block).collect::<Result<_>>()?,
            norm: gamma(&self.norm)?,
            mask: Mask::new(dropout, seed.unwrap_or(0)),
        })
    }

    /// Hands gradients computed in host memory to the optimiser.
    pub(crate) fn register(&self, found: TransformerGradients, gradients: &mut GradientsParams) {
        hand(&self.norm.gamma, found.norm, gradients);
        for (block, found) in self.blocks.iter().zip(found.blocks) {
            let mut buckets = vec![0.0; POSITION_BUCKETS * block.heads];
            for (distance, values) in found.position_bias.chunks_exact(block.heads).enumerate() {
                let start = position_bucket(distance) as usize * block.heads;
                for (sum, value) in buckets[start..].iter_mut().zip(values) {
                    *sum += value;
                }
            }
            hand(&block.position_bias, buckets, gradients);
            hand(&block.attention_norm.gamma, found.attention_norm, gradients);
            hand(&block.query_key_value.weight, found.query_key_value, gradients);
            hand(&block.attention_out.weight, found.attention_out, gradients);
            hand(&block.feed_norm.gamma, found.feed_norm, gradients);
            hand(&block.feed_gate_value.weight, found.feed_gate_value, gradients);
            hand(&block.feed_out.weight, found.feed_out, gradients);
        }
    }
}

/// Hands a gradient computed in host memory to the optimiser.
pub(crate) fn hand<const D: usize>(param: &Param<Tensor<D>>, values: Vec<f32>, gradients: &mut GradientsParams) {
    let tensor = param.val().inner();
    let values = TensorData::new(values, tensor.shape());
    gradients.register(param.id, Tensor::<D>::from_data(values, &tensor.device()));
}

fn position_bucket(distance: usize) -> u32 {
    if distance < 8 {
        return distance as u32;
    }
    let logarithmic = 8.0 + 2.0 * (distance as f64 / 8.0).log2();
    (logarithmic as u32).min(POSITION_BUCKETS as u32 - 1)
}

/// Learned attention pooling.
#[derive(Module, Debug)]
pub struct AttentionPool {
    hidden: Linear,
    score: Linear,
}

impl AttentionPool {
    /// Builds it on `device` for vectors of length `dim`.
    pub fn new(dim: usize, device: &Device) -> Self {
        Self {
            hidden: LinearConfig::new(dim, dim).init(device),
            score: LinearConfig::new(dim, 1).with_bias(false).init(device),
        }
    }

    /// The batch's pooling weights, each item's weight multiplied by `exp(score)`, every query's sum kept.
    ///
    /// # Shapes
    /// `items`: `[windows, slots, dim]`, `pool`: `[windows, queries, slots]`; returns `[windows, queries, slots]`.
    fn weights(&self, items: Tensor<3>, pool: Tensor<3>) -> Tensor<3> {
        let scores = self.score.forward(activation::tanh(self.hidden.forward(items))); // [windows, slots, 1]
        // tanh bounds the hidden values; clamping the score keeps exp finite whatever the weights do.
        let factors = scores.clamp(-SCORE_BOUND, SCORE_BOUND).exp().swap_dims(1, 2); // [windows, 1, slots]
        let total = pool.clone().sum_dim(2);
        let weighted = pool * factors;
        let weighted_total = weighted.clone().sum_dim(2).add_scalar(SUM_EPSILON);
        weighted * (total / weighted_total)
    }

    /// The weights for host memory. Reads from the device.
    pub(crate) fn host(&self) -> Result<attention::Attention> {
        let bias = self.hidden.bias.as_ref().map_or_else(|| Ok(Vec::new()), |bias| to_host(bias.val().inner()))?;
        let [hidden, score] = [&self.hidden, &self.score].map(|linear| to_host(linear.weight.val().inner()));
        Ok(attention::Attention::new(hidden?, bias, score?))
    }

    /// Hands gradients computed in host memory to the optimiser.
    pub(crate) fn register(&self, found: AttentionGradients, gradients: &mut GradientsParams) {
        hand(&self.hidden.weight, found.hidden, gradients);
        if let Some(bias) = &self.hidden.bias {
            hand(bias, found.hidden_bias, gradients);
        }
        hand(&self.score.weight, found.score, gradients);
    }
}

/// Pools the items of every used row.
///
/// # Shapes
/// `items`: `[windows, slots, dim]`; returns `[rows, dim]`.
pub fn pool(items: Tensor<3>, windows: &Windows, attention: Option<&AttentionPool>) -> Tensor<2> {
    let [count, slots, dim] = items.dims();
    let device = items.device();
    let shape = [count, windows.queries, slots];
    let mut weights = Tensor::<3>::from_data(TensorData::new(windows.pool.clone(), shape), &device);
    if let Some(attention) = attention {
        weights = attention.weights(items.clone(), weights);
    }
    let pooled = weights.matmul(items).reshape([count * windows.queries, dim]);
    if windows.rows.len() == count * windows.queries {
        return pooled;
    }
    pooled.select(0, indices(&windows.rows, &device))
}
