//! Distinct ids of a batch, numbered in the order of first sight.

/// A reusable numbering of ids `0..capacity`; clearing costs as much as what was inserted, not as the capacity.
#[derive(Debug, Clone, Default)]
pub struct Unique {
    /// Number given to each id, or `NONE`.
    numbers: Vec<u32>,
    ids: Vec<u32>,
}

const NONE: u32 = u32::MAX;

impl Unique {
    /// A numbering of ids below `capacity`.
    pub fn new(capacity: usize) -> Self {
        Self { numbers: vec![NONE; capacity], ids: Vec::new() }
    }

    /// The number of `id`, given now if it has none.
    pub fn index(&mut self, id: u32) -> u32 {
        let number = &mut self.numbers[id as usize];
        if *number == NONE {
            *number = self.ids.len() as u32;
            self.ids.push(id);
        }
        *number
    }

    /// The number of `id`, if it has one.
    pub fn get(&self, id: u32) -> Option<u32> {
        self.numbers.get(id as usize).copied().filter(|&number| number != NONE)
    }

    /// The ids in the order of their numbers.
    pub fn ids(&self) -> &[u32] {
        &self.ids
    }

    /// Forgets every number.
    pub fn clear(&mut self) {
        for id in self.ids.drain(..) {
            self.numbers[id as usize] = NONE;
        }
    }
}
