//! The two-tower model: towers inside burn's autodiff, tables outside it.
//!
//! A plain dot product of a user's and an item's vector is the score: with normalisation the user vector carries the scale
//! (inverse temperature), with item biases both vectors have one more component, 1 and the bias.

use burn::{
    module::{Module, ModuleMapper, Param},
    nn::{Dropout, DropoutConfig},
    optim::GradientsParams,
    tensor::{Device, Tensor, TensorData},
};
use duet_core::{
    Result,
    config::{Encoder, LossConfig, ModelConfig},
};
use rand::{RngExt, SeedableRng};
use rand_pcg::Pcg64Mcg;

use crate::{
    batch::{Batch, Candidates, LENGTH_BUCKETS, Windows},
    device::OpenDevice,
    embedding::{EmbeddingTable, indices, to_host},
    encoder::{self, AttentionPool, Transformer, TransformerConfig},
    hashing::{RowMap, Rows},
    host::{
        head::{Head, HeadGradients, Mask},
        users::{UserGradients, UserSums},
    },
    placement,
    tower::{FeatureSum, Residual, l2_normalise},
    unique::Unique,
};

/// What the model must fit: sizes that come from the data, not from the configuration.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct DataShape {
    /// Rows of the users table.
    pub users: usize,
    /// Rows of the items table.
    pub items: usize,
    /// Ids of the users' feature slots; 0 without user features.
    pub user_vocabulary: usize,
    /// Dense values of a user.
    pub user_dense: usize,
    /// Ids of the items' feature slots; 0 without item features.
    pub item_vocabulary: usize,
    /// Dense values of an item.
    pub item_dense: usize,
}

/// The dense parameters: everything AdamW trains.
#[derive(Module, Debug)]
pub struct Towers {
    /// What is known of a user before anything else, `[1, dim]`.
    start: Param<Tensor<2>>,
    /// `[LENGTH_BUCKETS, dim]`
    length: Option<Param<Tensor<2>>>,
    attention: Option<AttentionPool>,
    transformer: Option<Transformer>,
    user_features: FeatureSum,
    item_features: FeatureSum,
    user_residual: Option<Residual>,
    item_residual: Option<Residual>,
    /// Logarithm of the scale (inverse temperature), `[1]`; only with normalisation.
    log_scale: Option<Param<Tensor<1>>>,
    #[module(skip)]
    learn_scale: bool,
    dropout: Dropout,
}

/// The embedding tables, by name. Everything the sparse optimiser trains.
#[derive(Debug)]
pub struct Tables {
    /// `[items, dim]`: items as candidates, and as history when the table is shared.
    pub items: Option<EmbeddingTable>,
    /// `[items, 1]`: learned popularity.
    pub bias: Option<EmbeddingTable>,
    /// `[items, dim]`: items as history; absent when the table is shared.
    pub history: Option<EmbeddingTable>,
    /// `[user_vocabulary, dim]`
    pub user_features: Option<EmbeddingTable>,
    /// `[item_vocabulary, dim]`
    pub item_features: Option<EmbeddingTable>,
    /// `[users + 1, dim]`; the last row stands for everyone without training events.
    pub users: Option<EmbeddingTable>,
}

impl Tables {
    /// Every table with its name in checkpoints.
    pub fn named(&self) -> Vec<(&'static str, &EmbeddingTable)> {
        let all = [
            ("items", &self.items),
            ("bias", &self.bias),
            ("history", &self.history),
            ("user_features", &self.user_features),
            ("item_features", &self.item_features),
            ("users", &self.users),
        ];
        all.into_iter().filter_map(|(name, table)| Some((name, table.as_ref()?))).collect()
    }

    /// The tables to be changed, with their names.
    pub fn named_mut(&mut self) -> Vec<(&'static str, &mut EmbeddingTable)> {
        let all = [
            ("items", &mut self.items),
            ("bias", &mut self.bias),
            ("history", &mut self.history),
            ("user_features", &mut self.user_features),
            ("item_features", &mut self.item_features),
            ("users", &mut self.users),
        ];
        all.into_iter().filter_map(|(name, table)| Some((name, table.as_mut()?))).collect()
    }

