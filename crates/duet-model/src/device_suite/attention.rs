//! Attention pooling in host memory is the graph of tensor operations.

use burn::module::ModuleMapper;

use super::*;
use crate::{
    embedding::indices,
    encoder::{self, AttentionPool},
    host::pool::{add_slots, tests::random_windows},
};

/// Random values for every parameter, biases too.
struct RandomInit(Pcg64Mcg);

impl ModuleMapper for RandomInit {
    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let rng = &mut self.0;
        param.map(|tensor| {
            let shape = tensor.shape();
            let values: Vec<f32> = (0..shape.num_elements()).map(|_| rng.random_range(-1.0..1.0)).collect();
            Tensor::from_data(TensorData::new(values, shape), &tensor.device()).require_grad()
        })
    }
}

/// Everything that both give: the rows, and gradients with respect to history and parameters.
struct Found {
    rows: Vec<f32>,
    history: Vec<f32>,
    parameters: Vec<Vec<f32>>,
}

fn flat(attention: &AttentionPool, gradients: &GradientsParams) -> Vec<Vec<f32>> {
    let mut flat = FlatGradients { gradients, values: Vec::new() };
    attention.visit(&mut flat);
    flat.values
}

fn by_graph(
    attention: &AttentionPool,
    history: &[f32],
    windows: &Windows,
    direction: &[f32],
    device: &OpenDevice,
) -> Found {
    let dim = history.len() / windows.history.len();
    let leaf = Tensor::from_inner(tensor(history, [windows.history.len(), dim], device)).require_grad();
    let autodiff = leaf.device();
    let padded = Tensor::cat(vec![leaf.clone(), Tensor::zeros([1, dim], &autodiff)], 0);
    let shape = [windows.count, windows.slots, dim];
    let items = padded.select(0, indices(&windows.tokens, &autodiff)).reshape(shape);
    let rows = encoder::pool(items, windows, Some(attention));
    let along = Tensor::from_inner(tensor(direction, [windows.rows.len(), dim], device));
    let mut gradients = (rows.clone() * along).sum().backward();
    Found {
        rows: to_host(rows.inner()).unwrap(),
        history: to_host(leaf.grad_remove(&mut gradients).unwrap()).unwrap(),
        parameters: flat(attention, &GradientsParams::from_grads(gradients, attention)),
    }
}

fn by_hand(attention: &AttentionPool, history: &[f32], windows: &Windows, direction: &[f32]) -> Found {
    let dim = history.len() / windows.history.len();
    let host = attention.host().unwrap();
    let output = host.forward(history, windows);
    let gradients = host.backward(&output, windows, direction);
    let mut sums = vec![0.0; history.len()];
    add_slots(&gradients.slots, windows, dim, &mut sums);
    let mut registered = GradientsParams::new();
    attention.register(gradients, &mut registered);
    Found { rows: output.rows, history: sums, parameters: flat(attention, &registered) }
}

fn check(device: &OpenDevice, count: usize, slots: usize, history: usize, dim: usize, seed: u64) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let windows = random_windows(count, slots, history, &mut rng);
    // Tensor operations have no batches without rows.
    if windows.rows.is_empty() {
        return;
    }
    let mut random = |rows: usize| -> Vec<f32> { (0..rows * dim).map(|_| rng.random_range(-1.0..1.0)).collect() };
    let (values, direction) = (random(history), random(windows.rows.len()));
    let attention = AttentionPool::new(dim, &device.device.clone().autodiff()).map(&mut RandomInit(rng));
    let found = by_hand(&attention, &values, &windows, &direction);
    let expected = by_graph(&attention, &values, &windows, &direction, device);
    let compare = |what: &str, found: &[f32], expected: &[f32]| {
        assert_eq!(found.len(), expected.len(), "{what}");
        // Of a row that sees one item the score's gradient is what is left of terms that cancel.
        let scale = expected.iter().fold(1.0_f32, |most, value| most.max(value.abs()));
        for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
            let is_close = (found - expected).abs() < 1e-3 * scale;
            assert!(is_close, "{} {what}[{at}]: {found} instead of {expected}", device.description);
        }
    };
    compare("rows", &found.rows, &expected.rows);
    compare("history", &found.history, &expected.history);
    assert_eq!(found.parameters.len(), 3);
    for (which, (found, expected)) in found.parameters.iter().zip(&expected.parameters).enumerate() {
        compare(&format!("parameter {which}"), found, expected);
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn by_hand_is_the_graph(
        count in 1_usize..6, slots in 1_usize..36, history in 1_usize..9, dim in 1_usize..36, seed: u64,
    ) {
        for choice in [DeviceChoice::Cpu, DeviceChoice::NdArray] {
            check(&choice.open().unwrap(), count, slots, history, dim, seed);
        }
    }
}
