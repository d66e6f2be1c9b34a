//! A worker's state over one engine: the towers made ready, working memory, the threads of the re-ranker and of a database that is
//! searched. Answers batches.

use std::sync::Arc;

use duet_train::embedding_pass::UserEmbedder;

use crate::{
    engine::Engine,
    request::{Answer, ListRequest},
    stages::{self, Draft, rerank::LazyThread, retriever::TableThread, user_vector::Towers},
};

/// Answers requests on one engine; made once a thread, for it holds working memory as large as the item table has rows.
#[derive(Debug)]
pub struct Worker {
    engine: Arc<Engine>,
    towers: Towers,
    reranking: LazyThread,
    /// Where candidates are looked for before the bundle's own index.
    table: Option<TableThread>,
}

impl Worker {
    /// Makes an engine's towers ready.
    pub fn new(engine: Arc<Engine>) -> Self {
        let table = engine.retriever.as_ref().map(TableThread::start);
        Self { table, ..Self::alone(engine) }
    }

    /// The same with nothing but the bundle: candidates are those of its own index.
    pub(crate) fn alone(engine: Arc<Engine>) -> Self {
        let towers = UserEmbedder::new(Arc::clone(&engine.model));
        Self { engine, towers, reranking: LazyThread::default(), table: None }
    }

    /// The engine that answers.
    pub fn engine(&self) -> &Arc<Engine> {
        &self.engine
    }

