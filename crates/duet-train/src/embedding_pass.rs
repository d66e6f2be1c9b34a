//! A trained model to vectors: of every item, and of users from their histories and features.

use std::ops::Deref;

use duet_core::{ItemIdx, Result, config::Config, encoding::EncodedTable};
use duet_data::dataset::Timeline;
use duet_model::{batch::Candidates, feature_bags::FeatureRows, inference::Embedder, model::TwoTower, unique::Unique};
use duet_retrieval::vectors::Vectors;

use crate::windows::{Window, WindowsBuilder, history_weight};

/// Items embedded at a time.
const ITEM_TILE: usize = 8192;
/// Users embedded at a time: their windows are padded to the longest.
const USER_TILE: usize = 256;

/// A user to be embedded.
#[derive(Debug, Clone, Copy)]
pub struct UserInput<'a> {
    /// Row of the encoded features.
    pub features: u32,
    /// Row of the model's user table: the user's own, if the user has training events.
    pub trained_row: Option<u32>,
    /// The whole history, in time order, or its end.
    pub items: &'a [ItemIdx],
    /// Event weights, or empty.
    pub weights: &'a [f32],
    /// Events of the history before `items`.
    pub before: usize,
}

/// The inputs of every user of a timeline.
pub fn timeline_users(timeline: &Timeline) -> impl ExactSizeIterator<Item = UserInput<'_>> {
    (0..timeline.offsets.len() - 1).map(|user| {
        let range = timeline.offsets[user]..timeline.offsets[user + 1];
        UserInput {
            features: user as u32,
            trained_row: (!range.is_empty()).then_some(user as u32),
            items: &timeline.items[range.clone()],
            weights: timeline.weights.get(range).unwrap_or(&[]),
            before: 0,
        }
    })
}

/// Item vectors: `[items, vector_width]`.
///
/// `counts`: training events of each item (an item without any has no id embedding); `shift`: added to the item's bias.
///
/// # Errors
/// [`duet_core::Error::Internal`] if the device can't be read.
pub fn embed_items(model: &TwoTower, features: &EncodedTable, counts: &[u32], shift: &[f32]) -> Result<Vectors> {
    let mut embedder = Embedder::new(model);
    let mut unique = Unique::new(model.shape.item_vocabulary.max(1));
    let width = model.vector_width();
    let mut data = Vec::with_capacity(counts.len() * width);
    for start in (0..counts.len()).step_by(ITEM_TILE) {
        let rows = start as u32..(start + ITEM_TILE).min(counts.len()) as u32;
        let candidates = Candidates {
            items: rows.clone().collect(),
            keep_id: rows.clone().map(|item| counts[item as usize] > 0).collect(),
            features: FeatureRows::collect(features, rows, &mut unique),
        };
        data.extend(embedder.items(&candidates)?);
    }
    if model.config.bias {
        for (vector, shift) in data.chunks_exact_mut(width).zip(shift) {
            vector[width - 1] += shift;
        }
    }
    Vectors::new(width, data)
}

/// Users to vectors, a call at a time: what exports a run's users and what answers a listener who just came. A call costs what its
/// users hold, not what the tables do.
#[derive(Debug)]
pub struct UserEmbedder<M> {
    embedder: Embedder<M>,
    feature_numbers: Unique,
    history: Unique,
    /// The row of the user table that stands for everyone without training events.
    nobody: u32,
    width: usize,
}

impl<M: Deref<Target = TwoTower> + Clone> UserEmbedder<M> {
    /// Prepares a model.
    pub fn new(model: M) -> Self {
        let shape = model.shape;
        Self {
            embedder: Embedder::new(model.clone()),
            feature_numbers: Unique::new(shape.user_vocabulary.max(1)),
            history: Unique::new(shape.items),
            nobody: shape.users as u32,
            width: model.vector_width(),
        }
    }

    /// Components of a vector.
    pub fn width(&self) -> usize {
        self.width
    }

    /// One vector a user, row-major, from the last `data.window` items of each and the features. Windows are padded to the longest.
    ///
    /// # Errors
    /// [`duet_core::Error::Internal`] if the device can't be read.
    pub fn embed<'a>(
        &mut self,
        config: &Config,
        features: &EncodedTable,
        users: impl IntoIterator<Item = UserInput<'a>>,
    ) -> Result<Vec<f32>> {
        self.history.clear();
        let mut builder = WindowsBuilder::new(config);
        for user in users {
            let start = user.items.len().saturating_sub(config.data.window);
            let weights: Vec<f32> = (start..user.items.len())
                .map(|event| history_weight(&config.data, user.weights.get(event).copied()))
                .collect();
            let items = &user.items[start..];
            let user_row = user.trained_row.unwrap_or(self.nobody);
            let before = user.before + start;
            let window = Window { user: user.features, user_row, items, weights: &weights, before };
            builder.push(&window, vec![items.len()], |item| self.history.index(item));
        }
        let windows = builder.finish(self.history.ids().to_vec(), features, &mut self.feature_numbers);
        self.embedder.users(&windows)
    }
}

/// User vectors: `[users, vector_width]`, as [`UserEmbedder::embed`] gives them.
///
/// # Errors
/// [`duet_core::Error::Internal`] if the device can't be read.
pub fn embed_users<'a>(
    model: &TwoTower,
    config: &Config,
    features: &EncodedTable,
    users: impl ExactSizeIterator<Item = UserInput<'a>>,
) -> Result<Vectors> {
    let mut embedder = UserEmbedder::new(model);
    let mut data = Vec::with_capacity(users.len() * embedder.width());
    let mut users = users.peekable();
    while users.peek().is_some() {
        data.extend(embedder.embed(config, features, users.by_ref().take(USER_TILE))?);
    }
    Vectors::new(embedder.width(), data)
}
