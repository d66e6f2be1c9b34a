//! A model's parameters as named arrays, and back.

use std::collections::BTreeMap;

use burn::{
    module::{Module, ModuleMapper, ModuleVisitor, Param},
    tensor::{Tensor, TensorData},
};
use duet_core::{Error, Result};

use crate::{
    embedding::{TableState, to_host},
    model::TwoTower,
    tensor_file::NamedTensor,
};

impl TwoTower {
    /// All parameters: `towers.PATH`, `tables.NAME.weights` and, with `optimiser_state`, `tables.NAME.accumulators`.
    ///
    /// # Errors
    /// [`Error::Internal`] if the device can't be read.
    pub fn state(&self, optimiser_state: bool) -> Result<Vec<NamedTensor>> {
        let mut reader = Reader { tensors: Vec::new(), path: Vec::new(), failure: None };
        self.towers.visit(&mut reader);
        if let Some(error) = reader.failure {
            return Err(error);
        }
        let mut tensors = reader.tensors;
        for (name, table) in self.tables.named() {
            let state = table.state()?;
            tensors.push(NamedTensor {
                name: format!("tables.{name}.weights"),
                shape: vec![table.rows(), table.dim()],
                values: state.weights,
            });
            if optimiser_state {
                tensors.push(NamedTensor {
                    name: format!("tables.{name}.accumulators"),
                    shape: vec![table.rows()],
                    values: state.accumulators,
                });
            }
        }
        Ok(tensors)
    }

    /// Takes parameters back. Accumulators that are absent start at zero.
    ///
    /// # Errors
    /// [`Error::Input`] naming the array that is missing or of another shape: the file belongs to another model.
    pub fn restore(&mut self, tensors: &BTreeMap<String, NamedTensor>) -> Result<()> {
        let mut writer = Writer { tensors, path: Vec::new(), failure: None };
        let towers = self.towers.clone().map(&mut writer);
        if let Some(error) = writer.failure {
            return Err(error);
        }
        self.towers = towers;
        let device = self.device.device.clone();
        for (name, table) in self.tables.named_mut() {
            let weights = find(tensors, &format!("tables.{name}.weights"), &[table.rows(), table.dim()])?;
            let accumulators = tensors
                .get(&format!("tables.{name}.accumulators"))
                .map_or_else(|| vec![0.0; table.rows()], |tensor| tensor.values.clone());
            table.set(TableState { weights: weights.values.clone(), accumulators, dim: table.dim() }, &device)?;
        }
        Ok(())
    }
}

fn find<'a>(tensors: &'a BTreeMap<String, NamedTensor>, name: &str, shape: &[usize]) -> Result<&'a NamedTensor> {
    let tensor = tensors
        .get(name)
        .ok_or_else(|| Error::input(format!("the weights hold no {name:?}: they belong to another model")))?;
    if tensor.shape != shape {
        return Err(Error::input(format!(
            "{name:?} has shape {:?} in the weights, the model needs {shape:?}: they belong to another model or dataset",
            tensor.shape
        )));
    }
    Ok(tensor)
}

struct Reader {
    tensors: Vec<NamedTensor>,
    path: Vec<String>,
    failure: Option<Error>,
}

impl ModuleVisitor for Reader {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn visit_float<const D: usize>(&mut self, param: &Param<Tensor<D>>) {
        let tensor = param.val().inner();
        let shape = tensor.dims().to_vec();
        match to_host(tensor) {
            Ok(values) => {
                self.tensors.push(NamedTensor { name: format!("towers.{}", self.path.join(".")), shape, values });
            }
            Err(error) => self.failure = Some(error),
        }
    }
}

struct Writer<'a> {
    tensors: &'a BTreeMap<String, NamedTensor>,
    path: Vec<String>,
    failure: Option<Error>,
}

impl ModuleMapper for Writer<'_> {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let shape = param.val().dims();
        match find(self.tensors, &format!("towers.{}", self.path.join(".")), &shape) {
            Ok(tensor) => param.map(|old| {
                let device = old.device().inner();
                let new = Tensor::from_data(TensorData::new(tensor.values.clone(), shape), &device);
                Tensor::from_inner(new).require_grad()
            }),
            Err(error) => {
                self.failure = Some(error);
                param
            }
        }
    }
}
