//! What is played now: by everybody, and by the listeners of a segment. Made once, when a bundle is opened; a list is read off.
//!
//! The ranking of everybody is complete, so K items are there whenever K are allowed. A segment's holds its best
//! [`SEGMENT_ITEMS`]; what lacks comes from everybody's.

use duet_core::{ItemIdx, Result, UserIdx, table::ColumnValues};
use duet_data::dataset::Timeline;
use duet_retrieval::{
    ItemFilter, Query, Recommender, Scored,
    baselines::{Interactions, Popularity, Trending},
    diversity::{first_values, numbered},
};

use crate::request::Source;

/// Listeners within the window that make a segment's ranking worth more than everybody's.
const SEGMENT_LISTENERS: usize = 50;
/// Items kept of a segment's ranking.
const SEGMENT_ITEMS: usize = 1000;
const DAY_MS: f64 = 86_400_000.0;
const NO_SEGMENT: u32 = u32::MAX;

/// What may stand in a list.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Allowed<'a> {
    pub(crate) filter: Option<&'a ItemFilter>,
    /// Ascending, each once.
    pub(crate) exclude: &'a [ItemIdx],
}

impl Allowed<'_> {
    pub(crate) fn contains(&self, item: ItemIdx) -> bool {
        self.filter.is_none_or(|filter| filter.contains(item)) && self.exclude.binary_search(&item).is_err()
    }
}

/// The rankings of a bundle.
#[derive(Debug)]
pub(crate) struct Rankings {
    /// Every item, best first.
    everybody: Vec<Scored>,
    /// The place of every item among them.
    places: Vec<u32>,
    segments: Vec<Vec<Scored>>,
    /// The segment of every user row, or [`NO_SEGMENT`].
    segment_of: Vec<u32>,
}

impl Rankings {
    /// `segments`: the column of the users table that says who belongs together.
    pub(crate) fn new(timeline: &Timeline, n_items: usize, days: f64, segments: Option<&ColumnValues>) -> Result<Self> {
        let interactions = Interactions::new(&timeline.offsets, &timeline.items, &timeline.timestamps_ms, n_items)?;
        let recommender: Box<dyn Recommender> = if timeline.timestamps_ms.is_empty() {
            Box::new(Popularity::new(&interactions))
        } else {
            Box::new(Trending::new(&interactions, days)?)
        };
        let whole = Query { user: None, history: &[], k: n_items.max(1), filter: None, exclude: &[] };
        let everybody = recommender.recommend(&[whole])?.pop().unwrap_or_default();
        let mut places = vec![0; n_items];
        for (place, entry) in (0..).zip(&everybody) {
            places[entry.item.index()] = place;
        }
        let (segments, segment_of) = match segments {
            Some(column) => segment_rankings(timeline, column, days, &places),
            None => (Vec::new(), Vec::new()),
        };
        Ok(Self { everybody, places, segments, segment_of })
    }

    /// `k` allowed items for a listener, fewer only where there are fewer.
    pub(crate) fn list(&self, user: Option<UserIdx>, k: usize, allowed: Allowed<'_>) -> (Source, Vec<Scored>) {
        let segment = user.and_then(|user| self.segment_of.get(user.index()));
        let segment = segment.and_then(|&segment| self.segments.get(segment as usize));
        let Some(segment) = segment else {
            return (Source::Trending, self.best(k, allowed, |_| true));
        };
        let mut list: Vec<Scored> =
            segment.iter().filter(|entry| allowed.contains(entry.item)).take(k).copied().collect();
        if list.is_empty() {
            return (Source::Trending, self.best(k, allowed, |_| true));
        }
        self.fill(&mut list, k, allowed);
        (Source::SegmentTrending, list)
    }

    /// Fills a list up to `k`; what is added stands behind what was there.
    pub(crate) fn fill(&self, list: &mut Vec<Scored>, k: usize, allowed: Allowed<'_>) {
        let Some(lacking) = k.checked_sub(list.len()).filter(|&lacking| lacking > 0) else { return };
        let mut there: Vec<ItemIdx> = list.iter().map(|entry| entry.item).collect();
        there.sort_unstable();
        let more = self.best(lacking, allowed, |item| there.binary_search(&item).is_err());
        let top = self.everybody.first().map_or(0.0, |entry| entry.score.max(0.0));
        let floor = list.last().map_or(f32::MAX, |entry| entry.score);
        list.extend(more.into_iter().map(|entry| Scored { score: (entry.score / (1.0 + top)).min(floor), ..entry }));
    }

    fn best(&self, k: usize, allowed: Allowed<'_>, wanted: impl Fn(ItemIdx) -> bool) -> Vec<Scored> {
        if let Some(filter) = allowed.filter {
            // Reading the ranking until K are found costs about this many looks where the filter is spread evenly.
            let looks = (k + allowed.exclude.len()) * self.everybody.len() / filter.count().max(1);
            if looks > 4 * filter.count() {
                let items = filter.items().filter(|&item| allowed.contains(item) && wanted(item));
                let mut places: Vec<u32> = items.map(|item| self.places[item.index()]).collect();
                places.sort_unstable();
                return places.iter().take(k).map(|&place| self.everybody[place as usize]).collect();
            }
        }
        let entries = self.everybody.iter().filter(|entry| allowed.contains(entry.item) && wanted(entry.item));
        entries.take(k).copied().collect()
    }
}

