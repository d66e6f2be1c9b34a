//! One training step: gather, forward, loss, backward, update.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::{Gradients, Tensor, TensorData},
};
use duet_core::{Result, config::Config};

use crate::{
    adamw::AdamW,
    batch::{Batch, Candidates},
    device::DeviceChoice,
    embedding::{sum_of_squares, to_host},
    hashing::RowMap,
    host,
    loss::sampled_softmax,
    model::{Gathered, Towers, TwoTower},
    tensor_file::NamedTensor,
    unique::Unique,
};

/// A model with its optimisers: what a checkpoint holds.
#[derive(Debug)]
pub struct Learner {
    /// The model being trained.
    pub model: TwoTower,
    /// The towers' optimiser.
    pub optimiser: AdamW,
    clip_norm: f64,
    temperature_bounds: [f64; 2],
    unique: Unique,
    scratch: host::loss::Scratch,
}

/// Seconds spent in the parts of a step. On a GPU the parts overlap with the host and only their sum means much.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepTimes {
    /// Gather and both towers.
    pub forward: Duration,
    /// Loss and its gradients.
    pub loss: Duration,
    /// Gradients of towers and rows.
    pub backward: Duration,
    /// Towers' and tables' updates, and rows that are gathered ahead.
    pub update: Duration,
}

/// Learning rates of a step.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Rates {
    /// AdamW on the towers.
    pub towers: f64,
    /// Row-wise Adagrad on the tables of items and users.
    pub tables: f64,
    /// Row-wise Adagrad on the tables of feature values.
    pub features: f64,
}

/// What a step gives back.
#[derive(Debug)]
pub struct StepOutput {
    /// `[1]`, on the device: reading it waits for the step.
    pub loss: Tensor<1>,
    /// Where the time went.
    pub times: StepTimes,
}

/// The gradients of a batch.
pub(crate) struct StepGradients {
    /// `[1]`
    pub(crate) loss: Tensor<1>,
    pub(crate) gathered: Gathered,
    /// With respect to each gathered leaf.
    pub(crate) leaves: Vec<Option<Tensor<2>>>,
    pub(crate) towers: GradientsParams,
    times: StepTimes,
}

impl Learner {
    /// Starts training `model`.
    pub fn new(model: TwoTower, config: &Config) -> Self {
        let rows = model.row_map().table_rows(model.shape.items);
        Self {
            optimiser: AdamW::new(config.train.weight_decay),
            clip_norm: config.train.clip_norm,
            temperature_bounds: config.loss.temperature_bounds,
            unique: Unique::new(rows),
            scratch: host::loss::Scratch::default(),
            model,
        }
    }

    /// One step on `batch` with the given learning rates; `seed` fixes the dropout of this step.
    ///
    /// # Errors
    /// [`duet_core::Error::Internal`] if the device can't be read.
    pub fn step(&mut self, batch: &Batch, rates: Rates, seed: u64) -> Result<StepOutput> {
        self.step_ahead(batch, None, rates, seed)
    }

    /// [`Learner::step`], and while the device computes it the rows of the `next` batch are copied out of tables in host memory.
    /// The results are the same bits: rows that this step moves are copied again.
    ///
    /// # Errors
    /// As [`Learner::step`].
    pub fn step_ahead(&mut self, batch: &Batch, next: Option<&Batch>, rates: Rates, seed: u64) -> Result<StepOutput> {
        let StepGradients { loss, gathered, leaves, towers, mut times } = self.gradients(batch, seed)?;
        let started = Instant::now();
        if let Some(next) = next {
            self.model.gather_ahead(next, &mut self.unique);
        }
        self.update_tables(&gathered, leaves, rates)?;
        // The module is moved through the optimiser; a clone of it shares every tensor.
        let clone = self.model.towers.clone();
        let updated = if self.model.device.choice == DeviceChoice::Cpu {
            let scale = clip_factor(&towers, &clone, self.clip_norm)?;
            self.optimiser.host_step(clone, towers, rates.towers, scale)
        } else {
            let towers = clip(towers, &clone, self.clip_norm);
            self.optimiser.step(clone, towers, rates.towers)
        };
        self.model.towers = updated.clamp_temperature(self.temperature_bounds);
        times.update = started.elapsed();
        Ok(StepOutput { loss, times })
    }

