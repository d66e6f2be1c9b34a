//! Dropout whose mask is made on the host where tensors live there.
//!
//! burn draws every element from ChaCha through a sampler, about 6 ns each: 12 ms of a step of 110 ms with two hidden layers of
//! 256. Here burn's generator gives a seed and a counter-based generator the mask, 16 bits an element; the same seed gives the
//! same mask whatever the number of threads.

use burn::{
    module::Module,
    nn::{Dropout as Elementwise, DropoutConfig},
    tensor::{Distribution, Tensor, TensorData},
};
use rayon::prelude::*;

use crate::embedding::to_host;

/// Elements that one counter value decides.
const LANES: usize = 4;
/// Elements a task fills.
const CHUNK: usize = 1 << 16;

/// Zeroes elements at random in training and scales the rest up.
#[derive(Module, Debug)]
pub(crate) struct Dropout {
    elementwise: Elementwise,
    #[module(skip)]
    host: bool,
}

impl Dropout {
    /// `host`: whether tensors live in host memory.
    pub(crate) fn new(probability: f64, host: bool) -> Self {
        Self { elementwise: DropoutConfig::new(probability).init(), host }
    }

    /// # Shapes
    /// Any, unchanged.
    pub(crate) fn forward<const D: usize>(&self, input: Tensor<D>) -> Tensor<D> {
        let device = input.device();
        let probability = self.elementwise.prob;
        if !self.host || !device.is_autodiff() || probability == 0.0 {
            return self.elementwise.forward(input);
        }
        let Ok(drawn) = to_host(Tensor::<1>::random([3], Distribution::Default, &device)) else {
            return self.elementwise.forward(input);
        };
        // 24 random bits a number.
        let seed = drawn.iter().fold(0_u64, |seed, &value| (seed << 24) ^ (value * 16_777_216.0) as u64);
        let shape = input.shape();
        let mask = mask(shape.num_elements(), probability, seed);
        input * Tensor::from_data(TensorData::new(mask, shape), &device)
    }
}

/// `1 / keep` with probability `keep = 1 - probability` (to 1/65536), else 0.
fn mask(count: usize, probability: f64, seed: u64) -> Vec<f32> {
    let limit = ((1.0 - probability) * 65_536.0).round().clamp(1.0, 65_536.0) as u32;
    let kept = 65_536.0 / limit as f32;
    let mut mask = vec![0.0_f32; count];
    mask.par_chunks_mut(CHUNK).enumerate().for_each(|(chunk, values)| {
        let first = (chunk * CHUNK / LANES) as u64;
        for (at, values) in values.chunks_mut(LANES).enumerate() {
            let bits = mixed(seed, first + at as u64);
            for (lane, value) in values.iter_mut().enumerate() {
                let draw = (bits >> (16 * lane)) as u32 & 0xffff;
                *value = if draw < limit { kept } else { 0.0 };
            }
        }
    });
    mask
}

/// SplitMix64 (Steele et al., 2014) at a position of its sequence.
fn mixed(seed: u64, at: u64) -> u64 {
    let mut x = seed.wrapping_add((at + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15));
    x = (x ^ (x >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    x = (x ^ (x >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    x ^ (x >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mask_keeps_the_mean_and_depends_on_the_seed() {
        for probability in [0.05, 0.1, 0.5, 0.9] {
            let values = mask(200_001, probability, 7);
            let mean = values.iter().map(|&value| f64::from(value)).sum::<f64>() / values.len() as f64;
            // Standard deviation of the mean: sqrt(p / (1 - p) / n).
            let deviation = (probability / (1.0 - probability) / values.len() as f64).sqrt();
            assert!((mean - 1.0).abs() < 5.0 * deviation, "{probability}: {mean}");
            assert_eq!(values, mask(200_001, probability, 7));
            assert_ne!(values, mask(200_001, probability, 8));
        }
    }
}
