//! One numerical suite, run over every device this machine has: `cpu`, `ndarray`, and `wgpu` where there is an adapter.

#![expect(clippy::unwrap_used, reason = "tests")]

mod attention;
mod placement;

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::{AdamWConfig, GradientsParams, lr_scheduler::module_lr_scheduler::ModuleLearningRate},
    tensor::{Tensor, TensorData},
};
use duet_core::config::Config;
use duet_core::encoding::EncodedTable;
use proptest::prelude::*;
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::{
    adamw::AdamW,
    batch::{Batch, Candidates, Windows, length_bucket},
    device::{DeviceChoice, OpenDevice, wgpu_adapters},
    embedding::{EmbeddingTable, TableState, to_host},
    feature_bags::FeatureRows,
    host,
    inference::Embedder,
    loss::{Targets, sampled_softmax},
    model::{DataShape, Towers, TwoTower},
    step::{Learner, Rates},
    unique::Unique,
};

fn rates(towers: f64, tables: f64) -> Rates {
    Rates { towers, tables, features: tables }
}

fn devices() -> Vec<OpenDevice> {
    let mut choices = vec![DeviceChoice::Cpu, DeviceChoice::NdArray];
    if wgpu_adapters().is_empty() {
        println!("skipped: no wgpu adapter on this machine");
    } else {
        choices.push(DeviceChoice::Wgpu(0));
    }
    choices.into_iter().map(|choice| choice.open().unwrap()).collect()
}

/// Runs `check` on every device of this machine, and waits until each has freed what the check dropped: it does so on a
/// thread of its own, and software Vulkan aborts if the process ends meanwhile.
fn on_every_device(check: impl Fn(&OpenDevice)) {
    for device in devices() {
        check(&device);
        device.device.sync().unwrap();
    }
}

fn cpu() -> OpenDevice {
    DeviceChoice::Cpu.open().unwrap()
}

fn tensor(values: &[f32], shape: [usize; 2], device: &OpenDevice) -> Tensor<2> {
    Tensor::from_data(TensorData::new(values.to_vec(), shape), &device.device)
}

fn assert_close(what: &str, found: &[f32], expected: &[f64], tolerance: f64) {
    assert_eq!(found.len(), expected.len(), "{what}");
    let scale = expected.iter().fold(1e-3_f64, |most, value| most.max(value.abs()));
    for (at, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(error <= tolerance * scale, "{what}[{at}]: {found} instead of {expected}");
    }
}

/// Random targets: some rows with several positives, some with a masked history.
fn random_targets(rows: usize, columns: usize, rng: &mut Pcg64Mcg) -> Targets {
    let windows = rows.div_ceil(2);
    let mut targets = Targets { offsets: vec![0], seen_offsets: vec![0], ..Targets::default() };
    for row in 0..rows {
        let count = rng.random_range(1..=3.min(columns));
        let mut positives: Vec<u32> = (0..columns as u32).collect();
        for _ in count..columns {
            positives.remove(rng.random_range(0..positives.len()));
        }
        targets.shares.extend(positives.iter().map(|_| 1.0 / count as f32));
        targets.columns.extend(positives);
        targets.offsets.push(targets.columns.len() as u32);
        targets.row_weights.push(rng.random_range(0.1..2.0));
        targets.windows.push((row / 2) as u32);
        targets.prefixes.push(rng.random_range(0..4));
    }
    for _ in 0..windows {
        for column in 0..columns as u32 {
            if rng.random::<f64>() < 0.3 {
                targets.seen_columns.push(column);
                targets.seen_places.push(rng.random_range(0..4));
            }
        }
        targets.seen_offsets.push(targets.seen_columns.len() as u32);
    }
    targets.log_inclusion = (0..columns).map(|_| -rng.random_range(0.0..3.0_f32)).collect();
    targets.corrects_positives = rng.random();
    targets
}

