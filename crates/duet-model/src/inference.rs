//! User and item vectors without autodiff, in tiles, read back to the host.

use burn::module::Module;
use duet_core::Result;

use crate::{
    batch::{Candidates, Windows},
    embedding::to_host,
    model::{Towers, TwoTower},
    unique::Unique,
};

/// A model ready to embed: the towers on the plain side of the device, dropout off.
#[derive(Debug)]
pub struct Embedder<'a> {
    model: &'a TwoTower,
    towers: Towers,
    unique: Unique,
}

impl<'a> Embedder<'a> {
    /// Prepares a model for inference.
    pub fn new(model: &'a TwoTower) -> Self {
        let rows = model.row_map().table_rows(model.shape.items);
        Self { model, towers: model.towers.valid(), unique: Unique::new(rows) }
    }

    /// Vectors of the used rows of `windows`, row-major, [`TwoTower::vector_width`] values each.
    ///
    /// # Errors
    /// [`duet_core::Error::Internal`] if the device can't be read.
    pub fn users(&mut self, windows: &Windows) -> Result<Vec<f32>> {
        let gathered = self.model.gather(Some(windows), None, &mut self.unique);
        to_host(self.model.user_vectors(&self.towers, &gathered, windows))
    }

    /// Vectors of the candidates, row-major.
    ///
    /// # Errors
    /// [`duet_core::Error::Internal`] if the device can't be read.
    pub fn items(&mut self, candidates: &Candidates) -> Result<Vec<f32>> {
        let gathered = self.model.gather(None, Some(candidates), &mut self.unique);
        to_host(self.model.item_vectors(&self.towers, &gathered, candidates))
    }
}
