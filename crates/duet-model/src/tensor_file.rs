//! Named f32 arrays in a safetensors file: what checkpoints and bundles keep of a model.

use std::{collections::BTreeMap, path::Path};

use duet_core::{Error, Result};
use safetensors::{Dtype, SafeTensors, tensor::TensorView};

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
    let bytes: Vec<Vec<u8>> =
        tensors.iter().map(|tensor| tensor.values.iter().flat_map(|value| value.to_le_bytes()).collect()).collect();
    let mut views = Vec::with_capacity(tensors.len());
    for (tensor, bytes) in tensors.iter().zip(&bytes) {
        let view = TensorView::new(Dtype::F32, tensor.shape.clone(), bytes)
            .map_err(|error| Error::Internal(format!("{}: {error}", tensor.name)))?;
        views.push((tensor.name.as_str(), view));
    }
    safetensors::serialize_to_file(views, None, path).map_err(|error| match error {
        safetensors::SafeTensorError::IoError(source) => Error::Io { path: path.to_path_buf(), source },
        other => Error::Internal(format!("{}: {other}", path.display())),
    })
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
        let values: Vec<f32> = quads.iter().map(|quad| f32::from_le_bytes(*quad)).collect();
        if let Some(at) = values.iter().position(|value| !value.is_finite()) {
            return Err(Error::data(path, format!("tensor {name:?} is not finite at element {at}")));
        }
        tensors.insert(name.to_owned(), NamedTensor { name: name.to_owned(), shape: view.shape().to_vec(), values });
    }
    Ok(tensors)
}
