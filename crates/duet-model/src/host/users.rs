//! What a user's head starts from, in host memory: what is known of the user, the encoded history and its length, added up.

use super::{
    attention::{Attention, AttentionGradients, AttentionOutput},
    pool::{self, PoolGradients},
    transformer::{Transformer, TransformerGradients, TransformerOutput},
};
use crate::batch::Windows;

/// The parameters of the sums.
#[derive(Debug, Clone)]
pub(crate) struct UserSums {
    pub(crate) dim: usize,
    /// `[LENGTH_BUCKETS, dim]`, or nothing.
    pub(crate) length: Vec<f32>,
    /// Whether histories are pooled by the batch's weights alone.
    pub(crate) pools: bool,
    pub(crate) attention: Option<Attention>,
    pub(crate) transformer: Option<Transformer>,
}

/// The sums, and what the way back needs.
#[derive(Debug)]
pub(crate) struct UserOutput {
    /// `[rows, dim]`
    pub(crate) sums: Vec<f32>,
    attention: Option<AttentionOutput>,
    transformer: Option<TransformerOutput>,
}

/// Gradients with respect to what is added up.
#[derive(Debug)]
pub(crate) struct UserGradients {
    /// `[history, dim]`
    pub(crate) history: Vec<f32>,
    /// `[windows, dim]`
    pub(crate) known: Vec<f32>,
    /// `[LENGTH_BUCKETS, dim]`
    pub(crate) length: Vec<f32>,
    pub(crate) attention: Option<AttentionGradients>,
    pub(crate) transformer: Option<TransformerGradients>,
}

impl UserSums {
    /// # Shapes
    /// `history`: `[history, dim]`, `known`: `[windows, dim]`.
    pub(crate) fn forward(&self, history: &[f32], known: &[f32], windows: &Windows) -> UserOutput {
        let mut sums = pool::forward(history, known, &self.length, self.pools, windows, self.dim);
        let attention = self.attention.as_ref().map(|attention| attention.forward(history, windows));
        if let Some(output) = &attention {
            pool::add(&mut sums, &output.rows);
        }
        let transformer = self.transformer.as_ref().map(|transformer| transformer.forward(history, known, windows));
        if let Some(output) = &transformer {
            pool::add(&mut sums, &output.rows);
        }
        UserOutput { sums, attention, transformer }
    }

    /// # Shapes
    /// `gradient`: `[rows, dim]`.
    pub(crate) fn backward(&self, output: &UserOutput, windows: &Windows, gradient: &[f32]) -> UserGradients {
        let PoolGradients { mut history, mut known, length } = pool::backward(gradient, self.pools, windows, self.dim);
        let attention = self.attention.as_ref().zip(output.attention.as_ref()).map(|(attention, output)| {
            let gradients = attention.backward(output, windows, gradient);
            pool::add_slots(&gradients.slots, windows, self.dim, &mut history);
            gradients
        });
        let transformer = self.transformer.as_ref().zip(output.transformer.as_ref()).map(|(transformer, output)| {
            let gradients = transformer.backward(output, windows, gradient);
            pool::add(&mut known, &gradients.known);
            pool::add_slots(&gradients.slots, windows, self.dim, &mut history);
            gradients
        });
        UserGradients { history, known, length, attention, transformer }
    }
}
