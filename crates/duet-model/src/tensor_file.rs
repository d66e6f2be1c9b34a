//! Named f32 arrays in a safetensors file: what checkpoints and bundles keep of a model.

use std::{collections::BTreeMap, path::Path};

use duet_core::{Error, Result};
use rayon::prelude::*;
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

#[cfg(target_endian = "big")]
compile_error!("tensor files are written from memory as it lies, which must be little-endian");

/// Values that a task reads.
const TASK_VALUES: usize = 1 << 16;

/// An array with its name.
#[derive(Debug, Clone, PartialEq)]
pub struct NamedTensor {
    /// Path of the parameter.
    pub name: String,
    /// Dimensions.
    pub shape: Vec<usize>,
    /// Row-major.
    pub values: Vec<f32>,
}

/// Writes the arrays to `path`, which is inside a directory that is still being built (see [`duet_core::artifact`]).
///
/// # Errors
/// [`Error::Io`] with the path.
pub fn write(path: &Path, tensors: &[NamedTensor]) -> Result<()> {
    let mut views = Vec::with_capacity(tensors.len());
    for tensor in tensors {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytemuck::cast_slice(&tensor.values))
            .map_err(|error| Error::Internal(format!("{}: {error}", tensor.name)))?;
        views.push((tensor.name.as_str(), view));
    }
    // Not `serialize_to_file`: it writes through a temporary file that only its owner may read.
    let file =
        safetensors::serialize(views, None).map_err(|error| Error::Internal(format!("{}: {error}", path.display())))?;
    std::fs::write(path, file).map_err(Error::io(path))
}

/// Reads every array of a file, by name.
///
/// # Errors
/// [`Error::Io`] or [`Error::Data`] with the path.
pub fn read(path: &Path) -> Result<BTreeMap<String, NamedTensor>> {
    let bytes = std::fs::read(path).map_err(Error::io(path))?;
    let file =
        SafeTensors::deserialize(&bytes).map_err(|error| Error::data(path, format!("not a tensor file: {error}")))?;
    let mut tensors = BTreeMap::new();
    for (name, view) in file.iter() {
        if view.dtype() != Dtype::F32 {
            return Err(Error::data(path, format!("tensor {name:?} holds {:?}, expected F32", view.dtype())));
        }
        let (quads, _) = view.data().as_chunks::<4>();
        let values: Vec<f32> =
            quads.par_iter().with_min_len(TASK_VALUES).map(|quad| f32::from_le_bytes(*quad)).collect();
        let bad = values.par_iter().with_min_len(TASK_VALUES).position_first(|value| !value.is_finite());
        if let Some(at) = bad {
            return Err(Error::data(path, format!("tensor {name:?} is not finite at element {at}")));
        }
        tensors.insert(name.to_owned(), NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}
