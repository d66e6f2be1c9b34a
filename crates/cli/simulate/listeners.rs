//! A simulated day: everybody who logs in, over HTTP, in order of time.
//!
//! The behaviour itself is [`Visitors`], beside the truth of the world; this is its way to the service and back.

use std::{collections::BTreeMap, ops::AddAssign};

use anyhow::{Result, bail};
use duet_core::{
    Error,
    event::{Event, EventType},
    mixing::splitmix64,
};
use duet_data::world::{Login, Visitors};
use duet_serve::clock::Clock;

use super::client::Client;

/// What happened to one listener on one day, or to several on some.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Share {
    pub(super) logins: u64,
    pub(super) impressions: u64,
    pub(super) clicks: u64,
    pub(super) listens: u64,
    pub(super) follows: u64,
    /// Lists that were not made as meant.
    pub(super) degraded: u64,
    /// Left for good: of one listener 0 or 1.
    pub(super) left: u64,
}

impl AddAssign for Share {
    fn add_assign(&mut self, other: Self) {
        let Self { logins, impressions, clicks, listens, follows, degraded, left } = other;
        self.logins += logins;
        self.impressions += impressions;
        self.clicks += clicks;
        self.listens += listens;
        self.follows += follows;
        self.degraded += degraded;
        self.left += left;
    }
}

/// Shares by day (from 1) and user.
pub(super) type Shares = BTreeMap<(u32, u64), Share>;

/// Something that will happen.
#[derive(Debug)]
enum Step {
    Login(Login),
    Report(Vec<Event>),
}

/// When, who, which of the user's visits: no two steps have the same.
type Turn = (i64, u64, i32, u32, bool);

/// The listeners between two instants, and what has come of them.
#[derive(Debug)]
pub(super) struct Crowd {
    pub(super) visitors: Visitors,
    history_days: i32,
    list: usize,
    queue: BTreeMap<Turn, Step>,
    pub(super) shares: Shares,
    /// The arm of each user who has come.
    pub(super) arms: BTreeMap<u64, String>,
    /// Lists served so far.
    pub(super) lists: u64,
    /// Events reported so far.
    pub(super) events: u64,
    /// Of all events, without what the service drew at random.
    pub(super) fingerprint: u64,
}

impl Crowd {
    pub(super) fn new(visitors: Visitors, history_days: u32, list: usize) -> Self {
        Self {
            visitors,
            history_days: history_days as i32,
            list,
            queue: BTreeMap::new(),
            shares: Shares::new(),
            arms: BTreeMap::new(),
            lists: 0,
            events: 0,
            fingerprint: 0,
        }
    }

    /// Draws who logs in on a day (from 1).
    pub(super) fn wake(&mut self, day: u32) {
        for login in self.visitors.logins(self.history_days + day as i32 - 1) {
            self.queue.insert((login.at_ms, login.user, login.day, login.number, false), Step::Login(login));
        }
    }

    /// The instant at which a day (from 1) begins.
    pub(super) fn midnight_ms(&self, day: u32) -> i64 {
        self.visitors.midnight_ms(self.history_days + day as i32 - 1)
    }

    /// Lets everything happen that is due before an instant; a visit that is under way then goes on afterwards.
    pub(super) fn live(&mut self, until_ms: i64, client: &Client, clock: &Clock) -> Result<()> {
        while let Some(entry) = self.queue.first_entry() {
            let at_ms = entry.key().0;
            if at_ms >= until_ms {
                break;
            }
            clock.set_ms(at_ms);
            match entry.remove() {
                Step::Login(login) => self.login(&login, client)?,
                Step::Report(events) => {
                    client.report(&events)?;
                    self.events += events.len() as u64;
                    for event in events {
                        self.fingerprint = mixed(self.fingerprint, event)?;
                    }
                }
            }
        }
        clock.set_ms(until_ms);
        Ok(())
    }

    /// When the last visit ends that has begun.
    pub(super) fn end_ms(&self) -> Option<i64> {
        self.queue.keys().next_back().map(|turn| turn.0 + 1)
    }

    fn login(&mut self, login: &Login, client: &Client) -> Result<()> {
        // Gone since the day was drawn, after an earlier list of the same day.
        if self.visitors.has_left(login.user) {
            return Ok(());
        }
        let list = client.recommendations(&Visitors::id(login.user), self.list)?;
        let arm = self.arms.entry(login.user).or_insert_with(|| list.variant.clone());
        if *arm != list.variant {
            let user = Visitors::id(login.user);
            bail!(Error::Internal(format!("{user} was served as {arm} and is now served as {}", list.variant)));
        }
        let visit = self.visitors.visit(login, login.at_ms, &list.request_id, &list.artists())?;
        self.lists += 1;
        let day = (login.day - self.history_days + 1) as u32;
        let impressions = visit.events.iter().filter(|event| event.event_type == EventType::Impression).count();
        *self.shares.entry((day, login.user)).or_default() += Share {
            logins: 1,
            impressions: impressions as u64,
            clicks: u64::from(visit.clicks),
            listens: u64::from(visit.listens),
            follows: u64::from(visit.follows),
            degraded: u64::from(!list.degraded.is_empty()),
            left: u64::from(visit.left),
        };
        if !visit.events.is_empty() {
            let turn = (visit.ends_ms, login.user, login.day, login.number, true);
            self.queue.insert(turn, Step::Report(visit.events));
        }
        Ok(())
    }
}

/// A fingerprint with one more event. Request ids are drawn by the service, anew in every run.
fn mixed(fingerprint: u64, event: Event) -> Result<u64> {
    let event = Event { request_id: None, ..event };
    let bytes = serde_json::to_vec(&event)?;
    Ok(bytes.chunks(8).fold(fingerprint, |hash, chunk| {
        let mut word = [0; 8];
        word[..chunk.len()].copy_from_slice(chunk);
        splitmix64(hash ^ u64::from_le_bytes(word))
    }))
}