    /// Bytes of all tables with their optimiser state.
    pub fn bytes(&self) -> usize {
        self.named().iter().map(|(_, table)| table.bytes()).sum()
    }

    /// Names of the tables in host memory.
    pub fn on_host(&self) -> Vec<&'static str> {
        self.named().into_iter().filter(|(_, table)| table.is_on_host()).map(|(name, _)| name).collect()
    }
}

/// The whole model.
#[derive(Debug)]
pub struct TwoTower {
    /// How it is built.
    pub config: ModelConfig,
    /// What it was built for.
    pub shape: DataShape,
    /// Where it lives.
    pub device: OpenDevice,
    /// Dense parameters, on the autodiff side of the device.
    pub towers: Towers,
    /// Sparse parameters.
    pub tables: Tables,
}

/// Rows taken out of the tables for some windows or candidates, still to be combined.
#[derive(Debug, Default)]
pub(crate) struct Gathered {
    /// Which rows of which table, in the order of `leaves`.
    pub(crate) rows: Vec<(&'static str, Rows)>,
    /// `[rows, dim]` each.
    pub(crate) leaves: Vec<Tensor<2>>,
}

impl Gathered {
    pub(crate) fn position(&self, table: &str) -> Option<usize> {
        self.rows.iter().position(|(name, _)| *name == table)
    }

    /// One vector for each entry that was asked for, or nothing if the model has no such table.
    fn vectors(&self, table: &str, device: &Device) -> Option<Tensor<2>> {
        let at = self.position(table)?;
        Some(self.rows[at].1.combine(self.leaves[at].clone(), device))
    }
}

impl TwoTower {
    /// A freshly initialised model. The same seed gives the same parameters on every device.
    pub fn new(config: &ModelConfig, loss: &LossConfig, shape: DataShape, device: &OpenDevice, seed: u64) -> Self {
        Self::build(config, loss, shape, device, Some(seed))
    }

    /// A model whose parameters are still to be [restored](TwoTower::restore). Nothing is drawn: of a million items that alone takes
    /// longer than reading them.
    pub fn unset(config: &ModelConfig, loss: &LossConfig, shape: DataShape, device: &OpenDevice) -> Self {
        Self::build(config, loss, shape, device, None)
    }

    fn build(
        config: &ModelConfig,
        loss: &LossConfig,
        shape: DataShape,
        device: &OpenDevice,
        seed: Option<u64>,
    ) -> Self {
        let autodiff = device.device.clone().autodiff();
        let towers = Towers::new(config, loss, &shape, &autodiff).map(&mut SeededInit::new(seed.unwrap_or(0)));
        let rows = row_map(config).table_rows(shape.items);
        let (dim, deviation) = (config.dim, config.init_deviation);
        // Rows, width and deviation of each table that the model has.
        let sizes = [
            config.item_id.then_some((rows, dim, deviation)),
            config.bias.then_some((shape.items, 1, 0.0)),
            (!config.shared_table || !config.item_id).then_some((rows, dim, deviation)),
            (shape.user_vocabulary > 0).then_some((shape.user_vocabulary, dim, 0.02)),
            (shape.item_vocabulary > 0).then_some((shape.item_vocabulary, dim, 0.02)),
            config.user_id.then_some((shape.users + 1, dim, deviation)),
        ];
        let bytes = sizes.map(|size| size.map_or(0, |(rows, dim, _)| EmbeddingTable::bytes_of(rows, dim)));
        let on_host = placement::on_host(config, device.is_host(), &bytes);
        let table = |at: usize| -> Option<EmbeddingTable> {
            let (rows, dim, deviation) = sizes[at]?;
            let Some(seed) = seed else {
                return Some(EmbeddingTable::zeros(rows, dim, &device.device, on_host[at]));
            };
            let seed = seed.wrapping_mul(31).wrapping_add(at as u64 + 1);
            Some(EmbeddingTable::random(rows, dim, deviation as f32, seed, &device.device, on_host[at]))
        };
        let tables = Tables {
            items: table(0),
            bias: table(1),
            history: table(2),
            user_features: table(3),
            item_features: table(4),
            users: table(5),
        };
        Self { config: config.clone(), shape, device: device.clone(), towers, tables }
    }