/// The loss as its definition reads, in f64, over dense logits.
fn naive_loss(users: &[f64], items: &[f64], dim: usize, targets: &Targets) -> f64 {
    let (rows, columns) = (users.len() / dim, items.len() / dim);
    let total: f64 = targets.row_weights.iter().map(|&weight| f64::from(weight)).sum();
    let mut loss = 0.0;
    for row in 0..rows {
        let range = targets.offsets[row] as usize..targets.offsets[row + 1] as usize;
        let positives: Vec<usize> = targets.columns[range.clone()].iter().map(|&column| column as usize).collect();
        let window = targets.windows[row] as usize;
        let seen = targets.seen_offsets[window] as usize..targets.seen_offsets[window + 1] as usize;
        let logits: Vec<f64> = (0..columns)
            .map(|column| {
                let dot: f64 = (0..dim).map(|at| users[row * dim + at] * items[column * dim + at]).sum();
                let masked = seen.clone().any(|at| {
                    targets.seen_columns[at] as usize == column && targets.seen_places[at] < targets.prefixes[row]
                });
                let corrected = dot - f64::from(targets.log_inclusion[column]);
                match (positives.contains(&column), masked) {
                    (true, _) if targets.corrects_positives => corrected,
                    (true, _) => dot,
                    (false, true) => f64::NEG_INFINITY,
                    (false, false) => corrected,
                }
            })
            .collect();
        let log_sum = logits.iter().map(|logit| logit.exp()).sum::<f64>().ln();
        let shares = &targets.shares[range];
        let row_loss: f64 =
            positives.iter().zip(shares).map(|(&at, &share)| f64::from(share) * (log_sum - logits[at])).sum();
        loss += f64::from(targets.row_weights[row]) / total * row_loss;
    }
    loss
}

fn finite_differences(values: &[f64], mut function: impl FnMut(&[f64]) -> f64) -> Vec<f64> {
    const STEP: f64 = 1e-5;
    let mut values = values.to_vec();
    (0..values.len())
        .map(|at| {
            let old = values[at];
            values[at] = old + STEP;
            let above = function(&values);
            values[at] = old - STEP;
            let below = function(&values);
            values[at] = old;
            (above - below) / (2.0 * STEP)
        })
        .collect()
}

/// The loss and both gradients, from the loops in host memory or from the device.
fn run_loss(
    device: &OpenDevice,
    host: bool,
    users: &[f32],
    items: &[f32],
    dim: usize,
    targets: &Targets,
) -> (f32, Vec<f32>, Vec<f32>) {
    if host {
        let output = host::loss::sampled_softmax(users, items, &[], dim, targets, &mut host::loss::Scratch::default());
        return (output.loss, output.users, output.items);
    }
    let users = tensor(users, [users.len() / dim, dim], device);
    let items = tensor(items, [items.len() / dim, dim], device);
    let output = sampled_softmax(&users, &items, targets);
    (to_host(output.loss).unwrap()[0], to_host(output.users).unwrap(), to_host(output.items).unwrap())
}

fn check_loss(device: &OpenDevice, host: bool, rows: usize, columns: usize, dim: usize, seed: u64) {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let mut random = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.5..1.5)).collect() };
    let (users, items) = (random(rows * dim), random(columns * dim));
    let targets = random_targets(rows, columns, &mut rng);
    let (loss, d_users, d_items) = run_loss(device, host, &users, &items, dim, &targets);
    let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&value| f64::from(value)).collect() };
    let (users, items) = (wide(&users), wide(&items));
    let name = &device.description;
    assert_close(&format!("{name} loss"), &[loss], &[naive_loss(&users, &items, dim, &targets)], 2e-5);
    let expected = finite_differences(&users, |users| naive_loss(users, &items, dim, &targets));
    assert_close(&format!("{name} d users"), &d_users, &expected, 1e-4);
    let expected = finite_differences(&items, |items| naive_loss(&users, items, dim, &targets));
    assert_close(&format!("{name} d items"), &d_items, &expected, 1e-4);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(40))]

    #[test]
    fn loss_and_gradients_agree_with_f64(rows in 1_usize..12, columns in 1_usize..40, dim in 1_usize..9, seed: u64) {
        // Both implementations on the CPU: the host loops, and the tensor operations that other devices use.
        check_loss(&cpu(), true, rows, columns, dim, seed);
        check_loss(&cpu(), false, rows, columns, dim, seed);
    }
}

