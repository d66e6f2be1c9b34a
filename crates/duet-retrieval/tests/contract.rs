//! One suite over every recommender, on a checkerboard whose right answer is known by construction: items fall into
//! blocks, every listener plays items of one block only, so the rest of that block is what to recommend.
#![expect(clippy::unwrap_used, reason = "tests")]

use std::sync::Arc;

use duet_core::{ItemIdx, UserIdx, encoding::EncodedTable};
use duet_retrieval::{
    ItemFilter, Query, Recommender, Scored, VectorRecommender, Vectors,
    baselines::{
        Als, AlsOptions, Bpr, BprOptions, Content, ContentItems, DEFAULT_LAMBDA, DecayedPopularity, Ease, Interactions,
        ItemKnn, ItemKnnOptions, Oracle, Popularity, Random, Trending, Weighting,
    },
    rerank::{BoostingOptions, Examples, Forest, Reranked, Rescorer, boosting},
    search::{ExactIndex, Index, IvfIndex, IvfOptions, VectorSearch},
};

const BLOCKS: usize = 5;
const BLOCK_ITEMS: usize = 14;
const ITEMS: usize = BLOCKS * BLOCK_ITEMS;
/// Every rotation of every block occurs, so any two items of a block have common listeners.
const USERS: usize = BLOCKS * BLOCK_ITEMS;
const DAY_MS: i64 = 86_400_000;

fn block_of_user(user: usize) -> usize {
    user % BLOCKS
}

fn block_of_item(item: ItemIdx) -> usize {
    item.index() / BLOCK_ITEMS
}

/// Ten of the block's items, a different ten for each listener of the block, with one repeat.
fn history(user: usize) -> Vec<ItemIdx> {
    let first = block_of_user(user) * BLOCK_ITEMS;
    (0..11).map(|step| ItemIdx::from(first + (user / BLOCKS + step % 10) % BLOCK_ITEMS)).collect()
}

fn sorted(mut items: Vec<ItemIdx>) -> Vec<ItemIdx> {
    items.sort_unstable();
    items.dedup();
    items
}

/// Near the block's axis, each a little different.
fn vector(block: usize, variant: usize) -> impl Iterator<Item = f32> {
    let size = move |axis| if axis == block { 1.0 } else { 0.01 * ((variant * 7 + axis * 3) % 11) as f32 };
    (0..BLOCKS).map(size)
}

fn item_vectors() -> Vectors {
    Vectors::new(BLOCKS, (0..ITEMS).flat_map(|item| vector(item / BLOCK_ITEMS, item)).collect()).unwrap()
}

fn user_vectors() -> Vectors {
    Vectors::new(BLOCKS, (0..USERS).flat_map(|user| vector(block_of_user(user), user + 3)).collect()).unwrap()
}

/// One column that names the block.
fn block_features() -> ContentItems {
    let table = EncodedTable {
        rows: ITEMS,
        slots: 1,
        bag_offsets: (0..=ITEMS as u32).collect(),
        bag_ids: (0..ITEMS).map(|item| 1 + (item / BLOCK_ITEMS) as u32).collect(),
        ..EncodedTable::default()
    };
    ContentItems { table, missing: vec![0] }
}

/// Trees over the model's score and the item's row: the block of the listener has the high scores.
struct Trees(Forest);

impl Trees {
    fn new() -> Self {
        let (users, items) = (user_vectors(), item_vectors());
        let mut examples = Examples::new(2);
        for user in 0..USERS {
            let score = |item: usize| users.row(user).iter().zip(items.row(item)).map(|(a, b)| a * b).sum::<f32>();
            let values: Vec<f32> = (0..ITEMS).flat_map(|item| [score(item), item as f32]).collect();
            let labels: Vec<bool> =
                (0..ITEMS).map(|item| block_of_item(ItemIdx::from(item)) == block_of_user(user)).collect();
            examples.push(&values, &labels);
        }
        let options = BoostingOptions { trees: 10, ..BoostingOptions::default() };
        Self(boosting::fit(&examples, &Examples::default(), &options).unwrap().forest)
    }
}

impl Rescorer for Trees {
    fn rescore(&self, _: &Query<'_>, candidates: &[Scored]) -> duet_core::Result<Option<Vec<f32>>> {
        let values: Vec<f32> = candidates.iter().flat_map(|entry| [entry.score, entry.item.0 as f32]).collect();
        self.0.score(&values).map(Some)
    }
}

struct Subject {
    recommender: Box<dyn Recommender>,
    /// Whether it must find the listener's block.
    knows_taste: bool,
}

