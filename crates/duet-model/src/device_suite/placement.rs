//! Tables on the device and in host memory train alike.

use super::*;

/// The learner with all tables in host memory, or with all of them as tensors: on the CPU, too, where a configuration has no
/// choice.
fn moved(mut learner: Learner, host: bool) -> Learner {
    let device = learner.model.device.device.clone();
    for (_, table) in learner.model.tables.named_mut() {
        let state = table.state().unwrap();
        let mut other = EmbeddingTable::random(table.rows(), table.dim(), 0.0, 0, &device, host);
        other.set(state, &device).unwrap();
        *table = other;
    }
    learner
}

/// Batches that share rows with the ones before them.
fn batches(learner: &Learner, count: u64) -> Vec<Batch> {
    (0..count).map(|step| random_batch(learner.model.is_shared(), step % 3)).collect()
}

/// Trains and gives the losses; with `ahead` every step knows the next batch.
fn train(learner: &mut Learner, batches: &[Batch], ahead: bool) -> Vec<f32> {
    let mut losses = Vec::new();
    for (step, batch) in batches.iter().enumerate() {
        let next = batches.get(step + 1).filter(|_| ahead);
        let output = learner.step_ahead(batch, next, rates(1e-3, 0.05), step as u64).unwrap();
        losses.push(to_host(output.loss).unwrap()[0]);
    }
    losses
}

fn wide(values: &[f32]) -> Vec<f64> {
    values.iter().map(|&value| f64::from(value)).collect()
}

/// Weights and accumulators of all tables agree up to rounding.
fn assert_same_tables(what: &str, found: &Learner, expected: &Learner) {
    let (found, expected) = (found.model.tables.named(), expected.model.tables.named());
    assert_eq!(found.len(), expected.len());
    for ((name, found), (_, expected)) in found.into_iter().zip(expected) {
        let (found, expected) = (found.state().unwrap(), expected.state().unwrap());
        assert_close(&format!("{what} {name}"), &found.weights, &wide(&expected.weights), 2e-3);
        assert_close(&format!("{what} {name} sums"), &found.accumulators, &wide(&expected.accumulators), 2e-3);
    }
}

#[test]
fn tables_in_host_memory_train_as_those_on_the_device() {
    on_every_device(|device| {
        for settings in MODELS {
            let what = format!("{} {settings:?}", device.description);
            let mut on_device = moved(learner(settings, device), false);
            let mut on_host = moved(learner(settings, device), true);
            assert!(on_device.model.tables.on_host().is_empty());
            assert_eq!(on_host.model.tables.on_host().len(), on_host.model.tables.named().len());
            let batches = batches(&on_device, 9);
            let expected = train(&mut on_device, &batches, false);
            let losses = train(&mut on_host, &batches, true);
            assert_close(&what, &losses, &wide(&expected), 2e-3);
            assert_same_tables(&what, &on_host, &on_device);
        }
    });
}

#[test]
fn rows_that_are_gathered_ahead_change_no_bit() {
    for settings in MODELS {
        let trained = |ahead: bool| {
            let mut learner = moved(learner(settings, &cpu()), true);
            let batches = batches(&learner, 9);
            let losses = train(&mut learner, &batches, ahead);
            (losses, learner.state().unwrap())
        };
        assert!(trained(true) == trained(false), "{settings:?}");
    }
}

/// A model whose table of items takes 1.4 MiB, and its biases 0.3.
fn large(settings: &[&str], device: &OpenDevice) -> Learner {
    let config = config(&[settings, &["model.dim=8", "model.dropout=0", "model.init_deviation=0.5"]].concat());
    let shape = DataShape { items: 40_000, ..SHAPE };
    Learner::new(TwoTower::new(&config.model, &config.loss, shape, device, 11), &config)
}

#[test]
fn a_table_above_the_budget_is_trained_in_host_memory_to_the_same_loss() {
    on_every_device(|device| {
        let what = &device.description;
        let mut on_device = large(&["model.placement=device"], device);
        let batches = batches(&on_device, 9);
        let expected = train(&mut on_device, &batches, false);
        let cases: [(&[&str], &[&str]); 3] = [
            (&["model.device_budget=1"], &["items"]),
            (&["model.device_budget=2"], &[]),
            (&["model.placement=host"], &["items", "bias", "user_features", "item_features"]),
        ];
        for (settings, in_host_memory) in cases {
            let mut other = large(settings, device);
            if !device.is_host() {
                assert_eq!(other.model.tables.on_host(), in_host_memory, "{what} {settings:?}");
            }
            let ahead = other.model.gathers_ahead();
            let losses = train(&mut other, &batches, ahead);
            assert_close(&format!("{what} {settings:?}"), &losses, &wide(&expected), 2e-3);
            assert_same_tables(what, &other, &on_device);
            if device.choice == DeviceChoice::Cpu {
                assert!(other.state().unwrap() == on_device.state().unwrap(), "{settings:?}");
            }
        }
    });
}

#[test]
fn a_checkpoint_goes_on_with_the_tables_elsewhere() {
    on_every_device(|device| {
        for (settings, host) in [(MODELS[0], false), (MODELS[3], true), (MODELS[4], false)] {
            let what = format!("{} {settings:?}", device.description);
            let mut straight = moved(learner(settings, device), host);
            let batches = batches(&straight, 6);
            train(&mut straight, &batches[..3], true);
            let (steps, state) = straight.state().unwrap();
            let mut resumed = moved(learner(settings, device), !host);
            let tensors = state.iter().map(|tensor| (tensor.name.clone(), tensor.clone())).collect();
            resumed.restore(steps, &tensors).unwrap();
            assert_eq!(resumed.model.tables.on_host().is_empty(), host, "{what}: a checkpoint moves no table");
            assert!(resumed.state().unwrap() == (steps, state), "{what}: what was saved is what is there");

            let vectors = |learner: &Learner| {
                let mut embedder = Embedder::new(&learner.model);
                [embedder.users(&batches[0].windows).unwrap(), embedder.items(&batches[0].candidates).unwrap()].concat()
            };
            assert_close(&what, &vectors(&resumed), &wide(&vectors(&straight)), 1e-5);

            let expected = train(&mut straight, &batches[3..], true);
            let losses = train(&mut resumed, &batches[3..], true);
            assert_close(&what, &losses, &wide(&expected), 2e-3);
            assert_same_tables(&what, &resumed, &straight);
        }
    });
}
