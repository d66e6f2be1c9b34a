//! User and item vectors without autodiff, in tiles, read back to the host.

use std::ops::Deref;

use burn::module::Module;
use duet_core::Result;

use crate::{
    batch::{Candidates, Windows},
    device::DeviceChoice,
    embedding::to_host,
    host::{head::Head, users::UserSums},
    model::{Towers, TwoTower},
    unique::Unique,
};

/// A model ready to embed: the towers on the plain side of the device, dropout off.
///
/// `M` is a reference to the model, or a shared pointer where the embedder outlives its maker.
#[derive(Debug)]
pub struct Embedder<M> {
    model: M,
    towers: Towers,
    unique: Unique,
    /// Users' and items' heads, made at the first use; on the CPU alone.
    heads: Option<[Head; 2]>,
    /// What adds up users' sums, and the longest window it was made for; on the CPU alone.
    sums: Option<(usize, UserSums)>,
}

impl<M: Deref<Target = TwoTower>> Embedder<M> {
    /// Prepares a model for inference.
    pub fn new(model: M) -> Self {
        let rows = model.row_map().table_rows(model.shape.items);
        let towers = model.towers.valid();
        Self { model, towers, unique: Unique::new(rows), heads: None, sums: None }
    }

    /// Vectors of the used rows of `windows`, row-major, [`TwoTower::vector_width`] values each.
    ///
    /// # Errors
    /// [`duet_core::Error::Internal`] if the device can't be read.
    pub fn users(&mut self, windows: &Windows) -> Result<Vec<f32>> {
        let gathered = self.model.gather(Some(windows), None, &mut self.unique);
        if self.model.device.choice != DeviceChoice::Cpu {
            return to_host(self.model.user_vectors(&self.towers, &gathered, windows));
        }
        let known = to_host(self.model.known(&self.towers, &gathered, windows))?;
        let history = self.model.history(&gathered).map_or_else(|| Ok(Vec::new()), to_host)?;
        let sums = self.sums(windows.slots)?.forward(&history, &known, windows).sums;
        let vectors = self.heads()?[0].forward(&sums).vectors;
        Ok(self.widened(vectors, |_| 1.0))
    }

    /// Vectors of the candidates, row-major.
    ///
    /// # Errors
    /// [`duet_core::Error::Internal`] if the device can't be read.
    pub fn items(&mut self, candidates: &Candidates) -> Result<Vec<f32>> {
        let gathered = self.model.gather(None, Some(candidates), &mut self.unique);
        if self.model.device.choice != DeviceChoice::Cpu {
            return to_host(self.model.item_vectors(&self.towers, &gathered, candidates));
        }
        let sums = to_host(self.model.item_sums(&self.towers, &gathered, candidates))?;
        let vectors = self.heads()?[1].forward(&sums).vectors;
        let biases = match gathered.position("bias") {
            Some(at) => to_host(gathered.leaves[at].clone())?,
            None => Vec::new(),
        };
        Ok(self.widened(vectors, |item| biases[item]))
    }

    /// Made anew for a longer window than any before; shorter ones take what is there.
    fn sums(&mut self, slots: usize) -> Result<&UserSums> {
        let sums = match self.sums.take() {
            Some((longest, sums)) if longest >= slots => (longest, sums),
            _ => (slots, self.model.towers.host_sums(&self.model.config, slots, None)?),
        };
        Ok(&self.sums.insert(sums).1)
    }

    fn heads(&mut self) -> Result<&[Head; 2]> {
        let heads = match self.heads.take() {
            Some(heads) => heads,
            None => self.model.towers.host_heads(self.model.config.dim, None)?,
        };
        Ok(self.heads.insert(heads))
    }

    /// With a model that has biases, one more component in every vector.
    fn widened(&self, vectors: Vec<f32>, last: impl Fn(usize) -> f32) -> Vec<f32> {
        if !self.model.config.bias {
            return vectors;
        }
        let dim = self.model.config.dim;
        let mut out = Vec::with_capacity(vectors.len() / dim * (dim + 1));
        for (row, vector) in vectors.chunks_exact(dim).enumerate() {
            out.extend_from_slice(vector);
            out.push(last(row));
        }
        out
    }
}