fn subjects() -> Vec<Subject> {
    let mut offsets = vec![0];
    let (mut items, mut times) = (Vec::new(), Vec::new());
    for user in 0..USERS {
        items.extend(history(user));
        offsets.push(items.len());
        times.extend((0..history(user).len()).map(|step| step as i64 * DAY_MS));
    }
    let interactions = Interactions::new(&offsets, &items, &times, ITEMS).unwrap();
    let vectors = Arc::new(item_vectors());
    let ivf = |nprobe| {
        let mut index = IvfIndex::new(vectors.clone(), &IvfOptions::default()).unwrap();
        index.set_nprobe(nprobe);
        index
    };
    let auto = Index::auto(vectors.clone(), &IvfOptions::default()).unwrap();
    assert!(auto.is_exact(), "a small catalogue is searched exactly");
    let tower = |name: &str, search: Box<dyn VectorSearch>| -> Box<dyn Recommender> {
        Box::new(VectorRecommender::new(name, user_vectors(), search).unwrap())
    };
    let exact = || VectorRecommender::new("exact", user_vectors(), ExactIndex::new(vectors.clone()).unwrap()).unwrap();
    let knn = |weighting| -> Box<dyn Recommender> {
        Box::new(ItemKnn::new(&interactions, ItemKnnOptions { neighbours: 200, weighting }).unwrap())
    };
    let als = AlsOptions { factors: BLOCKS, ..AlsOptions::default() };
    let bpr = BprOptions { factors: 12, learning_rate: 0.05, ..BprOptions::default() };
    let knowing: Vec<Box<dyn Recommender>> = vec![
        knn(Weighting::Cosine),
        knn(Weighting::TfIdf),
        knn(Weighting::BM25),
        Box::new(Content::new(&interactions, &block_features()).unwrap()),
        Box::new(Ease::new(&interactions, DEFAULT_LAMBDA).unwrap()),
        Box::new(Als::new(&interactions, als).unwrap()),
        Box::new(Bpr::new(&interactions, bpr).unwrap()),
        Box::new(Oracle::new(user_vectors(), item_vectors()).unwrap()),
        tower("exact", Box::new(ExactIndex::new(vectors.clone()).unwrap())),
        tower("auto", Box::new(auto)),
        tower("ivf_all_lists", Box::new(ivf(usize::MAX))),
        tower("ivf_half", Box::new(ivf(8))),
        Box::new(Reranked::new("trees_few", exact(), Trees::new(), 5).unwrap()),
        Box::new(Reranked::new("trees_all", exact(), Trees::new(), 2 * ITEMS).unwrap()),
    ];
    let blind: Vec<Box<dyn Recommender>> = vec![
        Box::new(Random::new(ITEMS, 1)),
        Box::new(Popularity::new(&interactions)),
        Box::new(Trending::new(&interactions, 3.0).unwrap()),
        Box::new(DecayedPopularity::new(&interactions, 3.0).unwrap()),
        // One list can't hold a whole block's best, but must still give full lists.
        tower("ivf_one_list", Box::new(ivf(1))),
    ];
    let subject = |knows_taste| move |recommender| Subject { recommender, knows_taste };
    knowing.into_iter().map(subject(true)).chain(blind.into_iter().map(subject(false))).collect()
}

/// What every list must be, whatever the recommender.
fn check_list(name: &str, query: &Query<'_>, list: &[Scored]) {
    let possible = (0..ITEMS).map(ItemIdx::from).filter(|&item| query.allows(item)).count();
    assert_eq!(list.len(), query.k.min(possible), "{name}: length at k = {}", query.k);
    for entry in list {
        assert!(entry.score.is_finite() && query.allows(entry.item) && entry.item.index() < ITEMS, "{name}: {entry:?}");
    }
    for pair in list.windows(2) {
        let ordered = pair[0].score > pair[1].score || (pair[0].score == pair[1].score && pair[0].item < pair[1].item);
        assert!(ordered, "{name}: {pair:?} out of order (or one item twice)");
    }
    let items = sorted(list.iter().map(|entry| entry.item).collect());
    assert_eq!(items.len(), list.len(), "{name}: an item twice");
}

#[test]
fn lists_keep_their_promises() {
    let odd = ItemFilter::from_predicate(ITEMS, |item| item.0 % 2 == 1);
    let one = ItemFilter::from_items(ITEMS, [ItemIdx(33)]).unwrap();
    let nothing = ItemFilter::from_items(ITEMS, []).unwrap();
    let everything: Vec<ItemIdx> = (0..ITEMS).map(ItemIdx::from).collect();
    for Subject { recommender, .. } in subjects() {
        for user in [0, 7, USERS - 1] {
            let history = history(user);
            let seen = sorted(history.clone());
            for filter in [None, Some(&odd), Some(&one), Some(&nothing)] {
                for exclude in [&[][..], &seen, &everything[1..], &everything] {
                    for k in [1, 4, 10, ITEMS - 1, ITEMS, 10 * ITEMS] {
                        let query = Query { user: Some(UserIdx::from(user)), history: &history, k, filter, exclude };
                        let lists = recommender.recommend(&[query]).unwrap();
                        assert_eq!(lists.len(), 1);
                        check_list(recommender.name(), &query, &lists[0]);
                    }
                }
            }
        }
        assert!(recommender.recommend(&[]).unwrap().is_empty());
    }
}

