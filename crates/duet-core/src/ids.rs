//! Dense indices, one type per table, so that a user can never index the items.
//!
//! External ids are plain strings (whatever the source system uses); they are kept in the `users` and item tables
//! and turned into indices once, at the border.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};

use crate::{Error, Result};

macro_rules! index_type {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(transparent)]
        #[repr(transparent)]
        pub struct $name(pub u32);

        impl $name {
            /// The row as a slice index.
            pub fn index(self) -> usize {
                self.0 as usize
            }
        }

        impl From<usize> for $name {
            fn from(row: usize) -> Self {
                debug_assert!(row <= u32::MAX as usize);
                Self(row as u32)
            }
        }
    };
}

index_type!(
    /// A row of the users table.
    UserIdx
);
index_type!(
    /// A row of the item table (artists, or whatever the dataset recommends).
    ItemIdx
);

/// External ids in row order, with the way back.
#[derive(Debug, Clone, Default)]
pub struct IdMap {
    ids: Vec<String>,
    rows: HashMap<String, u32>,
}

impl IdMap {
    /// Builds the map.
    ///
    /// # Errors
    /// [`Error::Input`] naming the first id that occurs twice.
    pub fn new(ids: Vec<String>) -> Result<Self> {
        let mut rows = HashMap::with_capacity(ids.len());
        for (row, id) in ids.iter().enumerate() {
            if rows.insert(id.clone(), row as u32).is_some() {
                return Err(Error::input(format!("the id {id:?} occurs twice")));
            }
        }
        Ok(Self { ids, rows })
    }

    /// The row of `id`, adding it at the end if it is new.
    pub fn get_or_insert(&mut self, id: &str) -> u32 {
        if let Some(&row) = self.rows.get(id) {
            return row;
        }
        let row = self.ids.len() as u32;
        self.ids.push(id.to_owned());
        self.rows.insert(id.to_owned(), row);
        row
    }

    /// The row of `id`, if known.
    pub fn get(&self, id: &str) -> Option<u32> {
        self.rows.get(id).copied()
    }

    /// The external id of a row.
    ///
    /// # Panics
    /// If `row` is not below [`IdMap::len`].
    pub fn id(&self, row: usize) -> &str {
        &self.ids[row]
    }

    /// All ids in row order.
    pub fn ids(&self) -> &[String] {
        &self.ids
    }

    /// How many ids there are.
    pub fn len(&self) -> usize {
        self.ids.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.ids.is_empty()
    }
}
