//! The least work of a step: floating-point operations and bytes of each phase, counted from the shape of a batch.
//!
//! A fused multiplication and addition counts as two operations. Bytes are those that must move once between memory and the processor
//! if every phase keeps what it can in the caches: inputs in, results out. Exponentials and the like are not counted.

use duet_core::config::{Config, Encoder};
use duet_model::batch::Batch;

use super::result::Phase;

const F32: f64 = 4.0;

/// The phases of a step on such a batch, in the order of [`super::workload::Times`]; no time yet.
pub(super) fn phases(config: &Config, batch: &Batch, tower_parameters: usize) -> [Phase; 4] {
    let model = &config.model;
    let (dim, hidden) = (model.dim as f64, model.hidden as f64);
    let (rows, columns) = (batch.rows() as f64, batch.candidates.items.len() as f64);
    let unique = batch.windows.history.len() as f64;
    let entities = rows + columns;
    let residual = 4.0 * entities * dim * hidden;
    let encoder = encoder(config, batch);
    let vectors = entities * dim * F32;
    let units = entities * hidden * F32;
    let gathered = unique * dim * F32;
    [
        Phase {
            name: "forward".to_owned(),
            flops: residual + encoder,
            // Rows out of the table and into the batch; sums in, vectors and hidden units out.
            bytes: 2.0 * gathered + 2.0 * vectors + units,
            ..Phase::default()
        },
        Phase {
            name: "loss".to_owned(),
            // Logits, and the two gradients.
            flops: 6.0 * rows * columns * dim,
            bytes: 2.0 * vectors,
            ..Phase::default()
        },
        Phase {
            name: "backward".to_owned(),
            flops: 2.0 * (residual + encoder),
            bytes: 4.0 * vectors + units + gathered,
            ..Phase::default()
        },
        Phase {
            name: "update".to_owned(),
            flops: 0.0,
            // Rows: gradient and row in, row out. AdamW: gradient, weight and two moments in, three of them out.
            bytes: 3.0 * gathered + 7.0 * tower_parameters as f64 * F32,
            ..Phase::default()
        },
    ]
}

/// Operations of the history encoder on the way forward.
fn encoder(config: &Config, batch: &Batch) -> f64 {
    let model = &config.model;
    let windows = &batch.windows;
    let (count, slots, queries) = (windows.count as f64, windows.slots as f64, windows.queries as f64);
    let dim = model.dim as f64;
    let pool = 2.0 * count * queries * slots * dim;
    match model.encoder {
        Encoder::Mean => pool,
        Encoder::Attention => pool + 2.0 * count * slots * dim * (dim + 1.0),
        Encoder::Transformer => {
            let length = slots + 1.0;
            let feed = model.feed_forward as f64;
            // Query, key, value and output; gate, value and output. A state attends to half of the others on average.
            let products = 2.0 * length * dim * (4.0 * dim + 3.0 * feed);
            let attention = 2.0 * length * length * dim;
            let blocks = model.layers as f64 * count * (products + attention);
            blocks + if model.add_mean { pool } else { 0.0 }
        }
    }
}