fn segment_rankings(
    timeline: &Timeline,
    column: &ColumnValues,
    days: f64,
    places: &[u32],
) -> (Vec<Vec<Scored>>, Vec<u32>) {
    let Some(values) = first_values(column) else { return (Vec::new(), Vec::new()) };
    let numbers = numbered(&values, NO_SEGMENT);
    let segments = numbers.iter().filter(|&&number| number != NO_SEGMENT).max().map_or(0, |&most| most as usize + 1);
    // As everybody's window: (last - days, last].
    let last = timeline.timestamps_ms.iter().max();
    let since = last.map(|last| last.saturating_sub((days * DAY_MS) as i64).saturating_add(1));
    let mut listened: Vec<Vec<ItemIdx>> = vec![Vec::new(); segments];
    let mut listeners = vec![0_usize; segments];
    let mut items = Vec::new();
    for (user, &segment) in numbers.iter().enumerate() {
        if segment == NO_SEGMENT {
            continue;
        }
        items.clear();
        let range = timeline.range(UserIdx::from(user));
        let recent = |event: usize| {
            since.zip(timeline.timestamps_ms.get(event)).is_none_or(|(since, &timestamp)| timestamp >= since)
        };
        items.extend(range.filter(|&event| recent(event)).map(|event| timeline.items[event]));
        items.sort_unstable();
        items.dedup();
        listeners[segment as usize] += usize::from(!items.is_empty());
        listened[segment as usize].extend_from_slice(&items);
    }
    // Segments that count get new numbers.
    let mut kept = Vec::new();
    let renumbered: Vec<u32> = listened
        .into_iter()
        .zip(listeners)
        .map(|(items, listeners)| {
            if listeners < SEGMENT_LISTENERS {
                return NO_SEGMENT;
            }
            kept.push(ranked(items, places));
            kept.len() as u32 - 1
        })
        .collect();
    let segment_of = numbers.iter().map(|&number| renumbered.get(number as usize).copied().unwrap_or(NO_SEGMENT));
    (kept, segment_of.collect())
}

/// By listeners, then by the place in everybody's ranking.
fn ranked(mut items: Vec<ItemIdx>, places: &[u32]) -> Vec<Scored> {
    items.sort_unstable();
    let mut counts: Vec<Scored> = items
        .chunk_by(|left, right| left == right)
        .map(|same| Scored { item: same[0], score: same.len() as f32 })
        .collect();
    counts.sort_unstable_by(|left, right| {
        let place = |entry: &Scored| places[entry.item.index()];
        right.score.total_cmp(&left.score).then_with(|| place(left).cmp(&place(right)))
    });
    counts.truncate(SEGMENT_ITEMS);
    counts
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const DAY: i64 = 86_400_000;

    /// `users` of whom the even ones live in "a" and play item 1, the odd ones in "b" and play item 2; everybody plays 0 long ago.
    fn rankings(users: usize) -> Rankings {
        let timeline = Timeline {
            offsets: (0..=users).map(|user| 2 * user).collect(),
            items: (0..users).flat_map(|user| [ItemIdx(0), ItemIdx(1 + user as u32 % 2)]).collect(),
            timestamps_ms: (0..users).flat_map(|_| [0, 100 * DAY]).collect(),
            weights: Vec::new(),
        };
        let homes = (0..users).map(|user| (user != 5).then(|| ["a", "b"][user % 2].to_owned())).collect();
        Rankings::new(&timeline, 6, 7.0, Some(&ColumnValues::Text(homes))).unwrap()
    }

    fn rows(list: &[Scored]) -> Vec<u32> {
        list.iter().map(|entry| entry.item.0).collect()
    }

    const ALL: Allowed<'_> = Allowed { filter: None, exclude: &[] };

    #[test]
    fn a_segment_has_its_own_list_and_is_filled_up() {
        let rankings = rankings(120);
        let (source, list) = rankings.list(Some(UserIdx(1)), 4, ALL);
        assert_eq!((source, rows(&list)), (Source::SegmentTrending, vec![2, 1, 0, 3]));
        assert!(list.windows(2).all(|pair| pair[0].score >= pair[1].score), "{list:?}");
        let (source, list) = rankings.list(Some(UserIdx(5)), 2, ALL);
        assert_eq!((source, rows(&list)), (Source::Trending, vec![1, 2]), "no segment");
        let (source, list) = rankings.list(None, 100, ALL);
        assert_eq!((source, list.len()), (Source::Trending, 6));
        let (source, list) = rankings.list(Some(UserIdx(1)), 2, Allowed { filter: None, exclude: &[ItemIdx(2)] });
        assert_eq!((source, rows(&list)), (Source::Trending, vec![1, 0]), "nothing of the segment is left");
    }

    #[test]
    fn a_segment_of_few_is_no_segment() {
        assert_eq!(rankings(98).list(Some(UserIdx(1)), 1, ALL).0, Source::Trending);
    }

    proptest! {
        #[test]
        fn every_way_to_the_list_gives_the_plain_one(
            allowed in prop::collection::vec(any::<bool>(), 300), k in 1_usize..20, step in 1_usize..40,
        ) {
            let items: Vec<ItemIdx> = (0..300_u32).flat_map(|item| vec![ItemIdx(item); (item as usize * 7) % 13]).collect();
            let offsets: Vec<usize> = (0..=items.len()).collect();
            let timeline = Timeline { offsets, items, ..Timeline::default() };
            let rankings = Rankings::new(&timeline, 300, 7.0, None).unwrap();
            let sparse = ItemFilter::from_predicate(300, |item| allowed[item.index()] && item.index() % step == 0);
            let exclude: Vec<ItemIdx> = (0..300).step_by(3).map(ItemIdx).collect();
            let mut expected = rankings.everybody.clone();
            expected.retain(|entry| sparse.contains(entry.item) && entry.item.0 % 3 != 0);
            expected.truncate(k);
            let (_, list) = rankings.list(None, k, Allowed { filter: Some(&sparse), exclude: &exclude });
            prop_assert_eq!(list, expected);
        }
    }
}