    /// Loss and gradients, nothing changed.
    pub(crate) fn gradients(&mut self, batch: &Batch, seed: u64) -> Result<StepGradients> {
        let started = Instant::now();
        let model = &self.model;
        model.device.device.seed(seed);
        let mut gathered = model.gather(Some(&batch.windows), Some(&batch.candidates), &mut self.unique);
        for leaf in &mut gathered.leaves {
            leaf.inplace(|leaf| Tensor::from_inner(leaf).require_grad());
        }
        if model.device.choice == DeviceChoice::Cpu {
            return host_gradients(model, batch, gathered, seed, &mut self.scratch, started);
        }
        let users = model.user_vectors(&model.towers, &gathered, &batch.windows);
        let items = model.item_vectors(&model.towers, &gathered, &batch.candidates);
        let forward = started.elapsed();

        let started = Instant::now();
        let loss = sampled_softmax(&users.clone().inner(), &items.clone().inner(), &batch.targets);
        let of_loss = started.elapsed();

        let started = Instant::now();
        let mut gradients = backward(vec![(users, loss.users), (items, loss.items)]);
        let leaves = gathered.leaves.iter().map(|leaf| leaf.grad_remove(&mut gradients)).collect();
        let towers = GradientsParams::from_grads(gradients, &model.towers);
        let times = StepTimes { forward, loss: of_loss, backward: started.elapsed(), update: Duration::ZERO };
        Ok(StepGradients { loss: loss.loss, gathered, leaves, towers, times })
    }

    /// Everything a checkpoint needs to go on as if never stopped: optimiser steps, and all arrays.
    ///
    /// # Errors
    /// [`duet_core::Error::Internal`] if the device can't be read.
    pub fn state(&self) -> Result<(i32, Vec<NamedTensor>)> {
        let (steps, moments) = self.optimiser.state()?;
        let mut tensors = self.model.state(true)?;
        tensors.extend(moments);
        Ok((steps, tensors))
    }

    /// Takes a saved state back.
    ///
    /// # Errors
    /// [`duet_core::Error::Input`] naming the array that is missing or of another shape.
    pub fn restore(&mut self, steps: i32, tensors: &BTreeMap<String, NamedTensor>) -> Result<()> {
        self.model.restore(tensors)?;
        self.optimiser.restore(steps, tensors, &self.model.device.device)
    }

    fn update_tables(&mut self, gathered: &Gathered, mut leaves: Vec<Option<Tensor<2>>>, rates: Rates) -> Result<()> {
        let host_device = self.model.device.is_host();
        // Gradients that have to come from the device are read together: one wait a step, not one a table.
        let mut apart: Vec<Tensor<1>> = Vec::new();
        let mut waiting = Vec::new();
        for (name, table) in self.model.tables.named_mut() {
            let Some(at) = gathered.rows.iter().position(|(gathered, _)| *gathered == name) else { continue };
            // No gradient: nothing of this table reached the loss (all ids dropped, say).
            let Some(gradient) = leaves[at].take() else { continue };
            let rate = if name.ends_with("features") { rates.features } else { rates.tables };
            let rows = &gathered.rows[at].1.rows;
            if host_device || !table.is_on_host() {
                table.update(rows, gradient, rate as f32);
            } else if !rows.is_empty() {
                apart.push(gradient.reshape([rows.len() * table.dim()]));
                waiting.push((table, rows, rate as f32));
            }
        }
        if waiting.is_empty() {
            return Ok(());
        }
        let gradients = to_host(Tensor::cat(apart, 0))?;
        let mut rest = gradients.as_slice();
        for (table, rows, rate) in waiting {
            let (gradient, more) = rest.split_at(rows.len() * table.dim());
            table.update_by(rows, gradient, rate);
            rest = more;
        }
        Ok(())
    }
}

/// burn's backward pass from tensors whose gradients are known: through a scalar that has these gradients.
fn backward(ends: Vec<(Tensor<2>, Tensor<2>)>) -> Gradients {
    let sums = ends.into_iter().map(|(end, gradient)| (end * Tensor::from_inner(gradient)).sum());
    sums.reduce(|total, sum| total + sum).map_or_else(|| unreachable!("there are two towers"), |total| total.backward())
}