#[test]
fn loss_agrees_with_f64_on_every_device() {
    on_every_device(|device| {
        for (rows, columns, dim, seed) in [(1, 1, 1, 1), (5, 7, 3, 2), (9, 33, 8, 3)] {
            check_loss(device, false, rows, columns, dim, seed);
        }
        check_tiles(device);
    });
}

/// More rows than a tile: both implementations give one result.
fn check_tiles(device: &OpenDevice) {
    let (rows, columns, dim) = (300, 20, 4);
    let mut rng = Pcg64Mcg::seed_from_u64(5);
    let mut random = |count: usize| -> Vec<f32> { (0..count).map(|_| rng.random_range(-1.5..1.5)).collect() };
    let (users, items) = (random(rows * dim), random(columns * dim));
    let targets = random_targets(rows, columns, &mut rng);
    let run = |device: &OpenDevice, host: bool| {
        let (loss, users, items) = run_loss(device, host, &users, &items, dim, &targets);
        [vec![loss], users, items].concat()
    };
    let expected: Vec<f64> = run(&cpu(), true).into_iter().map(f64::from).collect();
    assert_close(&device.description, &run(device, false), &expected, 1e-5);
}

fn config(settings: &[&str]) -> Config {
    let settings: Vec<String> = settings.iter().map(|&setting| setting.to_owned()).collect();
    Config::resolve(&[], &settings).unwrap()
}

const SHAPE: DataShape =
    DataShape { users: 6, items: 30, user_vocabulary: 7, user_dense: 2, item_vocabulary: 9, item_dense: 3 };

/// Encoded features with bags of one to three ids.
fn random_features(
    rows: usize,
    slots: usize,
    vocabulary: usize,
    dense_width: usize,
    rng: &mut Pcg64Mcg,
) -> EncodedTable {
    let mut table = EncodedTable { rows, slots, dense_width, bag_offsets: vec![0], ..EncodedTable::default() };
    for _ in 0..rows * slots {
        for _ in 0..rng.random_range(1..=3) {
            table.bag_ids.push(rng.random_range(0..vocabulary as u32));
        }
        table.bag_offsets.push(table.bag_ids.len() as u32);
    }
    table.dense = (0..rows * dense_width).map(|_| rng.random()).collect();
    table
}

/// A batch of random windows, queries and targets for a model of [`SHAPE`].
fn random_batch(shared: bool, seed: u64) -> Batch {
    let mut rng = Pcg64Mcg::seed_from_u64(seed);
    let (count, slots, queries) = (4, 5, 3);
    let users = random_features(SHAPE.users, 2, SHAPE.user_vocabulary, SHAPE.user_dense, &mut rng);
    let items = random_features(SHAPE.items, 1, SHAPE.item_vocabulary, SHAPE.item_dense, &mut rng);
    let mut numbers = Unique::new(SHAPE.items);
    let candidates: Vec<u32> = (0..12).map(|at| (at * 7 + seed as u32) % SHAPE.items as u32).collect();
    if shared {
        for &item in &candidates {
            numbers.index(item);
        }
    }
    let mut tokens: Vec<u32> =
        (0..count * slots).map(|_| numbers.index(rng.random_range(0..SHAPE.items as u32))).collect();
    let history = numbers.ids().to_vec();
    // Some padding.
    tokens[slots - 1] = history.len() as u32;
    tokens[2 * slots] = history.len() as u32;
    let mut features = Unique::new(20);
    let window_users = [0_u32, 2, 5, 1];
    let mut windows = Windows {
        count,
        slots,
        tokens,
        queries,
        pool: (0..count * queries * slots).map(|_| rng.random()).collect(),
        users: FeatureRows::collect(&users, window_users.into_iter(), &mut features),
        user_rows: window_users.to_vec(),
        history,
        ..Windows::default()
    };
    for window in 0..count {
        for query in 0..queries - window % 2 {
            windows.rows.push((window * queries + query) as u32);
            windows.row_windows.push(window as u32);
            let prefix = query + window;
            windows.row_prefixes.push(prefix as u32);
            windows.row_lengths.push(length_bucket(prefix));
            windows.pool[(window * queries + query) * slots..][prefix..slots].fill(0.0);
        }
    }
    let mut targets = random_targets(windows.rows.len(), candidates.len(), &mut rng);
    targets.windows.clone_from(&windows.row_windows);
    targets.seen_offsets.truncate(count + 1);
    Batch {
        candidates: Candidates {
            keep_id: candidates.iter().map(|item| item % 5 != 0).collect(),
            features: FeatureRows::collect(&items, candidates.iter().copied(), &mut features),
            items: candidates,
        },
        windows,
        targets,
    }
}

