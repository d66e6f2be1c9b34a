//! Regression trees whose sum is a score, and their file.
//!
//! All nodes lie in one array, parents before children, 16 bytes each. The file, little-endian:
//!
//! | bytes | what |
//! | --- | --- |
//! | 8 | magic `DUETTREE` |
//! | 4 x 4 | version, features, trees, nodes (u32) |
//! | 8 | base score (f64) |
//! | 4 a tree | its root (u32) |
//! | 16 a node | value (f32), feature (u16; 65535: a leaf), missing goes left (u16), left, right (u32) |
//! | 4 | CRC-32 of everything before |

use std::path::Path;

use duet_core::{Error, Result, artifact::write_file};
use fs_err as fs;

const MAGIC: &[u8; 8] = b"DUETTREE";
const VERSION: u32 = 1;
const HEADER: usize = 8 + 4 * 4 + 8;
const NODE: usize = 16;
/// The feature of a leaf.
const LEAF: u16 = u16::MAX;
/// Rows that walk through a tree before the next tree: rows and tree stay in the cache.
const TILE: usize = 128;

/// A node: a question, or an answer.
#[derive(Debug, Clone, Copy, PartialEq)]
struct Node {
    /// Values below go left; of a leaf, what it adds to the score.
    value: f32,
    feature: u16,
    missing_left: bool,
    left: u32,
    right: u32,
}

/// Trees whose leaves add up to a score.
#[derive(Debug, Clone, PartialEq)]
pub struct Forest {
    features: usize,
    base: f64,
    roots: Vec<u32>,
    nodes: Vec<Node>,
}

impl Forest {
    pub(super) fn new(features: usize, base: f64) -> Self {
        Self { features, base, roots: Vec::new(), nodes: Vec::new() }
    }

    /// Values of a row.
    pub fn features(&self) -> usize {
        self.features
    }

    /// Trees held.
    pub fn trees(&self) -> usize {
        self.roots.len()
    }

    /// Begins a tree that is a single leaf; returns the leaf.
    pub(super) fn plant(&mut self) -> usize {
        self.roots.push(self.nodes.len() as u32);
        self.leaf()
    }

    fn leaf(&mut self) -> usize {
        self.nodes.push(Node { value: 0.0, feature: LEAF, missing_left: false, left: 0, right: 0 });
        self.nodes.len() - 1
    }

    /// Turns a leaf into a question; returns the two new leaves.
    pub(super) fn split(&mut self, leaf: usize, feature: usize, below: f32, missing_left: bool) -> (usize, usize) {
        let (left, right) = (self.leaf(), self.leaf());
        self.nodes[leaf] =
            Node { value: below, feature: feature as u16, missing_left, left: left as u32, right: right as u32 };
        (left, right)
    }

    /// What a leaf adds.
    pub(super) fn set(&mut self, leaf: usize, value: f32) {
        self.nodes[leaf].value = value;
    }

    /// Leaves only the first trees.
    pub(super) fn truncate(&mut self, trees: usize) {
        if let Some(&root) = self.roots.get(trees) {
            self.nodes.truncate(root as usize);
            self.roots.truncate(trees);
        }
    }

    #[inline]
    fn answer(&self, root: u32, row: &[f32]) -> f32 {
        let mut node = &self.nodes[root as usize];
        while node.feature != LEAF {
            let value = row[node.feature as usize];
            let goes_left = if value.is_nan() { node.missing_left } else { value < node.value };
            node = &self.nodes[if goes_left { node.left } else { node.right } as usize];
        }
        node.value
    }

    /// Adds what one tree says of each row.
    pub(super) fn add_tree(&self, tree: usize, values: &[f32], scores: &mut [f64]) {
        for (score, row) in scores.iter_mut().zip(values.chunks_exact(self.features)) {
            *score += f64::from(self.answer(self.roots[tree], row));
        }
    }

    /// The score before any tree.
    pub(super) fn base(&self) -> f64 {
        self.base
    }

    /// The scores of rows `[rows, features]`, on the calling thread. Finite for all values, infinite ones included.
    ///
    /// # Errors
    /// [`Error::Internal`] if the values are no whole rows.
    pub fn score(&self, values: &[f32]) -> Result<Vec<f32>> {
        if self.features == 0 || !values.len().is_multiple_of(self.features) {
            return Err(Error::Internal(format!("{} values are no rows of {}", values.len(), self.features)));
        }
        let mut scores = vec![self.base; values.len() / self.features];
        for (values, scores) in values.chunks(TILE * self.features).zip(scores.chunks_mut(TILE)) {
            for tree in 0..self.roots.len() {
                self.add_tree(tree, values, scores);
            }
        }
        Ok(scores.into_iter().map(|score| score as f32).collect())
    }