    /// Length of the vectors the towers give.
    pub fn vector_width(&self) -> usize {
        self.config.dim + usize::from(self.config.bias)
    }

    /// Whether items as history and as candidates share a table.
    pub fn is_shared(&self) -> bool {
        self.tables.history.is_none()
    }

    /// How items find their rows in the item tables.
    pub fn row_map(&self) -> RowMap {
        row_map(&self.config)
    }

    /// Bytes of the dense parameters.
    pub fn tower_bytes(&self) -> usize {
        self.towers.num_params() * size_of::<f32>()
    }

    /// Takes the rows out that `windows` and `candidates` need. With a shared table the candidates, which `windows.history` begins
    /// with, are taken out once.
    pub(crate) fn gather(
        &self,
        windows: Option<&Windows>,
        candidates: Option<&Candidates>,
        unique: &mut Unique,
    ) -> Gathered {
        let mut gathered = Gathered::default();
        let tables = self.tables.named();
        for (name, rows) in self.wanted(windows, candidates, unique) {
            if let Some((_, table)) = tables.iter().find(|(table, _)| *table == name) {
                gathered.leaves.push(table.gather(&rows.rows, &self.device.device));
                gathered.rows.push((name, rows));
            }
        }
        gathered
    }

    /// Whether [`crate::step::Learner::step_ahead`] has anything to do ahead: some table is in host memory, and the device's
    /// memory is another.
    pub fn gathers_ahead(&self) -> bool {
        !self.device.is_host() && !self.tables.on_host().is_empty()
    }

    /// Copies what `batch` will need out of the tables in host memory.
    pub(crate) fn gather_ahead(&mut self, batch: &Batch, unique: &mut Unique) {
        let wanted = self.wanted(Some(&batch.windows), Some(&batch.candidates), unique);
        for (name, table) in self.tables.named_mut() {
            if let Some((_, rows)) = wanted.iter().find(|(wanted, _)| *wanted == name) {
                table.gather_ahead(&rows.rows);
            }
        }
    }

    /// The rows that `windows` and `candidates` need, by the name of the table; of tables, too, that the model has not.
    fn wanted(
        &self,
        windows: Option<&Windows>,
        candidates: Option<&Candidates>,
        unique: &mut Unique,
    ) -> Vec<(&'static str, Rows)> {
        let map = self.row_map();
        let mut wanted = Vec::new();
        if let Some(windows) = windows {
            wanted.push((self.history_table(), map.rows(&windows.history, unique)));
            wanted.push(("user_features", Rows::plain(&windows.users.unique)));
            wanted.push(("users", Rows::plain(&windows.user_rows)));
        }
        if let Some(candidates) = candidates {
            if windows.is_none() || !self.is_shared() {
                wanted.push(("items", map.rows(&candidates.items, unique)));
            }
            wanted.push(("bias", Rows::plain(&candidates.items)));
            wanted.push(("item_features", Rows::plain(&candidates.features.unique)));
        }
        wanted
    }

    /// The user vector of every used row of the windows.
    ///
    /// # Shapes
    /// Returns `[rows, vector_width]`, with autodiff if `towers` and the gathered leaves have it.
    pub(crate) fn user_vectors(&self, towers: &Towers, gathered: &Gathered, windows: &Windows) -> Tensor<2> {
        let mut user = self.user_sums(towers, gathered, windows);
        let [rows, _] = user.dims();
        let device = user.device();
        if let Some(residual) = &towers.user_residual {
            user = user.clone() + residual.forward(user);
        }
        user = towers.dropout.forward(user);
        if let Some(log_scale) = &towers.log_scale {
            let log_scale = if towers.learn_scale { log_scale.val() } else { log_scale.val().detach() };
            user = l2_normalise(user) * log_scale.exp().reshape([1, 1]);
        }
        if self.config.bias {
            user = Tensor::cat(vec![user, Tensor::ones([rows, 1], &device)], 1);
        }
        user
    }

