//! What a machine can do at best, to hold measured speeds against: a large matrix product and a copy.

use std::time::Instant;

use burn::tensor::{Tensor, TensorData};
use duet_core::Result;
use rayon::prelude::*;

use crate::{device::OpenDevice, embedding::to_host};

/// Floating-point operations a second in a product of two f32 matrices of `size * size`, the best of `rounds`.
///
/// # Errors
/// [`duet_core::Error::Internal`] if the device can't be read.
pub fn matrix_product(device: &OpenDevice, size: usize, rounds: usize) -> Result<f64> {
    let matrix = |step: usize| {
        let values: Vec<f32> = (0..size * size).map(|at| (at * step % 101) as f32 / 101.0).collect();
        Tensor::<2>::from_data(TensorData::new(values, [size, size]), &device.device)
    };
    let (left, right) = (matrix(7), matrix(13));
    let mut best = f64::INFINITY;
    // The first round warms up.
    for round in 0..=rounds {
        let started = Instant::now();
        let product = left.clone().matmul(right.clone());
        // A value of the result: a device may only then be done.
        to_host(product.slice([0..1, 0..1]))?;
        if round > 0 {
            best = best.min(started.elapsed().as_secs_f64());
        }
    }
    Ok(2.0 * (size as f64).powi(3) / best)
}

/// Bytes a second, read and written together, in copying `bytes` of host memory with all threads, the best of `rounds`.
pub fn copy_bandwidth(bytes: usize, rounds: usize) -> f64 {
    const CHUNK: usize = 1 << 18;
    let from = vec![1.0_f32; bytes / size_of::<f32>()];
    let mut to = vec![0.0_f32; from.len()];
    let mut best = f64::INFINITY;
    for round in 0..=rounds {
        let started = Instant::now();
        to.par_chunks_mut(CHUNK).zip(from.par_chunks(CHUNK)).for_each(|(to, from)| to.copy_from_slice(from));
        std::hint::black_box(&to);
        if round > 0 {
            best = best.min(started.elapsed().as_secs_f64());
        }
    }
    2.0 * bytes as f64 / best
}
