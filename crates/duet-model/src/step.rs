//! One training step: gather, forward, loss, backward, update.

use std::{
    collections::BTreeMap,
    time::{Duration, Instant},
};

use burn::{
    module::{Module, ModuleVisitor, Param},
    optim::GradientsParams,
    tensor::Tensor,
};
use duet_core::{Result, config::Config};

use crate::{
    adamw::AdamW,
    batch::Batch,
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
}

/// Seconds spent in the parts of a step. On a GPU the parts overlap with the host and only their sum means much.
#[derive(Debug, Clone, Copy, Default)]
pub struct StepTimes {
    /// Gather and both towers.
    pub forward: Duration,
    /// Loss and gradients.
    pub backward: Duration,
    /// Towers' and tables' updates.
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
pub(crate) struct Gradients {
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
            model,
        }
    }

    /// One step on `batch` with the given learning rates; `seed` fixes the dropout of this step.
    ///
    /// # Errors
    /// [`duet_core::Error::Internal`] if the device can't be read.
    pub fn step(&mut self, batch: &Batch, rates: Rates, seed: u64) -> Result<StepOutput> {
        let Gradients { loss, gathered, leaves, towers, mut times } = self.gradients(batch, seed)?;
        let started = Instant::now();
        self.update_tables(&gathered, leaves, rates);
        let towers = clip(towers, &self.model.towers, self.clip_norm);
        // The module is moved through the optimiser; a clone of it shares every tensor.
        let updated = self.optimiser.step(self.model.towers.clone(), towers, rates.towers);
        self.model.towers = updated.clamp_temperature(self.temperature_bounds);
        times.update = started.elapsed();
        Ok(StepOutput { loss, times })
    }

    /// Loss and gradients, nothing changed.
    pub(crate) fn gradients(&mut self, batch: &Batch, seed: u64) -> Result<Gradients> {
        let started = Instant::now();
        let model = &self.model;
        model.device.device.seed(seed);
        let mut gathered = model.gather(Some(&batch.windows), Some(&batch.candidates), &mut self.unique);
        for leaf in &mut gathered.leaves {
            leaf.inplace(|leaf| Tensor::from_inner(leaf).require_grad());
        }
        let users = model.user_vectors(&model.towers, &gathered, &batch.windows);
        let items = model.item_vectors(&model.towers, &gathered, &batch.candidates);
        let forward = started.elapsed();

        let started = Instant::now();
        let loss =
            sampled_softmax(&users.clone().inner(), &items.clone().inner(), &batch.targets, model.device.is_host())?;
        // A scalar whose gradient with respect to both vectors is the one computed above.
        let surrogate = (users * Tensor::from_inner(loss.users)).sum() + (items * Tensor::from_inner(loss.items)).sum();
        let mut gradients = surrogate.backward();
        let leaves = gathered.leaves.iter().map(|leaf| leaf.grad_remove(&mut gradients)).collect();
        let towers = GradientsParams::from_grads(gradients, &model.towers);
        let times = StepTimes { forward, backward: started.elapsed(), update: Duration::ZERO };
        Ok(Gradients { loss: loss.loss, gathered, leaves, towers, times })
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

    fn update_tables(&mut self, gathered: &Gathered, mut leaves: Vec<Option<Tensor<2>>>, rates: Rates) {
        for (name, table) in self.model.tables.named_mut() {
            let Some(at) = gathered.rows.iter().position(|(gathered, _)| *gathered == name) else { continue };
            // No gradient: nothing of this table reached the loss (all ids dropped, say).
            if let Some(gradient) = leaves[at].take() {
                let rate = if name.ends_with("features") { rates.features } else { rates.tables };
                table.update(&gathered.rows[at].1.rows, gradient, rate as f32);
            }
        }
    }
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