/// Configurations that together reach every part of the model.
const MODELS: [&[&str]; 6] = [
    &["model.hidden=6", "train.clip_norm=0.3"],
    &["model.encoder=attention", "model.shared_table=false", "model.normalise=true"],
    &["model.encoder=transformer", "model.feed_forward=12", "model.layers=2", "model.normalise=true"],
    &["model.encoder=transformer", "model.add_mean=true", "model.user_id=true", "model.shared_table=false"],
    &["model.hash_buckets=11", "model.bias=false", "model.history_length=false", "model.hidden=5"],
    &["model.encoder=attention", "model.add_mean=true", "model.hash_buckets=11", "model.hidden=5"],
];

fn learner(settings: &[&str], device: &OpenDevice) -> Learner {
    let all = [&["model.dim=8", "model.dropout=0", "train.clip_norm=0", "model.init_deviation=0.5"], settings].concat();
    let config = config(&all);
    let mut model = TwoTower::new(&config.model, &config.loss, SHAPE, device, 11);
    // Nothing may sit at zero, where half of the gradients vanish.
    let mut rng = Pcg64Mcg::seed_from_u64(3);
    let mut state = model.state(true).unwrap();
    for tensor in &mut state {
        if tensor.name.starts_with("towers") && !tensor.name.ends_with("log_scale") {
            for value in &mut tensor.values {
                *value += rng.random_range(-0.3..0.3);
            }
        }
    }
    model.restore(&state.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect()).unwrap();
    Learner::new(model, &config)
}

struct FlatGradients<'a> {
    gradients: &'a GradientsParams,
    values: Vec<Vec<f32>>,
}

impl ModuleVisitor for FlatGradients<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let zeros = || vec![0.0; param.val().shape().num_elements()];
        self.values.push(self.gradients.get::<D>(param.id).map_or_else(zeros, |gradient| to_host(gradient).unwrap()));
    }
}

/// The gradient of every parameter, in the order of [`TwoTower::state`] without optimiser states.
fn all_gradients(learner: &mut Learner, batch: &Batch) -> (f32, Vec<Vec<f32>>) {
    let gradients = learner.gradients(batch, 0).unwrap();
    let mut flat = FlatGradients { gradients: &gradients.towers, values: Vec::new() };
    learner.model.towers.visit(&mut flat);
    let mut all = flat.values;
    for (name, table) in learner.model.tables.named() {
        let mut dense = vec![0.0; table.rows() * table.dim()];
        let at = gradients.gathered.rows.iter().position(|(gathered, _)| *gathered == name).unwrap();
        if let Some(leaf) = &gradients.leaves[at] {
            let values = to_host(leaf.clone()).unwrap();
            for (row, values) in gradients.gathered.rows[at].1.rows.iter().zip(values.chunks(table.dim())) {
                dense[*row as usize * table.dim()..][..table.dim()].copy_from_slice(values);
            }
        }
        all.push(dense);
    }
    (to_host(gradients.loss).unwrap()[0], all)
}

#[test]
fn gradients_of_every_parameter_agree_with_finite_differences() {
    for settings in MODELS {
        let mut learner = learner(settings, &cpu());
        let batch = random_batch(learner.model.is_shared(), 4);
        let (_, gradients) = all_gradients(&mut learner, &batch);
        let state = learner.model.state(false).unwrap();
        assert_eq!(gradients.len(), state.len());
        let mut rng = Pcg64Mcg::seed_from_u64(9);
        for (number, (tensor, gradient)) in state.iter().zip(&gradients).enumerate() {
            assert_eq!(tensor.values.len(), gradient.len(), "{}", tensor.name);
            let scale = gradient.iter().fold(0.02_f32, |most, value| most.max(value.abs()));
            // Every element of the small ones, a sample of the others.
            for _ in 0..12.min(tensor.values.len()) {
                let at = rng.random_range(0..tensor.values.len());
                const STEP: f32 = 4e-3;
                let mut loss_at = |value: f32| {
                    let mut moved = state.clone();
                    moved[number].values[at] = value;
                    learner
                        .model
                        .restore(&moved.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect())
                        .unwrap();
                    f64::from(to_host(learner.gradients(&batch, 0).unwrap().loss).unwrap()[0])
                };
                let old = tensor.values[at];
                let slope = (loss_at(old + STEP) - loss_at(old - STEP)) / f64::from(2.0 * STEP);
                let error = (slope - f64::from(gradient[at])).abs();
                assert!(
                    error < 0.03 * f64::from(scale),
                    "{settings:?} {}[{at}]: {} against {slope}",
                    tensor.name,
                    gradient[at]
                );
            }
        }
    }
}