/// A table's gathered rows by hand: what they are, and their gradient.
#[derive(Default)]
struct HandLeaves(Vec<HandLeaf>);

struct HandLeaf {
    /// Position among the gathered leaves.
    at: usize,
    values: Vec<f32>,
    gradient: Vec<f32>,
}

impl HandLeaves {
    /// The leaf of a table, if it is there and `wanted`.
    fn get(&mut self, gathered: &Gathered, table: &str, wanted: bool) -> Result<Option<&mut HandLeaf>> {
        let Some(at) = gathered.position(table).filter(|_| wanted) else { return Ok(None) };
        let number = match self.0.iter().position(|leaf| leaf.at == at) {
            Some(number) => number,
            None => {
                let values = to_host(gathered.leaves[at].clone().inner())?;
                let gradient = vec![0.0; values.len()];
                self.0.push(HandLeaf { at, values, gradient });
                self.0.len() - 1
            }
        };
        Ok(Some(&mut self.0[number]))
    }
}

/// The items' sums: rows that are kept, and features.
fn kept_rows(rows: &[f32], candidates: &Candidates, dim: usize) -> Vec<f32> {
    let mut sums = rows[..candidates.items.len() * dim].to_vec();
    for (row, &keep) in sums.chunks_exact_mut(dim).zip(&candidates.keep_id) {
        if !keep {
            row.fill(0.0);
        }
    }
    sums
}

/// On the CPU encoders, heads and loss, nearly all of a step's arithmetic, are computed by hand; burn does what is left.
fn host_gradients(
    model: &TwoTower,
    batch: &Batch,
    gathered: Gathered,
    seed: u64,
    scratch: &mut host::loss::Scratch,
    started: Instant,
) -> Result<StepGradients> {
    let device = &model.device.device;
    let dim = model.config.dim;
    let Batch { windows, candidates, targets } = batch;
    let [user_head, item_head] = model.towers.host_heads(dim, Some(seed))?;
    let tensor = |values: Vec<f32>, width: usize| {
        let shape = [values.len() / width, width];
        Tensor::<2>::from_data(TensorData::new(values, shape), device)
    };
    // Hashed rows are summed, and summed gradients spread, by burn.
    let is_plain = model.row_map() == RowMap::Identity;
    let mut by_hand = HandLeaves::default();

    let mut items_by_hand = false;
    let (items_in, items_end) = match by_hand.get(&gathered, "items", is_plain)? {
        Some(leaf) => {
            items_by_hand = true;
            let mut sums = kept_rows(&leaf.values, candidates, dim);
            let features = model.item_feature_sums(&model.towers, &gathered, candidates);
            if let Some(features) = &features {
                host::pool::add(&mut sums, &to_host(features.clone().inner())?);
            }
            (sums, features)
        }
        None => {
            let sums = model.item_sums(&model.towers, &gathered, candidates);
            (to_host(sums.clone().inner())?, Some(sums))
        }
    };
    let table = model.history_table();
    let known = model.known(&model.towers, &gathered, windows);
    let sums = model.towers.host_sums(&model.config, windows.slots, Some(seed))?;
    let known_in = to_host(known.clone().inner())?;
    let (output, history_end) = match by_hand.get(&gathered, table, is_plain)? {
        Some(leaf) => (sums.forward(&leaf.values, &known_in, windows), None),
        None => {
            let history = model.history(&gathered);
            let values = history.clone().map_or_else(|| Ok(Vec::new()), |history| to_host(history.inner()))?;
            (sums.forward(&values, &known_in, windows), history)
        }
    };
    let users_in = &output.sums;
    let (users, items) = rayon::join(|| user_head.forward(users_in), || item_head.forward(&items_in));
    let forward = started.elapsed();

    let started = Instant::now();
    let biases = match gathered.position("bias") {
        Some(at) => to_host(gathered.leaves[at].clone().inner())?,
        None => Vec::new(),
    };
    let loss = host::loss::sampled_softmax(&users.vectors, &items.vectors, &biases, dim, targets, scratch);
    let of_loss = started.elapsed();

    let started = Instant::now();
    let (mut users, mut items) = rayon::join(
        || user_head.backward(users_in, &users, &loss.users),
        || item_head.backward(&items_in, &items, &loss.items),
    );
    let mut found = sums.backward(&output, windows, &users.input);
    let mut ends = vec![(known, tensor(std::mem::take(&mut found.known), dim))];
    match history_end {
        Some(history) => ends.push((history, tensor(std::mem::take(&mut found.history), dim))),
        None => {
            if let Some(leaf) = by_hand.get(&gathered, table, true)? {
                leaf.gradient = std::mem::take(&mut found.history);
            }
        }
    }
    if let Some(leaf) = by_hand.get(&gathered, "items", items_by_hand)? {
        host::pool::add(&mut leaf.gradient, &kept_rows(&items.input, candidates, dim));
    }
    if let Some(end) = items_end {
        ends.push((end, tensor(std::mem::take(&mut items.input), dim)));
    }
    let mut gradients = backward(ends);
    let mut leaves: Vec<Option<Tensor<2>>> =
        gathered.leaves.iter().map(|leaf| leaf.grad_remove(&mut gradients)).collect();
    for HandLeaf { at, gradient, .. } in by_hand.0 {
        leaves[at] = Some(tensor(gradient, dim));
    }
    if let Some(at) = gathered.position("bias") {
        leaves[at] = Some(tensor(loss.biases, 1));
    }
    let mut towers = GradientsParams::from_grads(gradients, &model.towers);
    model.towers.register_heads(&mut users, &mut items, &mut towers);
    model.towers.register_sums(&mut found, &mut towers);
    let loss = tensor(vec![loss.loss], 1).reshape([1]);
    let times = StepTimes { forward, loss: of_loss, backward: started.elapsed(), update: Duration::ZERO };
    Ok(StepGradients { loss, gathered, leaves, towers, times })
}

