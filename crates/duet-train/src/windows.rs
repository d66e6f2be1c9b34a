//! Users' items to the model's [`Windows`]: tokens, pooling weights, queries. The same code makes training batches and
//! inference inputs, so that the two can't drift apart.

use duet_core::{
    ItemIdx,
    config::{Config, DataConfig, ModelConfig},
    encoding::EncodedTable,
};
use duet_model::{
    batch::{Windows, length_bucket},
    feature_bags::FeatureRows,
    unique::Unique,
};

/// One window to be added.
#[derive(Debug)]
pub struct Window<'a> {
    /// Row of the encoded user features.
    pub user: u32,
    /// Row of the model's user table, where it has one.
    pub user_row: u32,
    /// Items, in time order.
    pub items: &'a [ItemIdx],
    /// Weight of each item before decay; 0 drops it.
    pub weights: &'a [f32],
    /// Items the user had before the window.
    pub before: usize,
}

#[derive(Debug)]
struct Drawn {
    user: u32,
    user_row: u32,
    tokens: Vec<u32>,
    weights: Vec<f32>,
    before: usize,
}

/// Collects windows and queries; [`WindowsBuilder::finish`] pads them.
#[derive(Debug)]
pub struct WindowsBuilder<'a> {
    config: &'a Config,
    windows: Vec<Drawn>,
    /// Prefixes asked for, by window.
    queries: Vec<Vec<usize>>,
}

impl<'a> WindowsBuilder<'a> {
    /// An empty batch of windows.
    pub fn new(config: &'a Config) -> Self {
        Self { config, windows: Vec::new(), queries: Vec::new() }
    }

    /// Adds a window and the prefixes that are asked for, ascending. `number` turns an item into its index in the history
    /// list.
    pub fn push(&mut self, window: &Window<'_>, prefixes: Vec<usize>, mut number: impl FnMut(u32) -> u32) {
        let tokens = window
            .items
            .iter()
            .zip(window.weights)
            .map(|(item, &weight)| if weight > 0.0 { number(item.0) } else { DROPPED })
            .collect();
        self.windows.push(Drawn {
            user: window.user,
            user_row: window.user_row,
            tokens,
            weights: window.weights.to_vec(),
            before: window.before,
        });
        self.queries.push(prefixes);
    }

    /// Pads everything to the longest window and the most queries, and collects the users' features.
    pub fn finish(self, history: Vec<u32>, users: &EncodedTable, unique: &mut Unique) -> Windows {
        let Self { config, windows, queries } = self;
        let count = windows.len();
        let slots = windows.iter().map(|window| window.tokens.len()).max().unwrap_or(0).max(1);
        let most_queries = queries.iter().map(Vec::len).max().unwrap_or(0).max(1);
        let padding = history.len() as u32;
        let pools = needs_pool(&config.model);
        let mut out = Windows {
            count,
            slots,
            tokens: vec![padding; count * slots],
            queries: most_queries,
            pool: if pools { vec![0.0; count * most_queries * slots] } else { Vec::new() },
            ..Windows::default()
        };
        for (window, (Drawn { tokens, weights, before, .. }, prefixes)) in windows.iter().zip(&queries).enumerate() {
            for (slot, &token) in tokens.iter().enumerate() {
                if token != DROPPED {
                    out.tokens[window * slots + slot] = token;
                }
            }
            for (query, &prefix) in prefixes.iter().enumerate() {
                let row = window * most_queries + query;
                out.rows.push(row as u32);
                out.row_windows.push(window as u32);
                out.row_prefixes.push(prefix as u32);
                out.row_lengths.push(length_bucket(before + prefix));
                if pools {
                    let pool = &mut out.pool[row * slots..row * slots + prefix];
                    pool_weights(&weights[..prefix], &config.model, pool);
                }
            }
        }
        out.users = FeatureRows::collect(users, windows.iter().map(|window| window.user), unique);
        out.user_rows = windows.iter().map(|window| window.user_row).collect();
        out.history = history;
        out
    }
}

/// A token that stands for a dropped item until padding is known.
const DROPPED: u32 = u32::MAX;

fn needs_pool(model: &ModelConfig) -> bool {
    model.encoder != duet_core::config::Encoder::Transformer || model.add_mean
}

/// `w_j 2^(-(n - 1 - j) / half_life)`, divided by the power of their sum.
fn pool_weights(weights: &[f32], model: &ModelConfig, out: &mut [f32]) {
    let last = weights.len().saturating_sub(1);
    for (place, (out, weight)) in out.iter_mut().zip(weights).enumerate() {
        let decay = if model.half_life > 0.0 { (-((last - place) as f64) / model.half_life).exp2() } else { 1.0 };
        *out = weight * decay as f32;
    }
    let total: f32 = out.iter().sum();
    if total > 0.0 {
        let norm = total.powf(model.pooling_power as f32).recip();
        for out in out {
            *out *= norm;
        }
    }
}

/// What an event weighs in the history, before decay and dropout.
pub fn history_weight(data: &DataConfig, event_weight: Option<f32>) -> f32 {
    match event_weight {
        Some(weight) if data.use_event_weights => weight.ln_1p().max(f32::MIN_POSITIVE),
        _ => 1.0,
    }
}