#[test]
fn every_device_gives_the_gradients_and_the_loss_curve_of_the_cpu() {
    on_every_device(|device| {
        for settings in MODELS {
            let (mut expected, mut found) = (learner(settings, &cpu()), learner(settings, device));
            for step in 0..12 {
                let batch = random_batch(expected.model.is_shared(), step % 3);
                let (expected_loss, expected_gradients) = all_gradients(&mut expected, &batch);
                let (loss, gradients) = all_gradients(&mut found, &batch);
                let what = format!("{} {settings:?} step {step}", device.description);
                assert_close(&what, &[loss], &[f64::from(expected_loss)], 2e-3);
                if step == 0 {
                    for (gradient, expected) in gradients.iter().zip(&expected_gradients) {
                        let expected: Vec<f64> = expected.iter().map(|&value| f64::from(value)).collect();
                        assert_close(&what, gradient, &expected, 2e-3);
                    }
                }
                expected.step(&batch, rates(1e-3, 0.05), 0).unwrap();
                found.step(&batch, rates(1e-3, 0.05), 0).unwrap();
            }
        }
    });
}

#[test]
fn any_number_of_threads_trains_to_the_same_bits() {
    for settings in MODELS {
        let settings = [settings, &["model.dropout=0.2"]].concat();
        let trained = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            pool.install(|| {
                let mut learner = learner(&settings, &cpu());
                for step in 0..3 {
                    let batch = random_batch(learner.model.is_shared(), step);
                    learner.step(&batch, rates(1e-2, 0.1), step).unwrap();
                }
                learner.state().unwrap()
            })
        };
        let one = trained(1);
        for threads in [1, 2, 5] {
            assert!(trained(threads) == one, "{settings:?}, {threads} threads");
        }
    }
}

#[test]
fn embeddings_are_the_vectors_of_training_without_dropout() {
    for settings in MODELS {
        let learner = learner(settings, &cpu());
        let batch = random_batch(learner.model.is_shared(), 2);
        let mut embedder = Embedder::new(&learner.model);
        let (users, items) = (embedder.users(&batch.windows).unwrap(), embedder.items(&batch.candidates).unwrap());
        let mut unique = Unique::new(SHAPE.items);
        let towers = learner.model.towers.valid();
        let gathered = learner.model.gather(Some(&batch.windows), Some(&batch.candidates), &mut unique);
        let wide = |tensor| -> Vec<f64> { to_host::<2>(tensor).unwrap().into_iter().map(f64::from).collect() };
        let expected = wide(learner.model.user_vectors(&towers, &gathered, &batch.windows));
        assert_close(&format!("{settings:?} users"), &users, &expected, 1e-5);
        let expected = wide(learner.model.item_vectors(&towers, &gathered, &batch.candidates));
        assert_close(&format!("{settings:?} items"), &items, &expected, 1e-5);
    }
}

#[test]
fn the_loss_falls() {
    for settings in MODELS {
        let mut learner = learner(settings, &cpu());
        let batch = random_batch(learner.model.is_shared(), 1);
        let losses: Vec<f32> =
            (0..60).map(|_| to_host(learner.step(&batch, rates(5e-3, 0.1), 0).unwrap().loss).unwrap()[0]).collect();
        assert!(losses[59] < 0.75 * losses[0], "{settings:?}: {} to {}", losses[0], losses[59]);
    }
}