    /// What the user's head starts from: everything that is known of them, added up.
    ///
    /// # Shapes
    /// Returns `[rows, dim]`.
    fn user_sums(&self, towers: &Towers, gathered: &Gathered, windows: &Windows) -> Tensor<2> {
        let device = towers.start.val().device();
        let dim = self.config.dim;
        let known = towers.known(gathered, windows, &device); // [windows, dim]
        let row_windows = indices(&windows.row_windows, &device);
        let mut user = known.clone().select(0, row_windows); // [rows, dim]
        if let Some(items) = gathered.vectors(self.history_table(), &device) {
            let padded = Tensor::cat(vec![items, Tensor::zeros([1, dim], &device)], 0);
            let shape = [windows.count, windows.slots, dim];
            let tokens = padded.select(0, indices(&windows.tokens, &device)).reshape(shape);
            if let Some(transformer) = &towers.transformer {
                user = user + transformer.forward(tokens.clone(), known, windows);
            }
            if towers.transformer.is_none() || self.config.add_mean {
                user = user + encoder::pool(tokens, windows, towers.attention.as_ref());
            }
        }
        if let Some(length) = &towers.length {
            user = user + length.val().select(0, indices(&windows.row_lengths, &device));
        }
        user
    }

    /// The table of the history's items.
    pub(crate) fn history_table(&self) -> &'static str {
        if self.is_shared() { "items" } else { "history" }
    }

    /// The history's items, `[history, dim]`.
    pub(crate) fn history(&self, gathered: &Gathered) -> Option<Tensor<2>> {
        gathered.vectors(self.history_table(), &self.towers.start.val().device())
    }

    /// What is known of each window's user, `[windows, dim]`.
    pub(crate) fn known(&self, towers: &Towers, gathered: &Gathered, windows: &Windows) -> Tensor<2> {
        towers.known(gathered, windows, &towers.start.val().device())
    }

    /// The sums of the items' features, `[candidates, dim]`, if they have any.
    pub(crate) fn item_feature_sums(
        &self,
        towers: &Towers,
        gathered: &Gathered,
        candidates: &Candidates,
    ) -> Option<Tensor<2>> {
        let device = towers.start.val().device();
        let embeddings = gathered.vectors("item_features", &device);
        towers.item_features.forward(embeddings, &candidates.features, &device)
    }

    /// The item vector of every candidate.
    ///
    /// # Shapes
    /// Returns `[candidates, vector_width]`.
    pub(crate) fn item_vectors(&self, towers: &Towers, gathered: &Gathered, candidates: &Candidates) -> Tensor<2> {
        let mut item = self.item_sums(towers, gathered, candidates);
        if let Some(residual) = &towers.item_residual {
            item = item.clone() + residual.forward(item);
        }
        if towers.log_scale.is_some() {
            item = l2_normalise(item);
        }
        let device = item.device();
        if let Some(bias) = gathered.vectors("bias", &device) {
            item = Tensor::cat(vec![item, bias], 1);
        }
        item
    }

    /// What the item's head starts from: its embedding and its features, added up.
    ///
    /// # Shapes
    /// Returns `[candidates, dim]`.
    pub(crate) fn item_sums(&self, towers: &Towers, gathered: &Gathered, candidates: &Candidates) -> Tensor<2> {
        let device = towers.start.val().device();
        let (count, dim) = (candidates.items.len(), self.config.dim);
        let mut item = gathered
            .vectors("items", &device)
            .map_or_else(|| Tensor::zeros([count, dim], &device), |items| items.slice([0..count, 0..dim]));
        if candidates.keep_id.contains(&false) {
            let keep: Vec<f32> = candidates.keep_id.iter().map(|&keep| f32::from(u8::from(keep))).collect();
            item = item * Tensor::<2>::from_data(TensorData::new(keep, [count, 1]), &device);
        }
        if let Some(features) = self.item_feature_sums(towers, gathered, candidates) {
            item = item + features;
        }
        item
    }
}

