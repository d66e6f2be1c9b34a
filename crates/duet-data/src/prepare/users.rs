//! Who is known: accounts by pseudonym, and those who asked to be forgotten.

use std::collections::HashSet;

use crate::{
    accounts::{Account, Pseudonym},
    privacy::ForgottenList,
};

/// What there is to know of the user of an event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum KnownUser {
    Known {
        /// Row of the users table.
        row: u32,
        created_ms: Option<i64>,
    },
    Unknown,
    Forgotten,
}

/// The accounts in the order of the users table.
#[derive(Debug)]
pub(super) struct Users {
    pub(super) accounts: Vec<Account>,
    forgotten: HashSet<Pseudonym>,
}

impl Users {
    /// Sorts the accounts by pseudonym and leaves out the forgotten ones.
    pub(super) fn new(mut accounts: Vec<Account>, forgotten: &ForgottenList) -> Self {
        let forgotten: HashSet<Pseudonym> = forgotten.iter().collect();
        accounts.retain(|account| !forgotten.contains(&account.pseudonym));
        accounts.sort_unstable_by_key(|account| account.pseudonym);
        Self { accounts, forgotten }
    }

    pub(super) fn nobody_forgotten(&self) -> bool {
        self.forgotten.is_empty()
    }

    pub(super) fn find(&self, pseudonym: &[u8; 16]) -> KnownUser {
        let pseudonym = Pseudonym(*pseudonym);
        match self.accounts.binary_search_by_key(&pseudonym, |account| account.pseudonym) {
            Ok(row) => KnownUser::Known { row: row as u32, created_ms: self.accounts[row].created_ms },
            Err(_) if self.forgotten.contains(&pseudonym) => KnownUser::Forgotten,
            Err(_) => KnownUser::Unknown,
        }
    }
}