#[test]
fn sparse_gradients_equal_those_of_a_dense_embedding() {
    on_every_device(|device| {
        let rows: Vec<u32> = vec![4, 0, 4, 7, 4, 2];
        let values: Vec<f32> = (0..10 * 3).map(|at| (at as f32).sin()).collect();
        let weights: Vec<f32> = (0..rows.len() * 3).map(|at| (at as f32).cos()).collect();
        let weights = tensor(&weights, [rows.len(), 3], device);
        let indices = crate::embedding::indices(&rows, &device.device);

        let dense = Tensor::from_inner(tensor(&values, [10, 3], device)).require_grad();
        let product = dense.clone().select(0, indices) * Tensor::from_inner(weights.clone());
        let expected = to_host(dense.grad(&product.square().sum().backward()).unwrap()).unwrap();

        let mut table = EmbeddingTable::random(10, 3, 0.0, 0, &device.device, device.is_host());
        let state = TableState { weights: values, accumulators: vec![0.0; 10], dim: 3 };
        table.set(state, &device.device).unwrap();
        let mut unique = Unique::new(10);
        let numbers: Vec<u32> = rows.iter().map(|&row| unique.index(row)).collect();
        let leaf = Tensor::from_inner(table.gather(unique.ids(), &device.device)).require_grad();
        let product =
            leaf.clone().select(0, crate::embedding::indices(&numbers, &device.device)) * Tensor::from_inner(weights);
        let gradient = to_host(leaf.grad(&product.square().sum().backward()).unwrap()).unwrap();
        let mut found = vec![0.0; 30];
        for (row, gradient) in unique.ids().iter().zip(gradient.chunks(3)) {
            found[*row as usize * 3..][..3].copy_from_slice(gradient);
        }
        let expected: Vec<f64> = expected.into_iter().map(f64::from).collect();
        assert_close(&device.description, &found, &expected, 1e-5);
    });
}

#[test]
fn row_wise_adagrad_is_its_formula_and_touches_nothing_else() {
    on_every_device(|device| {
        let mut table = EmbeddingTable::random(6, 4, 1.0, 2, &device.device, device.is_host());
        let before = table.state().unwrap();
        let gradients = [[1.0_f32, -2.0, 0.5, 0.0, 3.0, 3.0, -3.0, 0.1], [0.2, 0.2, 0.2, 0.2, -1.0, 0.0, 0.0, 0.0]];
        let mut expected = before.clone();
        for gradient in gradients {
            table.update(&[5, 1], tensor(&gradient, [2, 4], device), 0.1);
            for (row, gradient) in [5, 1].into_iter().zip(gradient.chunks(4)) {
                expected.accumulators[row] += gradient.iter().map(|g| g * g).sum::<f32>() / 4.0;
                for (weight, g) in expected.weights[row * 4..][..4].iter_mut().zip(gradient) {
                    *weight -= 0.1 * g / expected.accumulators[row].sqrt();
                }
            }
        }
        let found = table.state().unwrap();
        let wide = |values: &[f32]| -> Vec<f64> { values.iter().map(|&value| f64::from(value)).collect() };
        assert_close(&device.description, &found.weights, &wide(&expected.weights), 1e-5);
        assert_close(&device.description, &found.accumulators, &wide(&expected.accumulators), 1e-5);
        for row in [0, 2, 3, 4] {
            assert_eq!(found.weights[row * 4..][..4], before.weights[row * 4..][..4], "row {row} was not in the batch");
        }
    });
}

#[test]
fn initial_tables_are_normal_and_depend_on_the_seed_alone() {
    let device = cpu();
    let table = |seed| EmbeddingTable::random(10_000, 4, 0.5, seed, &device.device, true).state().unwrap().weights;
    let values = table(1);
    let mean = values.iter().sum::<f32>() / values.len() as f32;
    let variance = values.iter().map(|value| (value - mean).powi(2)).sum::<f32>() / values.len() as f32;
    assert!(mean.abs() < 0.01 && (variance - 0.25).abs() < 0.01, "mean {mean}, variance {variance}");
    assert_eq!(values, table(1));
    assert_ne!(values, table(2));
}

#[test]
fn adamw_is_burns() {
    adamw_against_burns(|mine, towers, gradients| mine.step(towers, gradients, 1e-2));
    adamw_against_burns(|mine, towers, gradients| mine.host_step(towers, gradients, 1e-2, 1.0));
}