    /// One answer a request, in their order. The requests' rows must be those of this worker's engine.
    pub fn answer(&mut self, batch: &[ListRequest]) -> Vec<Answer> {
        let engine = &self.engine;
        let mut drafts: Vec<Draft<'_>> = batch.iter().map(Draft::new).collect();
        stages::history::run(engine, &mut drafts);
        stages::user_vector::run(engine, &mut self.towers, &mut drafts);
        stages::candidates::run(engine, self.table.as_mut(), &mut drafts);
        stages::filters::run(engine, &mut drafts);
        stages::rerank::run(engine, &mut self.reranking, &mut drafts);
        stages::diversity::run(engine, &mut drafts);
        stages::answer::run(engine, Some(&mut self.towers), &mut drafts);
        drafts.into_iter().map(Draft::finish).collect()
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use duet_core::{ItemIdx, UserIdx};
    use duet_retrieval::search::VectorSearch;
    use duet_train::embedding_pass::UserInput;

    use super::*;
    use crate::{
        engine::{DiversityOptions, EngineOptions},
        request::{Listener, Source},
        small_bundle::{BLANK, GENRES, ITEMS, QUIET, UNHEARD, USERS, Which, bundle, known, request, variant},
        variants::Arm,
    };

    fn options() -> EngineOptions {
        EngineOptions { segment_column: Some("country".into()), ..EngineOptions::default() }
    }

    fn worker(which: Which, options: &EngineOptions) -> Worker {
        Worker::new(Engine::open(&bundle(which), options).unwrap())
    }

    fn rows(answer: &Answer) -> Vec<u32> {
        answer.items.iter().map(|entry| entry.item.0).collect()
    }

    #[test]
    fn the_live_tower_gives_the_stored_vectors_and_reads_live_items_like_trained_ones() {
        for which in [Which::First, Which::Ivf] {
            let mut worker = worker(which, &options());
            let engine = Arc::clone(worker.engine());
            let close = |left: &[f32], right: &[f32]| {
                assert_eq!(left.len(), right.len());
                for (left, right) in left.iter().zip(right) {
                    assert!((left - right).abs() <= 1e-4 * right.abs().max(1.0), "{left} {right}");
                }
            };
            let users: Vec<UserIdx> = (0..USERS as u32 + 1).map(UserIdx).collect();
            let inputs = users.iter().map(|&user| engine.stored_input(user));
            let vectors = worker.towers.embed(&engine.config, &engine.user_features, inputs).unwrap();
            for (user, vector) in users.iter().zip(vectors.chunks_exact(worker.towers.width())) {
                close(vector, engine.user_vectors.row(user.index()));
            }
            // More live items than a window holds, and fewer; one of them is no item to the model.
            for live in [vec![5, 9, UNHEARD.0, 5], (0..150).collect()] {
                let requests = [request(known(UserIdx(3), &live))];
                let mut drafts = [Draft::new(&requests[0])];
                stages::history::run(&engine, &mut drafts);
                stages::user_vector::run(&engine, &mut worker.towers, &mut drafts);
                let mut items = engine.history(UserIdx(3)).to_vec();
                items.extend(live.iter().map(|&item| ItemIdx(item)).filter(|&item| item != UNHEARD));
                let whole = UserInput { items: &items, ..engine.stored_input(UserIdx(3)) };
                let expected = worker.towers.embed(&engine.config, &engine.user_features, [whole]).unwrap();
                close(drafts[0].vector.as_deref().unwrap(), &expected);
            }
        }
    }

    #[test]
    fn an_answer_does_not_depend_on_its_batch() {
        let mut worker = worker(Which::First, &options());
        let requests: Vec<ListRequest> =
            (0..40).map(|user| request(known(UserIdx(user), &(0..user % 5).collect::<Vec<u32>>()))).collect();
        let together = worker.answer(&requests);
        for (request, expected) in requests.iter().zip(&together) {
            let alone = worker.answer(std::slice::from_ref(request)).remove(0);
            assert_eq!(rows(&alone), rows(expected));
        }
    }

    #[test]
    fn a_listen_changes_the_next_list_and_is_not_in_it() {
        let mut worker = worker(Which::First, &options());
        // An even user, of the first half's taste, turns to the second half.
        let before = worker.answer(&[request(known(UserIdx(0), &[]))]).remove(0);
        let live = [120, 130, 140, 150, 160, 170, 180, 190];
        let after = worker.answer(&[request(known(UserIdx(0), &live))]).remove(0);
        assert_eq!((before.source, after.source), (Source::Personal, Source::Personal));
        assert_ne!(rows(&before), rows(&after));
        assert!(rows(&after).iter().all(|item| !live.contains(item)));
        assert!(before.degraded.is_empty() && after.degraded.is_empty());
        // What the model never saw played is seen all the same, and moves nothing else.
        let unheard = worker.answer(&[request(known(UserIdx(0), &[UNHEARD.0]))]).remove(0);
        let expected: Vec<u32> = rows(&before).into_iter().filter(|&item| item != UNHEARD.0).collect();
        assert_eq!(rows(&unheard)[..expected.len().min(9)], expected[..expected.len().min(9)]);
    }

    #[test]
    fn excluded_and_filtered_items_never_appear_and_k_is_kept() {
        let baselines = ["trending", "popularity", "item-knn", "random"].map(str::to_owned).to_vec();
        let options = EngineOptions { baselines: baselines.clone(), ..options() };
        let arms = || baselines.iter().cloned().map(Arm::Baseline).chain([Arm::TwoTower]);
        for which in [Which::First, Which::Ivf] {
            let mut worker = worker(which, &options);
            let engine = Arc::clone(worker.engine());
            let filters = [vec![], vec!["genre=rock".to_owned()], vec!["genre=jazz".into(), "followers>=1800".into()]];
            let mut requests = Vec::new();
            for arm in arms() {
                for filter in &filters {
                    for (user, k, exclude_seen) in
                        [(0, 10, true), (1, 190, true), (2, 7, false), (USERS as u32 + 1, 10, true)]
                    {
                        requests.push(ListRequest {
                            k,
                            exclude_seen,
                            filter: engine.filter(filter).unwrap(),
                            variant: variant(arm.clone(), false),
                            ..request(known(UserIdx(user), &[3, 4, 5, UNHEARD.0]))
                        });
                    }
                }
            }
            let answers = worker.answer(&requests);
            for (request, answer) in requests.iter().zip(&answers) {
                let mut seen = engine.history(request.listener.row().unwrap()).to_vec();
                seen.extend([3, 4, 5, UNHEARD.0].map(ItemIdx));
                let is_allowed = |item: ItemIdx| {
                    request.filter.as_ref().is_none_or(|filter| filter.contains(item))
                        && !(request.exclude_seen && seen.contains(&item))
                };
                let mut items: Vec<ItemIdx> = answer.items.iter().map(|entry| entry.item).collect();
                assert!(items.iter().all(|&item| is_allowed(item)), "{request:?}");
                items.sort_unstable();
                items.dedup();
                let possible = (0..ITEMS as u32).map(ItemIdx).filter(|&item| is_allowed(item)).count();
                assert_eq!(items.len(), request.k.min(possible), "{request:?}");
                assert!(answer.items.windows(2).all(|pair| pair[0].score >= pair[1].score), "{request:?} {answer:?}");
                assert!(answer.degraded.is_empty(), "{answer:?}");
                let is_baseline = request.variant.recommender != Arm::TwoTower;
                assert_eq!(answer.source == Source::Baseline, is_baseline);
            }
        }
    }

    #[test]
    fn whoever_is_unknown_gets_what_is_played() {
        let mut worker = worker(Which::Ivf, &options());
        let unknown = Listener::Known { id: "nobody".into(), row: None, live: Vec::new() };
        let nothing = Listener::Anonymous { history: Vec::new() };
        let somebody = Listener::Anonymous { history: vec![ItemIdx(1), ItemIdx(2)] };
        // The model of this bundle reads no features, so the country is all that tells the quiet one.
        let requests = [unknown, nothing, somebody, known(QUIET, &[]), known(BLANK, &[]), known(BLANK, &[7])];
        let answers = worker.answer(&requests.map(request));
        let sources: Vec<Source> = answers.iter().map(|answer| answer.source).collect();
        let expected = [
            Source::Trending,
            Source::Trending,
            Source::Personal,
            Source::SegmentTrending,
            Source::Trending,
            Source::Personal,
        ];
        assert_eq!(sources, expected);
        assert!(answers.iter().all(|answer| answer.items.len() == 10 && answer.degraded.is_empty()));
        assert!(rows(&answers[2]).iter().all(|item| ![1, 2].contains(item)));
        // With features the quiet one has a vector, though no history.
        let quiet = self::worker(Which::First, &options()).answer(&[request(known(QUIET, &[]))]).remove(0);
        assert_eq!((quiet.source, quiet.items.len()), (Source::Personal, 10));
    }

    #[test]
    fn a_fallback_says_why_and_keeps_the_rules() {
        let worker = worker(Which::First, &options());
        let answer = worker.engine().fallback(&request(known(UserIdx(0), &[3])), "deadline");
        assert_eq!((answer.source, answer.degraded.as_slice()), (Source::SegmentTrending, &["deadline"][..]));
        assert_eq!(answer.items.len(), 10);
        let seen = worker.engine().history(UserIdx(0));
        assert!(answer.items.iter().all(|entry| entry.item.0 != 3 && !seen.contains(&entry.item)));
    }

    #[test]
    fn lists_are_varied_where_that_is_asked_for() {
        let diversity = DiversityOptions { column: "genres".into(), max_per_group: 2 };
        let mut worker = worker(Which::First, &EngineOptions { diversity: Some(diversity.clone()), ..options() });
        // Whoever is unknown gets varied trends.
        let nobody = || Listener::Known { id: "nobody".into(), row: None, live: Vec::new() };
        let listeners = (0..20).map(|user| known(UserIdx(user), &[user])).chain([nobody()]);
        for listener in listeners {
            let answer = worker.answer(&[ListRequest { k: 8, ..request(listener) }]).remove(0);
            let of = |genre: usize| {
                rows(&answer).iter().filter(|&&item| item % 7 != 0 && item as usize % GENRES.len() == genre).count()
            };
            assert_eq!(answer.items.len(), 8);
            assert!((0..GENRES.len()).all(|genre| of(genre) <= 2), "{answer:?}");
        }
        let late = worker.engine().fallback(&ListRequest { k: 8, ..request(nobody()) }, "deadline");
        let trending = worker.answer(&[ListRequest { k: 8, ..request(nobody()) }]).remove(0);
        assert_eq!(rows(&late), rows(&trending));
        let missing =
            EngineOptions { diversity: Some(DiversityOptions { column: "mood".into(), ..diversity }), ..options() };
        let error = Engine::open(&bundle(Which::First), &missing).unwrap_err().to_string();
        assert!(error.contains("mood") && error.contains("genres"), "{error}");
    }

    #[test]
    fn reasons_are_items_of_the_history_that_spoke_for_the_item() {
        for which in [Which::First, Which::Ivf] {
            let mut worker = worker(which, &options());
            let asked = ListRequest { explain: true, ..request(known(UserIdx(4), &[11, 12])) };
            let answer = worker.answer(&[asked]).remove(0);
            let mut history = worker.engine().history(UserIdx(4)).to_vec();
            history.extend([11, 12].map(ItemIdx));
            assert!(answer.items.iter().any(|entry| !entry.reasons.is_empty()), "{answer:?}");
            for entry in &answer.items {
                assert!(entry.reasons.len() <= 3);
                assert!(entry.reasons.iter().all(|reason| history.contains(&reason.item)));
                assert!(entry.reasons.iter().all(|reason| reason.share > 0.0 && reason.share <= 1.0));
                assert!(entry.reasons.windows(2).all(|pair| pair[0].share >= pair[1].share));
                assert!(entry.reasons.iter().map(|reason| reason.share).sum::<f32>() <= 1.001);
            }
            let silent = worker.answer(&[request(known(UserIdx(4), &[11, 12]))]).remove(0);
            assert!(silent.items.iter().all(|entry| entry.reasons.is_empty()));
        }
    }

    #[test]
    fn similar_artists_are_the_nearest_by_cosine() {
        let engine = Engine::open(&bundle(Which::First), &options()).unwrap();
        let width = engine.config.model.dim;
        let vector = |item: usize| &engine.index.vectors().row(item)[..width];
        let dot = |left: &[f32], right: &[f32]| left.iter().zip(right).map(|(left, right)| left * right).sum::<f32>();
        let cosine = |other: usize| {
            dot(vector(8), vector(other)) / (dot(vector(8), vector(8)) * dot(vector(other), vector(other))).sqrt()
        };
        let found = engine.similar(ItemIdx(8), 5).unwrap();
        let best = (0..ITEMS).filter(|&other| other != 8).map(cosine).fold(f32::MIN, f32::max);
        assert_eq!(found.len(), 5);
        assert!((found[0].score - best).abs() < 1e-5 && found.iter().all(|entry| entry.item != ItemIdx(8)));
        assert!(engine.similar(ItemIdx(ITEMS as u32), 5).is_err());
    }

    #[test]
    fn filters_are_kept_and_refusals_say_what_would_be_valid() {
        let engine = Engine::open(&bundle(Which::First), &options()).unwrap();
        let rock = ["genre=rock".to_owned()];
        let first = engine.filter(&rock).unwrap().unwrap();
        assert!(Arc::ptr_eq(&first, &engine.filter(&rock).unwrap().unwrap()));
        assert!(engine.filter(&[]).unwrap().is_none());
        // One expression that looks like two joined spoils nothing for who asks for the two.
        assert!(engine.filter(&["genre=rock\u{1f}followers>=100".to_owned()]).is_err());
        assert!(engine.filter(&["genre=rock".to_owned(), "followers>=100".to_owned()]).is_ok());
        for _ in 0..2 {
            let error = engine.filter(&["genre=polka".to_owned()]).unwrap_err().to_string();
            assert!(error.contains("polka") && error.contains("folk, jazz, pop, rock"), "{error}");
        }
    }
}