#[test]
fn the_right_block_comes_first() {
    for Subject { recommender, knows_taste } in subjects() {
        for user in (0..USERS).filter(|_| knows_taste) {
            let history = history(user);
            let seen = sorted(history.clone());
            let k = BLOCK_ITEMS - seen.len();
            let query = Query { user: Some(UserIdx::from(user)), history: &history, k, filter: None, exclude: &seen };
            let list = recommender.recommend(&[query]).unwrap().remove(0);
            let right = list.iter().all(|entry| block_of_item(entry.item) == block_of_user(user));
            assert!(right, "{}: user {user}: {list:?}", recommender.name());
        }
        for item in (0..ITEMS).map(ItemIdx::from) {
            let list = recommender.similar(item, BLOCK_ITEMS - 1).unwrap();
            let query = Query { user: None, history: &[], k: BLOCK_ITEMS - 1, filter: None, exclude: &[item] };
            check_list(recommender.name(), &query, &list);
            if knows_taste {
                let right = list.iter().all(|entry| block_of_item(entry.item) == block_of_item(item));
                assert!(right, "{}: like {item:?}: {list:?}", recommender.name());
            }
        }
        assert_eq!(recommender.similar(ItemIdx(3), 10 * ITEMS).unwrap().len(), ITEMS - 1);
    }
}

#[test]
fn impossible_queries_are_errors() {
    let good = Query { user: Some(UserIdx(0)), history: &[], k: 3, filter: None, exclude: &[] };
    let beyond = [ItemIdx::from(ITEMS)];
    let foreign = ItemFilter::all(ITEMS + 1);
    for Subject { recommender, .. } in subjects() {
        let fails = |query: Query<'_>, word: &str| {
            let error = recommender.recommend(&[good, query]).unwrap_err().to_string();
            assert!(error.contains(word), "{}: {error}", recommender.name());
        };
        fails(Query { k: 0, ..good }, "k is 0");
        fails(Query { history: &beyond, ..good }, "history");
        fails(Query { exclude: &beyond, ..good }, "exclude");
        fails(Query { exclude: &[ItemIdx(2), ItemIdx(1)], ..good }, "sorted");
        fails(Query { exclude: &[ItemIdx(2), ItemIdx(2)], ..good }, "sorted");
        fails(Query { filter: Some(&foreign), ..good }, "filter");
        assert!(recommender.similar(ItemIdx(0), 0).unwrap_err().to_string().contains("k is 0"));
        assert!(recommender.similar(beyond[0], 3).unwrap_err().to_string().contains("item"));
    }
}

#[test]
fn strangers_get_full_lists() {
    let known = history(2);
    for Subject { recommender, knows_taste } in subjects() {
        for history in [&[][..], &known] {
            let query = Query { user: None, history, k: 4, filter: None, exclude: &[] };
            let list = recommender.recommend(&[query]).unwrap().remove(0);
            check_list(recommender.name(), &query, &list);
            if knows_taste && !history.is_empty() && recommender.name() != "oracle" {
                let right = list.iter().all(|entry| block_of_item(entry.item) == block_of_user(2));
                assert!(right, "{}: from the history alone: {list:?}", recommender.name());
            }
        }
    }
}

#[test]
fn answers_depend_on_the_query_alone() {
    let histories: Vec<Vec<ItemIdx>> = (0..USERS).map(history).collect();
    let queries: Vec<Query<'_>> = histories
        .iter()
        .enumerate()
        .map(|(user, history)| Query {
            user: Some(UserIdx::from(user)),
            history,
            k: 1 + user % 20,
            filter: None,
            exclude: &[],
        })
        .collect();
    let run = |threads| -> Vec<Vec<Vec<Scored>>> {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        pool.install(|| subjects().iter().map(|subject| subject.recommender.recommend(&queries).unwrap()).collect())
    };
    let (one, four) = (run(1), run(4));
    assert_eq!(one, four, "the number of threads must not matter");
    for (subject, lists) in subjects().iter().zip(one) {
        for (query, list) in queries.iter().zip(lists) {
            let alone = subject.recommender.recommend(std::slice::from_ref(query)).unwrap();
            assert_eq!(alone[0], list, "{}: alone and in a batch", subject.recommender.name());
        }
    }
}