fn row_map(config: &ModelConfig) -> RowMap {
    match config.hash_buckets {
        0 => RowMap::Identity,
        buckets => RowMap::Hashed { buckets: buckets as u32, hashes: config.hashes as u32 },
    }
}

impl Towers {
    fn new(config: &ModelConfig, loss: &LossConfig, shape: &DataShape, device: &Device) -> Self {
        let dim = config.dim;
        let residual = || (config.hidden > 0).then(|| Residual::new(dim, config.hidden, dim, config.dropout, device));
        let transformer = TransformerConfig {
            dim,
            layers: config.layers,
            heads: config.heads,
            hidden: config.feed_forward,
            dropout: config.dropout,
        };
        Self {
            start: Param::from_tensor(Tensor::zeros([1, dim], device)),
            length: config.history_length.then(|| Param::from_tensor(Tensor::zeros([LENGTH_BUCKETS, dim], device))),
            attention: (config.encoder == Encoder::Attention).then(|| AttentionPool::new(dim, device)),
            transformer: (config.encoder == Encoder::Transformer).then(|| transformer.init(device)),
            user_features: FeatureSum::new(shape.user_dense, dim, device),
            item_features: FeatureSum::new(shape.item_dense, dim, device),
            user_residual: residual(),
            item_residual: residual(),
            log_scale: config.normalise.then(|| {
                let value = (1.0 / loss.temperature).ln() as f32;
                Param::from_tensor(Tensor::from_data(TensorData::new(vec![value], [1]), device))
            }),
            learn_scale: loss.learn_temperature,
            dropout: DropoutConfig::new(config.dropout).init(),
        }
    }

