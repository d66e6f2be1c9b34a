//! Rows to accounts, in parallel blocks: one thread reads, the others reduce, the order of the source is kept.

use std::{
    collections::{BTreeMap, HashMap},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
        mpsc::{Receiver, sync_channel},
    },
    thread,
};

use duet_core::{Error, Result};

use super::{
    Account, AccountRules,
    age::{Age, Buckets},
    place::{Gazetteer, Places},
};

/// A row as its source has it: personal data, borrowed from a reader's buffer. Without `Debug` on purpose.
#[derive(Default)]
pub(super) struct Row<'a> {
    pub(super) user_id: &'a str,
    pub(super) age: Option<Age>,
    pub(super) gender: Option<&'a str>,
    pub(super) country: Option<&'a str>,
    /// Degrees north and east.
    pub(super) coordinates: Option<(f64, f64)>,
    /// Milliseconds since 1970-01-01 UTC.
    pub(super) created_ms: Option<i64>,
}

/// Turns rows into accounts; one for each thread.
pub(super) struct Reducer<'a> {
    rules: &'a AccountRules<'a>,
    buckets: Buckets<'a>,
    places: Places<'a>,
    /// By the text of the source, whose case is free.
    genders: HashMap<String, Arc<str>>,
    countries: HashMap<String, Arc<str>>,
}

impl<'a> Reducer<'a> {
    fn new(rules: &'a AccountRules<'a>, gazetteer: &'a Gazetteer) -> Self {
        Self {
            rules,
            buckets: Buckets::new(rules.age_edges),
            places: Places::new(gazetteer),
            genders: HashMap::new(),
            countries: HashMap::new(),
        }
    }

    pub(super) fn reduce(&mut self, row: &Row<'_>) -> Account {
        let years = row.age.and_then(|age| age.years_on(self.rules.reference_day));
        let mut place = row.coordinates.map(|coordinates| self.places.at(coordinates)).unwrap_or_default();
        if place.country.is_none() {
            place.country = row.country.map(|text| shared(&mut self.countries, text, str::to_uppercase));
        }
        Account {
            pseudonym: self.rules.user_key.pseudonym_bytes(row.user_id),
            age_bucket: years.map(|years| self.buckets.of(years)),
            gender: row.gender.map(|text| shared(&mut self.genders, text, str::to_lowercase)),
            place,
            created_ms: row.created_ms,
        }
    }
}

fn shared(known: &mut HashMap<String, Arc<str>>, text: &str, change: impl Fn(&str) -> String) -> Arc<str> {
    match known.get(text) {
        Some(value) => Arc::clone(value),
        None => {
            let value: Arc<str> = change(text).into();
            known.insert(text.to_owned(), Arc::clone(&value));
            value
        }
    }
}

/// The accounts so far, and the blocks that wait for an earlier one.
#[derive(Default)]
struct Done {
    accounts: Vec<Account>,
    next: usize,
    waiting: BTreeMap<usize, Vec<Account>>,
    /// The error of the earliest block that has one.
    error: Option<(usize, Error)>,
}

/// Takes a block from the reader; false once a block has failed and reading on is of no use.
pub(super) type Sink<'a, B> = &'a mut dyn FnMut(B) -> bool;

/// Runs `produce` on this thread and `reduce` on all blocks it hands over, on as many threads as there are cores. A few
/// blocks are in memory at a time.
///
/// An error of a block comes before an error of `produce`: its rows were read earlier. `E` is what `produce` may fail with.
pub(super) fn in_parallel<B: Send, E: From<Error>>(
    rules: &AccountRules<'_>,
    produce: impl FnOnce(Sink<'_, B>) -> Result<(), E>,
    reduce: impl Fn(B, &mut Reducer<'_>, &mut Vec<Account>) -> Result<()> + Sync,
) -> Result<Vec<Account>, E> {
    let gazetteer = Gazetteer::default();
    let workers = rayon::current_num_threads().max(1);
    let (sender, receiver) = sync_channel::<(usize, B)>(2 * workers);
    let receiver = Arc::new(Mutex::new(receiver));
    let (done, failed) = (Mutex::new(Done::default()), AtomicBool::new(false));
    let work = |receiver: &Mutex<Receiver<(usize, B)>>| {
        let mut reducer = Reducer::new(rules, &gazetteer);
        loop {
            // The lock is held while waiting, so that idle threads queue here; it ends with the statement.
            let received = lock(receiver).recv();
            let Ok((number, block)) = received else { return };
            let mut accounts = Vec::new();
            let result = reduce(block, &mut reducer, &mut accounts);
            let mut done = lock(&done);
            match result {
                Ok(()) => done.add(number, accounts),
                Err(error) => {
                    failed.store(true, Ordering::Relaxed);
                    if done.error.as_ref().is_none_or(|(earlier, _)| number < *earlier) {
                        done.error = Some((number, error));
                    }
                }
            }
        }
    };
    let produced = thread::scope(|scope| {
        for _ in 0..workers {
            let (work, receiver) = (&work, Arc::clone(&receiver));
            scope.spawn(move || work(&receiver));
        }
        // The threads own the receiver: should all of them panic, sending fails instead of waiting for ever.
        drop(receiver);
        let mut number = 0;
        let produced = produce(&mut |block| {
            number += 1;
            sender.send((number - 1, block)).is_ok() && !failed.load(Ordering::Relaxed)
        });
        drop(sender);
        produced
    });
    let done = done.into_inner().unwrap_or_else(PoisonError::into_inner);
    match done.error {
        Some((_, error)) => Err(error.into()),
        None => produced.map(|()| done.accounts),
    }
}

impl Done {
    fn add(&mut self, number: usize, accounts: Vec<Account>) {
        self.waiting.insert(number, accounts);
        while let Some(accounts) = self.waiting.remove(&self.next) {
            self.accounts.extend(accounts);
            self.next += 1;
        }
    }
}

/// A panic elsewhere ends the scope anyway.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