/// Scales all gradients by `min(1, max_norm / norm)` (Pascanu et al., 2013), without reading the norm back.
fn clip(gradients: GradientsParams, towers: &Towers, max_norm: f64) -> GradientsParams {
    if max_norm == 0.0 {
        return gradients;
    }
    let mut squares = SumOfSquares { gradients: &gradients, total: None };
    towers.visit(&mut squares);
    let Some(total) = squares.total else { return gradients };
    let factor = total.sqrt().add_scalar(1e-6).recip().mul_scalar(max_norm).clamp_max(1.0); // [1]
    let mut scale = Scale { gradients, factor };
    towers.visit(&mut scale);
    scale.gradients
}

/// The factor of [`clip`], read from host memory.
fn clip_factor(gradients: &GradientsParams, towers: &Towers, max_norm: f64) -> Result<f32> {
    if max_norm == 0.0 {
        return Ok(1.0);
    }
    let mut squares = HostSquares { gradients, total: Ok(0.0) };
    towers.visit(&mut squares);
    Ok((max_norm as f32 / (squares.total?.sqrt() + 1e-6)).min(1.0))
}

struct HostSquares<'a> {
    gradients: &'a GradientsParams,
    total: Result<f32>,
}

impl ModuleVisitor for HostSquares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let Some(gradient) = self.gradients.get::<D>(param.id) else { return };
        let square = to_host(gradient).map(|values| sum_of_squares(&values));
        match (&mut self.total, square) {
            (Ok(total), Ok(square)) => *total += square,
            (Ok(_), Err(error)) => self.total = Err(error),
            (Err(_), _) => {}
        }
    }
}

struct SumOfSquares<'a> {
    gradients: &'a GradientsParams,
    total: Option<Tensor<1>>,
}

impl ModuleVisitor for SumOfSquares<'_> {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.get::<D>(param.id) {
            let square = gradient.square().sum();
            self.total = Some(match self.total.take() {
                Some(total) => total + square,
                None => square,
            });
        }
    }
}

struct Scale {
    gradients: GradientsParams,
    factor: Tensor<1>,
}

impl ModuleVisitor for Scale {
    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        if let Some(gradient) = self.gradients.remove::<D>(param.id) {
            let factor = self.factor.clone().reshape([1; D]);
            self.gradients.register(param.id, gradient * factor);
        }
    }
}