    /// The users' and the items' heads for host memory; `seed` fixes their dropout, without one there is none. Reads from
    /// the device.
    pub(crate) fn host_heads(&self, dim: usize, seed: Option<u64>) -> Result<[Head; 2]> {
        let scale = match &self.log_scale {
            Some(scale) => Some(to_host(scale.val().inner())?[0].exp()),
            None => None,
        };
        let network = |residual: &Option<Residual>| residual.as_ref().map(Residual::network).transpose();
        let dropout = if seed.is_some() { self.dropout.prob } else { 0.0 };
        let seed = seed.unwrap_or(0).wrapping_mul(4);
        let mask = |salt: u64| Mask::new(dropout, seed.wrapping_add(salt).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let users =
            Head { dim, network: network(&self.user_residual)?, hidden_mask: mask(0), output_mask: mask(1), scale };
        let items = Head {
            dim,
            network: network(&self.item_residual)?,
            hidden_mask: mask(2),
            output_mask: Mask::new(0.0, 0),
            scale: scale.map(|_| 1.0),
        };
        Ok([users, items])
    }

    /// The parameters of users' sums for windows of up to `slots` items; `seed` as for [`Towers::host_heads`]. Reads from the
    /// device.
    pub(crate) fn host_sums(&self, config: &ModelConfig, slots: usize, seed: Option<u64>) -> Result<UserSums> {
        let seed = seed.map(|seed| seed.wrapping_mul(4).wrapping_add(3).wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let transformer = self.transformer.as_ref().map(|transformer| transformer.host(config.dim, slots, seed));
        Ok(UserSums {
            dim: config.dim,
            length: self.length.as_ref().map_or_else(|| Ok(Vec::new()), |length| to_host(length.val().inner()))?,
            pools: self.attention.is_none() && (self.transformer.is_none() || config.add_mean),
            attention: self.attention.as_ref().map(AttentionPool::host).transpose()?,
            transformer: transformer.transpose()?,
        })
    }

    /// Hands the gradients of [`Towers::host_sums`] to the optimiser.
    pub(crate) fn register_sums(&self, users: &mut UserGradients, gradients: &mut GradientsParams) {
        if let Some(length) = &self.length {
            encoder::hand(length, std::mem::take(&mut users.length), gradients);
        }
        if let Some((attention, found)) = self.attention.as_ref().zip(users.attention.take()) {
            attention.register(found, gradients);
        }
        if let Some((transformer, found)) = self.transformer.as_ref().zip(users.transformer.take()) {
            transformer.register(found, gradients);
        }
    }

    /// Hands the heads' gradients, computed in host memory, to the optimiser.
    pub(crate) fn register_heads(
        &self,
        users: &mut HeadGradients,
        items: &mut HeadGradients,
        gradients: &mut GradientsParams,
    ) {
        for (residual, head) in [(&self.user_residual, &mut *users), (&self.item_residual, items)] {
            if let Some(residual) = residual {
                residual.register(head, gradients);
            }
        }
        if let Some(scale) = self.log_scale.as_ref().filter(|_| self.learn_scale) {
            encoder::hand(scale, vec![users.log_scale], gradients);
        }
    }

    /// What is known of each window's user before the first item: `[windows, dim]`.
    fn known(&self, gathered: &Gathered, windows: &Windows, device: &Device) -> Tensor<2> {
        let mut known = self.start.val().repeat_dim(0, windows.count);
        let embeddings = gathered.vectors("user_features", device);
        if let Some(features) = self.user_features.forward(embeddings, &windows.users, device) {
            known = known + features;
        }
        if let Some(users) = gathered.vectors("users", device) {
            known = known + users;
        }
        known
    }

    /// Keeps the learned temperature within its bounds.
    #[must_use]
    pub fn clamp_temperature(mut self, bounds: [f64; 2]) -> Self {
        let [coldest, hottest] = bounds;
        self.log_scale = self.log_scale.map(|scale| {
            scale.map(|scale| Tensor::from_inner(scale.inner().clamp(-hottest.ln(), -coldest.ln())).require_grad())
        });
        self
    }

    /// The temperature, if there is one. Reads from the device.
    pub fn temperature(&self) -> Option<f32> {
        let scale = self.log_scale.as_ref()?.val().inner().into_scalar::<f32>();
        Some((-scale).exp())
    }
}

/// Initial values of the towers drawn on the host, so that every device starts from the same ones: linear weights uniform in
/// `+-1/sqrt(inputs)`, the output layers of residual branches and everything one-dimensional as their modules made them.
struct SeededInit {
    rng: Pcg64Mcg,
    path: Vec<String>,
}

impl SeededInit {
    fn new(seed: u64) -> Self {
        Self { rng: Pcg64Mcg::seed_from_u64(seed ^ 0x746f_7765_7273), path: Vec::new() }
    }
}

/// Layers that end a residual branch: they start at zero, so that the branch starts as the identity.
const BRANCH_ENDS: [&str; 4] = ["outer", "attention_out", "feed_out", "score"];

impl ModuleMapper for SeededInit {
    fn enter_module(&mut self, name: &str, _container_type: &str) {
        self.path.push(name.to_owned());
    }

    fn exit_module(&mut self, _name: &str, _container_type: &str) {
        self.path.pop();
    }

    fn map_float<const D: usize>(&mut self, param: Param<Tensor<D>>) -> Param<Tensor<D>> {
        let name = self.path.last().map_or("", String::as_str);
        let is_branch_end = self.path.iter().any(|module| BRANCH_ENDS.contains(&module.as_str()));
        if name == "bias" || (name == "weight" && is_branch_end) {
            return param.map(|tensor| tensor.zeros_like().detach().require_grad());
        }
        if name != "weight" || D != 2 {
            return param;
        }
        let rng = &mut self.rng;
        param.map(|tensor| {
            let shape = tensor.shape();
            let bound = (shape[0] as f32).sqrt().recip();
            let values: Vec<f32> = (0..shape.num_elements()).map(|_| rng.random_range(-bound..bound)).collect();
            Tensor::from_data(TensorData::new(values, shape), &tensor.device()).require_grad()
        })
    }
}