    /// Writes the file.
    ///
    /// # Errors
    /// [`Error::Io`] with the path.
    pub fn save(&self, path: &Path) -> Result<()> {
        let mut bytes = Vec::with_capacity(HEADER + 4 * self.roots.len() + NODE * self.nodes.len() + 4);
        bytes.extend_from_slice(MAGIC);
        for number in [VERSION, self.features as u32, self.roots.len() as u32, self.nodes.len() as u32] {
            bytes.extend_from_slice(&number.to_le_bytes());
        }
        bytes.extend_from_slice(&self.base.to_le_bytes());
        for root in &self.roots {
            bytes.extend_from_slice(&root.to_le_bytes());
        }
        for node in &self.nodes {
            bytes.extend_from_slice(&node.value.to_le_bytes());
            bytes.extend_from_slice(&node.feature.to_le_bytes());
            bytes.extend_from_slice(&u16::from(node.missing_left).to_le_bytes());
            bytes.extend_from_slice(&node.left.to_le_bytes());
            bytes.extend_from_slice(&node.right.to_le_bytes());
        }
        let crc = crc32fast::hash(&bytes);
        bytes.extend_from_slice(&crc.to_le_bytes());
        write_file(path, &bytes)
    }

    /// Reads and checks a file.
    ///
    /// # Errors
    /// [`Error::Data`] naming the file, if it is of another kind, truncated or damaged.
    pub fn load(path: &Path) -> Result<Self> {
        let bytes = fs::read(path).map_err(Error::io(path))?;
        let bad = |message: &str| Error::data(path, message.to_owned());
        if !bytes.starts_with(MAGIC) || bytes.len() < HEADER + 4 {
            return Err(bad("not a file of trees (no magic DUETTREE), or truncated"));
        }
        let word = |at: usize| -> [u8; 4] { [bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3]] };
        let number = |at: usize| u32::from_le_bytes(word(at));
        let (content, crc) = (&bytes[..bytes.len() - 4], number(bytes.len() - 4));
        if number(8) != VERSION {
            return Err(bad(&format!("trees of version {}; this build reads version {VERSION}", number(8))));
        }
        let [features, trees, count] = [12, 16, 20].map(|at| number(at) as usize);
        let expected = (4 * trees as u64).checked_add(NODE as u64 * count as u64).map(|rest| rest + HEADER as u64);
        if expected != Some(content.len() as u64) {
            return Err(bad("its length does not fit its header: truncated or damaged"));
        }
        if crc32fast::hash(content) != crc {
            return Err(bad("damaged: its CRC-32 is another than it says"));
        }
        let mut base = [0; 8];
        base.copy_from_slice(&bytes[24..32]);
        let base = f64::from_le_bytes(base);
        let roots: Vec<u32> = (0..trees).map(|tree| number(HEADER + 4 * tree)).collect();
        let node = |at: usize| {
            let at = HEADER + 4 * trees + NODE * at;
            Node {
                value: f32::from_le_bytes(word(at)),
                feature: u16::from_le_bytes([bytes[at + 4], bytes[at + 5]]),
                missing_left: bytes[at + 6] != 0,
                left: number(at + 8),
                right: number(at + 12),
            }
        };
        let nodes: Vec<Node> = (0..count).map(node).collect();
        // Children after parents: every walk ends.
        let fits = |(at, node): (usize, &Node)| {
            let follows = |child: u32| child as usize > at && (child as usize) < count;
            node.value.is_finite()
                && (node.feature == LEAF
                    || ((node.feature as usize) < features && follows(node.left) && follows(node.right)))
        };
        let sound = features > 0
            && features < usize::from(LEAF)
            && base.is_finite()
            && roots.iter().all(|&root| (root as usize) < count)
            && nodes.iter().enumerate().all(fits);
        if sound { Ok(Self { features, base, roots, nodes }) } else { Err(bad("its nodes are no trees")) }
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use super::*;

    fn forest() -> Forest {
        let mut forest = Forest::new(2, 0.5);
        let root = forest.plant();
        let (low, high) = forest.split(root, 1, 3.0, true);
        forest.set(low, -1.0);
        forest.set(high, 2.0);
        let only = forest.plant();
        forest.set(only, 0.25);
        forest
    }

    #[test]
    fn rows_walk_to_their_leaves_and_the_unknown_takes_its_side() {
        let rows = [0.0, 2.9, 0.0, 3.0, 0.0, f32::NAN, 9.0, f32::INFINITY];
        assert_eq!(forest().score(&rows).unwrap(), [-0.25, 2.75, -0.25, 2.75]);
        assert!(forest().score(&rows[..3]).is_err());
        let mut shorter = forest();
        shorter.truncate(1);
        assert_eq!((shorter.trees(), shorter.score(&rows[..2]).unwrap()), (1, vec![-0.5]));
    }

    #[test]
    fn a_file_comes_back_and_every_damage_is_an_error_that_names_it() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("some.trees");
        forest().save(&path).unwrap();
        assert_eq!(Forest::load(&path).unwrap(), forest());
        let good = std::fs::read(&path).unwrap();
        for at in 0..good.len() {
            let mut bytes = good.clone();
            bytes[at] ^= 0x10;
            std::fs::write(&path, &bytes).unwrap();
            assert!(Forest::load(&path).unwrap_err().to_string().contains("some.trees"), "byte {at}");
        }
        for length in 0..good.len() {
            std::fs::write(&path, &good[..length]).unwrap();
            assert!(Forest::load(&path).unwrap_err().to_string().contains("some.trees"), "{length} bytes");
        }
    }
}