fn adamw_against_burns(step: impl Fn(&mut AdamW, Towers, GradientsParams) -> Towers) {
    let device = cpu();
    let settings = ["model.encoder=transformer", "model.dim=8", "model.dropout=0", "model.hidden=6"];
    let config = config(&settings);
    let batch = random_batch(true, 2);
    let run = |ours: bool| {
        let mut learner = Learner::new(TwoTower::new(&config.model, &config.loss, SHAPE, &device, 1), &config);
        let mut burns = AdamWConfig::new().with_beta_2(0.98).with_epsilon(1e-8).with_weight_decay(0.0).init();
        let mut mine = AdamW::new(0.0);
        for _ in 0..5 {
            let gradients = learner.gradients(&batch, 0).unwrap().towers;
            let towers: Towers = learner.model.towers.clone();
            learner.model.towers = if ours {
                step(&mut mine, towers, gradients)
            } else {
                burns.step(ModuleLearningRate::from(1e-2), towers, gradients)
            };
        }
        learner.model.state(false).unwrap()
    };
    for (mine, burns) in run(true).into_iter().zip(run(false)) {
        let burns_values: Vec<f64> = burns.values.iter().map(|&value| f64::from(value)).collect();
        assert_close(&mine.name, &mine.values, &burns_values, 1e-4);
    }
}

#[test]
fn a_restored_learner_goes_on_bit_for_bit() {
    let device = cpu();
    let settings = ["model.encoder=transformer", "model.normalise=true"];
    let mut straight = learner(&settings, &device);
    let batches: Vec<Batch> = (0..6).map(|seed| random_batch(true, seed)).collect();
    for batch in &batches[..3] {
        straight.step(batch, rates(1e-2, 0.1), 5).unwrap();
    }
    let (steps, state) = straight.state().unwrap();
    let mut resumed = learner(&settings, &device);
    resumed.restore(steps, &state.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect()).unwrap();
    for batch in &batches[3..] {
        straight.step(batch, rates(1e-2, 0.1), 5).unwrap();
        resumed.step(batch, rates(1e-2, 0.1), 5).unwrap();
    }
    assert_eq!(straight.state().unwrap(), resumed.state().unwrap());
}

#[test]
fn weights_of_another_model_are_refused_by_name() {
    let device = cpu();
    let state = learner(&[], &device).model.state(false).unwrap();
    let state = state.into_iter().map(|tensor| (tensor.name.clone(), tensor)).collect();
    let error = learner(&["model.hidden=6"], &device).model.restore(&state).unwrap_err().to_string();
    assert!(error.contains("residual") && error.contains("another model"), "{error}");
    let error = learner(&["model.hash_buckets=11"], &device).model.restore(&state).unwrap_err().to_string();
    assert!(error.contains("tables.items.weights") && error.contains("[11, 8]"), "{error}");
}

#[test]
fn an_item_without_id_depends_on_its_features_alone() {
    let device = cpu();
    let learner = learner(&["model.bias=false"], &device);
    let mut rng = Pcg64Mcg::seed_from_u64(1);
    let mut features = random_features(SHAPE.items, 1, SHAPE.item_vocabulary, SHAPE.item_dense, &mut rng);
    // Items 3 and 8 have the same features.
    features.bag_offsets = (0..=SHAPE.items as u32).collect();
    features.bag_ids = (0..SHAPE.items as u32).map(|item| item % 5).collect();
    for item in 0..SHAPE.items {
        features.dense[item * 3..][..3].copy_from_slice(&[0.5; 3]);
    }
    let mut unique = Unique::new(SHAPE.item_vocabulary);
    let mut embed = |keep: bool| {
        let candidates = Candidates {
            items: vec![3, 8],
            keep_id: vec![keep; 2],
            features: FeatureRows::collect(&features, [3, 8].into_iter(), &mut unique),
        };
        Embedder::new(&learner.model).items(&candidates).unwrap()
    };
    let with_id = embed(true);
    assert_ne!(with_id[..8], with_id[8..]);
    let without = embed(false);
    assert_eq!(without[..8], without[8..]);
}
