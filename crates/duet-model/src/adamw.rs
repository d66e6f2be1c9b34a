//! AdamW (Loshchilov and Hutter, 2019) for the towers.
//!
//! burn has one, but it restores its state onto burn's *default* device, which on a machine without a GPU driver is a panic, and
//! keys it by ids that are random for each process. This one keeps its state by parameter path, on the towers' own device,
//! and decays weight matrices only. A test holds it to burn's numbers.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, Param},
    optim::GradientsParams,
    tensor::{Device, Tensor, TensorData},
};
use duet_core::{Error, Result};

use crate::{embedding::to_host, model::Towers, tensor_file::NamedTensor};

const BETA_1: f32 = 0.9;
const BETA_2: f32 = 0.98;
const EPSILON: f32 = 1e-8;

/// The optimiser's state: both moments of every parameter, flattened, by path.
#[derive(Debug, Default)]
pub struct AdamW {
    weight_decay: f64,
    steps: i32,
    moments: BTreeMap<String, Moments>,
}

#[derive(Debug, Clone)]
struct Moments {
    first: Tensor<1>,
    second: Tensor<1>,
}

impl AdamW {
    /// With the given decoupled weight decay.
    pub fn new(weight_decay: f64) -> Self {
        Self { weight_decay, ..Self::default() }
    }

    /// One step; parameters without a gradient stay as they are.
    pub fn step(&mut self, towers: Towers, gradients: GradientsParams, rate: f64) -> Towers {
        self.steps += 1;
        towers.map(&mut Step { optimiser: self, gradients, rate, host: None, path: Vec::new() })
    }

    /// [`AdamW::step`] for towers in host memory: one pass over each parameter. `scale` multiplies the gradients.
    pub(crate) fn host_step(&mut self, towers: Towers, gradients: GradientsParams, rate: f64, scale: f32) -> Towers {
        self.steps += 1;
        towers.map(&mut Step { optimiser: self, gradients, rate, host: Some(scale), path: Vec::new() })
    }

    /// Both moments of every parameter, named `adamw.first.PATH` and `adamw.second.PATH`.
    ///
    /// # Errors
    /// [`Error::Internal`] if the device can't be read.
    pub fn state(&self) -> Result<(i32, Vec<NamedTensor>)> {
        let mut tensors = Vec::with_capacity(2 * self.moments.len());
        for (path, moments) in &self.moments {
            for (name, moment) in [("first", &moments.first), ("second", &moments.second)] {
                let values = to_host(moment.clone())?;
                tensors.push(NamedTensor { name: format!("adamw.{name}.{path}"), shape: vec![values.len()], values });
            }
        }
        Ok((self.steps, tensors))
    }

    /// Takes a saved state back.
    ///
    /// # Errors
    /// [`Error::Input`] if a moment lacks its twin.
    pub fn restore(&mut self, steps: i32, tensors: &BTreeMap<String, NamedTensor>, device: &Device) -> Result<()> {
        self.steps = steps;
        self.moments.clear();
        for (name, first) in tensors {
            let Some(path) = name.strip_prefix("adamw.first.") else { continue };
            let second = tensors
                .get(&format!("adamw.second.{path}"))
                .ok_or_else(|| Error::input(format!("optimiser state: {path} has a first moment and no second")))?;
            let tensor = |moment: &NamedTensor| {
                Tensor::from_data(TensorData::new(moment.values.clone(), [moment.values.len()]), device)
            };
            self.moments.insert(path.to_owned(), Moments { first: tensor(first), second: tensor(second) });
        }
        Ok(())
    }
}

struct Step<'a> {
    optimiser: &'a mut AdamW,
    gradients: GradientsParams,
    rate: f64,
    /// What gradients are multiplied by, where everything is in host memory.
    host: Option<f32>,
    path: Vec<String>,
}

/// A parameter with its moments, in host memory.
struct HostParameter {
    weights: Vec<f32>,
    first: Vec<f32>,
    second: Vec<f32>,
    gradient: Vec<f32>,
}

impl HostParameter {
    /// `keep`: what weight decay leaves; `biases`: of both moments.
    fn step(&mut self, scale: f32, rate: f32, keep: f32, biases: [f32; 2]) {
        let moments = self.first.iter_mut().zip(&mut self.second);
        for ((weight, gradient), (first, second)) in self.weights.iter_mut().zip(&self.gradient).zip(moments) {
            let gradient = gradient * scale;
            *first = *first * BETA_1 + gradient * (1.0 - BETA_1);
            *second = *second * BETA_2 + gradient * gradient * (1.0 - BETA_2);
            let denominator = (*second / biases[1]).sqrt() + EPSILON;
            *weight = *weight * keep - *first / biases[0] / denominator * rate;
        }
    }
}

impl ModuleMapper for Step<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let Some(gradient) = self.gradients.remove::<D>(param.id) else { return param };
        let AdamW { weight_decay, steps, moments } = &mut *self.optimiser;
        let shape = gradient.shape();
        let gradient = gradient.reshape([shape.num_elements()]);
        let moments = moments
            .entry(self.path.join("."))
            .or_insert_with(|| Moments { first: gradient.zeros_like(), second: gradient.zeros_like() });
        let first_bias = 1.0 - BETA_1.powi(*steps);
        let second_bias = 1.0 - BETA_2.powi(*steps);
        let keep = (1.0 - if D > 1 { self.rate * *weight_decay } else { 0.0 }) as f32;
        if let Some(scale) = self.host {
            let device = gradient.device();
            let tensor = |values: Vec<f32>| {
                let count = values.len();
                Tensor::<1>::from_data(TensorData::new(values, [count]), &device)
            };
            let read = |weights: Tensor<D>| -> Result<HostParameter> {
                Ok(HostParameter {
                    weights: to_host(weights)?,
                    first: to_host(moments.first.clone())?,
                    second: to_host(moments.second.clone())?,
                    gradient: to_host(gradient.clone())?,
                })
            };
            // Host memory can always be read; if not, the tensors below know as much.
            if let Ok(mut parameter) = read(param.val().inner()) {
                parameter.step(scale, self.rate as f32, keep, [first_bias, second_bias]);
                moments.first = tensor(parameter.first);
                moments.second = tensor(parameter.second);
                let weights = tensor(parameter.weights).reshape(shape);
                return param.map(|_| Tensor::from_inner(weights).require_grad());
            }
        }
        moments.first.inplace(|first| first * BETA_1 + gradient.clone() * (1.0 - BETA_1));
        moments.second.inplace(|second| second * BETA_2 + gradient.square() * (1.0 - BETA_2));
        let denominator = (moments.second.clone() / second_bias).sqrt() + EPSILON;
        let update = (moments.first.clone() / first_bias / denominator * self.rate as f32).reshape(shape);
        param.map(|tensor| Tensor::from_inner(tensor.inner() * keep - update).require_grad())
    }
}
