//! Ingest from NATS and from lines: every event once, whatever is killed, stopped or taken away in the middle.

use std::{
    collections::VecDeque,
    env, fs,
    net::TcpListener,
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use async_nats::jetstream::{self, Context, consumer, stream};
use duet_core::Result;
use duet_data::{
    ingest::{
        Delivery, EventSource, Feed, Flow, IngestOptions, IngestSummary, Lag, LineSource, NatsOptions, NatsSource,
        ingest,
    },
    raw::{Ranges, RawZone, ZoneOptions},
    store::{Location, PATIENCE},
};
use futures::StreamExt;

use crate::{raw::read_zone, s3::S3Server, services};

/// The subject of a stream that the tests read; the streams collect more.
const EVENTS: &str = "events";
/// Publishes that wait for their acknowledgement.
const WINDOW: usize = 4_096;

/// A stream of a test's own, removed at its end.
struct TestStream {
    url: String,
    name: String,
    context: Context,
    remove: bool,
}

impl TestStream {
    async fn new(url: &str, test: &str) -> Self {
        let name = format!("duet-test-{test}-{}", std::process::id());
        let context = jetstream::new(async_nats::connect(url).await.unwrap());
        let made = Self { url: url.to_owned(), name, context, remove: true };
        made.create().await;
        made
    }

    async fn create(&self) {
        let subjects = vec![format!("{}.>", self.name)];
        let config = stream::Config { name: self.name.clone(), subjects, ..stream::Config::default() };
        self.context.create_stream(config).await.unwrap();
    }

    fn subject(&self, last: &str) -> String {
        format!("{}.{last}", self.name)
    }

    /// Publishes the numbered events, in order; gives when the server has them.
    async fn publish(&self, numbers: std::ops::Range<u64>) {
        let mut waiting = VecDeque::new();
        for number in numbers {
            let sent = self.context.publish(self.subject(EVENTS), payload(number).into());
            waiting.push_back(sent.await.unwrap());
            if waiting.len() >= WINDOW {
                waiting.pop_front().unwrap().await.unwrap();
            }
        }
        for sent in waiting {
            sent.await.unwrap();
        }
    }

    fn options(&self) -> NatsOptions {
        NatsOptions {
            subject: Some(self.subject(EVENTS)),
            ack_wait: Duration::from_secs(1),
            patience: Duration::from_secs(10),
            ..NatsOptions::new(&self.url, &self.name, "zone")
        }
    }
}

impl Drop for TestStream {
    fn drop(&mut self) {
        if !self.remove {
            return;
        }
        let (url, name) = (self.url.clone(), self.name.clone());
        // A runtime of its own, for the test's may be the one that drops this.
        let removed = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(async {
                let context = jetstream::new(async_nats::connect(url).await.map_err(std::io::Error::other)?);
                context.delete_stream(name).await.map_err(std::io::Error::other)
            })
        });
        let _ = removed.join();
    }
}

/// An event of 250 bytes that says its number, of an hour that changes every thousand events.
pub(crate) fn payload(number: u64) -> Vec<u8> {
    let (hour, minute) = (number / 1_000 % 24, number % 60);
    let mut text = format!(
        r#"{{"event_id":"e-{number:012}","type":"listen","user_id":"u-{:06}","item_kind":"song","item_id":"s-{:06}","ts":"2025-03-03T{hour:02}:{minute:02}:00Z","ms_played":{:06},"surface":"home","session_id":""#,
        number * 7 % 100_000,
        number * 31 % 50_000,
        number % 240_000
    );
    while text.len() < 248 {
        text.push('x');
    }
    text.push_str("\"}");
    text.into_bytes()
}

/// Small batches, until everything is in.
pub(crate) fn quick() -> IngestOptions {
    IngestOptions {
        batch_bytes: 100_000,
        batch_age: Duration::from_millis(100),
        until_empty: true,
        ..IngestOptions::default()
    }
}

pub(crate) fn zone_at(path: &Path) -> Location {
    Location::parse(path.to_str().unwrap()).unwrap()
}

pub(crate) async fn run(
    source: &mut impl EventSource,
    to: &Location,
    options: &IngestOptions,
) -> Result<IngestSummary> {
    let zone = RawZone::create_or_open(to.clone(), ZoneOptions::default()).await?;
    Ok(ingest(source, zone, options).await?.1)
}

async fn run_nats(nats: &NatsOptions, to: &Location, options: &IngestOptions) -> Result<IngestSummary> {
    run(&mut NatsSource::open(nats.clone()).await?, to, options).await
}

/// Checks that the zone has the events with these numbers, each once, in a stream without any others.
async fn check(to: &Location, count: u64) -> RawZone {
    let zone = RawZone::open(to.clone()).await.unwrap();
    let mut events = read_zone(&zone).await;
    events.sort();
    let sequences: Vec<u64> = events.iter().map(|event| event.sequence).collect();
    assert_eq!(sequences, (1..=count).collect::<Vec<_>>(), "lost or doubled");
    for event in &events {
        assert_eq!(event.payload, payload(event.sequence - 1));
        assert!(
            event.source.starts_with("nats:duet-test-") && event.received_ms.is_some_and(|at| at > 1_700_000_000_000)
        );
    }
    zone
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_a_subject_comes_once() {
    let Some(url) = services::nats() else { return };
    let stream = TestStream::new(&url, "once").await;
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    for round in 0..3_u64 {
        for number in 0..2_000 {
            // Gaps in the sequences of the subject.
            let (subject, number) = match number % 3 {
                0 => ("other", 0),
                _ => (EVENTS, round * 2_000 + number),
            };
            let sent = stream.context.publish(stream.subject(subject), payload(number).into());
            drop(sent.await.unwrap());
        }
        stream.context.publish(stream.subject("end"), "".into()).await.unwrap().await.unwrap();
        // What is sent again on a busy machine leaves gaps of which nothing is known.
        let patient = NatsOptions { ack_wait: Duration::from_secs(60), ..stream.options() };
        let summary = run_nats(&patient, &to, &quick()).await.unwrap();
        assert_eq!((summary.events, summary.known, summary.lag), (1_333, 0, Some(0)));
        assert!(summary.batches >= 3, "{summary:?}");
    }
    let zone = RawZone::open(to.clone()).await.unwrap();
    let (source, ranges) = zone.committed().next().unwrap();
    assert_eq!(source, format!("nats:{}", stream.name));
    // A range a run: within it the gaps are known to be none.
    assert_eq!(ranges.len(), 3, "{ranges:?}");
    let events = read_zone(&zone).await;
    assert_eq!(events.len(), 3_999);
    let mut numbers: Vec<Vec<u8>> = events.into_iter().map(|event| event.payload).collect();
    numbers.sort();
    numbers.dedup();
    assert_eq!(numbers.len(), 3_999);
    let summary = run_nats(&stream.options(), &to, &quick()).await.unwrap();
    assert_eq!((summary.events, summary.batches), (0, 0));
}

/// A source whose acknowledgements get lost: as if the process were killed after each commit. It has so many events.
struct Silent(NatsSource, u64);

impl EventSource for Silent {
    type Ticket = <NatsSource as EventSource>::Ticket;
    fn feeds(&self) -> &[Feed] {
        self.0.feeds()
    }
    async fn receive(&mut self, limit: usize, wait: Duration, into: &mut Vec<Delivery<Self::Ticket>>) -> Result<Flow> {
        let flow = self.0.receive(limit, wait, into).await;
        self.1 -= into.len() as u64;
        flow
    }
    async fn acknowledge(&mut self, _: Vec<Self::Ticket>) -> Result<()> {
        Ok(())
    }
    async fn hold(&mut self, _: &[Self::Ticket]) -> Result<()> {
        Ok(())
    }
    fn hold_every(&self) -> Option<Duration> {
        None
    }
    async fn release(&mut self) {}
    async fn lag(&mut self) -> Result<Option<Lag>> {
        let lag = self.0.lag().await?;
        Ok(lag.map(|lag| Lag { caught_up: self.1 == 0, ..lag }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_committed_and_not_acknowledged_is_known() {
    let Some(url) = services::nats() else { return };
    let stream = TestStream::new(&url, "silent").await;
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    stream.publish(0..3_000).await;
    // Long enough that nothing comes again within this run.
    let nats = NatsOptions { ack_wait: Duration::from_secs(4), ..stream.options() };
    let mut silent = Silent(NatsSource::open(nats).await.unwrap(), 3_000);
    let summary = run(&mut silent, &to, &quick()).await.unwrap();
    assert_eq!((summary.events, summary.lag), (3_000, Some(3_000)));
    drop(silent);
    stream.publish(3_000..3_500).await;
    let summary = run_nats(&stream.options(), &to, &quick()).await.unwrap();
    assert_eq!((summary.events, summary.lag), (500, Some(0)));
    assert!(summary.known >= 3_000, "{summary:?}");
    let zone = check(&to, 3_500).await;
    assert_eq!(zone.committed().next().unwrap().1.iter().collect::<Vec<_>>(), [(1, 3_500)]);
}

#[tokio::test(flavor = "multi_thread")]
async fn events_that_come_again_in_another_order_come_once() {
    let Some(url) = services::nats() else { return };
    let stream = TestStream::new(&url, "order").await;
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    stream.publish(0..1_000).await;
    // A run that took some and was killed: they come again later than the rest.
    let source = NatsSource::open(stream.options()).await.unwrap();
    drop(source);
    let taken: consumer::PullConsumer =
        stream.context.get_stream(&stream.name).await.unwrap().get_consumer("zone").await.unwrap();
    let taken: Vec<_> = taken.fetch().max_messages(300).messages().await.unwrap().collect().await;
    assert_eq!(taken.len(), 300);
    let summary = run_nats(&stream.options(), &to, &quick()).await.unwrap();
    assert_eq!((summary.events, summary.lag), (1_000, Some(0)));
    check(&to, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_keeps_what_it_took_and_the_next_goes_on() {
    let Some(url) = services::nats() else { return };
    let stream = TestStream::new(&url, "stop").await;
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    stream.publish(0..20_000).await;
    let stop = Arc::new(AtomicBool::new(false));
    // A batch that would never be complete by itself.
    let options = IngestOptions { until_empty: false, stop: Arc::clone(&stop), ..IngestOptions::default() };
    let set = async {
        tokio::time::sleep(Duration::from_millis(500)).await;
        stop.store(true, Ordering::SeqCst);
    };
    let nats = stream.options();
    let (summary, ()) = tokio::join!(run_nats(&nats, &to, &options), set);
    let summary = summary.unwrap();
    assert!(summary.events > 0 && summary.batches >= 1, "{summary:?}");
    let rest = run_nats(&stream.options(), &to, &quick()).await.unwrap();
    assert_eq!(summary.events + rest.events, 20_000);
    check(&to, 20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_held_longer_than_the_server_waits_comes_once() {
    let Some(url) = services::nats() else { return };
    let stream = TestStream::new(&url, "held").await;
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    stream.publish(0..500).await;
    let stop = Arc::new(AtomicBool::new(false));
    let options = IngestOptions { until_empty: false, stop: Arc::clone(&stop), ..IngestOptions::default() };
    let set = async {
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        stop.store(true, Ordering::SeqCst);
    };
    // The server waits for one second, the batch stays open for three and a half.
    let nats = stream.options();
    let (summary, ()) = tokio::join!(run_nats(&nats, &to, &options), set);
    let summary = summary.unwrap();
    assert_eq!((summary.events, summary.known, summary.batches), (500, 0, 1));
    let mut stream_of_zone = stream.context.get_stream(&stream.name).await.unwrap();
    stream_of_zone.info().await.unwrap();
    let info = stream_of_zone.consumer_info("zone").await.unwrap();
    assert_eq!(info.delivered.consumer_sequence, 500, "held events were sent again");
    check(&to, 500).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_ingests_into_a_zone_one_fails_and_nothing_is_lost() {
    let Some(url) = services::nats() else { return };
    let stream = TestStream::new(&url, "rivals").await;
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    run_nats(&stream.options(), &to, &quick()).await.unwrap();
    stream.publish(0..20_000).await;
    let (nats, options) = (stream.options(), IngestOptions { batch_bytes: 20_000, ..quick() });
    let (one, two) = tokio::join!(run_nats(&nats, &to, &options), run_nats(&nats, &to, &options));
    let errors: Vec<String> = [one, two].into_iter().filter_map(|run| Some(run.err()?.to_string())).collect();
    assert!(!errors.is_empty() && errors.iter().all(|error| error.contains("another process writes")), "{errors:?}");
    run_nats(&nats, &to, &quick()).await.unwrap();
    check(&to, 20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_batch_that_ends_amid_what_came_skips_nothing() {
    let Some(url) = services::nats() else { return };
    let stream = TestStream::new(&url, "amid").await;
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    stream.publish(0..10_000).await;
    let nats = NatsOptions { ack_wait: Duration::from_secs(60), ..stream.options() };
    let options = IngestOptions { batch_events: 999, ..quick() };
    // What was skipped would come again after a minute only.
    let summary = tokio::time::timeout(Duration::from_secs(40), run_nats(&nats, &to, &options)).await.unwrap().unwrap();
    assert_eq!((summary.events, summary.known, summary.lag), (10_000, 0, Some(0)));
    assert_eq!(check(&to, 10_000).await.committed().next().unwrap().1.len(), 1);
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_told_plainly() {
    let Some(url) = services::nats() else { return };
    let stream = TestStream::new(&url, "errors").await;
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    let refused = |nats: NatsOptions| {
        let to = to.clone();
        async move { run_nats(&nats, &to, &quick()).await.unwrap_err().to_string() }
    };
    let none = NatsOptions { stream: "no-such-stream".to_owned(), ..stream.options() };
    let error = refused(none.clone()).await;
    assert!(
        error.contains("no stream \"no-such-stream\"") && error.contains("nats stream add no-such-stream"),
        "{error}"
    );
    assert!(error.contains("--create-stream"), "{error}");
    let error = refused(NatsOptions { create_stream: true, subject: None, ..none }).await;
    assert!(error.contains("--subject"), "{error}");
    let error = refused(NatsOptions { stream: "a.b".to_owned(), ..stream.options() }).await;
    assert!(error.contains("\"a.b\""), "{error}");

    let server = stream.context.get_stream(&stream.name).await.unwrap();
    let push = consumer::push::Config {
        durable_name: Some("pushed".to_owned()),
        deliver_subject: format!("to-{}", stream.name),
        ..consumer::push::Config::default()
    };
    server.create_consumer(push).await.unwrap();
    let error = refused(NatsOptions { consumer: "pushed".to_owned(), ..stream.options() }).await;
    assert!(error.contains("\"pushed\"") && error.contains("it pushes") && error.contains("--consumer"), "{error}");
    let other = consumer::pull::Config {
        durable_name: Some("other".to_owned()),
        filter_subject: stream.subject("other"),
        ..consumer::pull::Config::default()
    };
    server.create_consumer(other).await.unwrap();
    let error = refused(NatsOptions { consumer: "other".to_owned(), ..stream.options() }).await;
    assert!(error.contains("its subject is") && error.contains(&stream.subject("other")), "{error}");

    // The zone knows the stream by when it was made, and by the subject.
    stream.publish(0..10).await;
    run_nats(&stream.options(), &to, &quick()).await.unwrap();
    let error = refused(NatsOptions { subject: None, consumer: "all".to_owned(), ..stream.options() }).await;
    assert!(error.contains("take another zone") && error.contains("subject >"), "{error}");
    stream.context.delete_stream(&stream.name).await.unwrap();
    stream.create().await;
    stream.publish(0..10).await;
    let error = refused(stream.options()).await;
    assert!(error.contains("take another zone") && error.contains("made at"), "{error}");
    check(&to, 10).await;

    let gone = NatsOptions {
        url: "nats://user:secret@127.0.0.1:1".to_owned(),
        patience: Duration::from_millis(700),
        ..stream.options()
    };
    let error = refused(gone).await;
    assert!(error.contains("127.0.0.1:1") && error.contains("tried for") && !error.contains("secret"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_is_made_where_asked() {
    let Some(url) = services::nats() else { return };
    let mut stream = TestStream::new(&url, "made").await;
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    stream.context.delete_stream(&stream.name).await.unwrap();
    stream.remove = false;
    let nats = NatsOptions { create_stream: true, ..stream.options() };
    assert_eq!(run_nats(&nats, &to, &quick()).await.unwrap().events, 0);
    stream.remove = true;
    stream.publish(0..10).await;
    assert_eq!(run_nats(&nats, &to, &quick()).await.unwrap().events, 10);
    check(&to, 10).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_store_that_goes_away_in_the_middle_loses_nothing() {
    let Some(url) = services::nats() else { return };
    let stream = TestStream::new(&url, "store").await;
    let dir = tempfile::tempdir().unwrap();
    let server = S3Server::start(&dir.path().join("s3")).await;
    let to = server.location("zone", Duration::from_millis(1_500));
    stream.publish(0..30_000).await;
    let options = IngestOptions { batch_bytes: 50_000, ..quick() };
    let away = async {
        tokio::time::sleep(Duration::from_millis(400)).await;
        server.set_down(true);
    };
    let nats = stream.options();
    let (ended, ()) = tokio::join!(run_nats(&nats, &to, &options), away);
    let error = ended.unwrap_err().to_string();
    assert!(error.contains("s3://zone-bucket/zone/"), "{error}");
    server.set_down(false);
    // Away for a moment only: the run goes on by itself.
    let to = server.location("zone", PATIENCE);
    let away = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        server.set_down(true);
        tokio::time::sleep(Duration::from_millis(700)).await;
        server.set_down(false);
    };
    let (ended, ()) = tokio::join!(run_nats(&nats, &to, &options), away);
    ended.unwrap();
    check(&to, 30_000).await;
}

/// A NATS server of a test's own.
struct Server {
    program: PathBuf,
    port: u16,
    directory: PathBuf,
    child: Option<Child>,
}

impl Server {
    fn new(program: PathBuf, directory: &Path) -> Self {
        let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
        let mut server = Self { program, port, directory: directory.to_path_buf(), child: None };
        server.start();
        server
    }

    fn start(&mut self) {
        let mut command = Command::new(&self.program);
        command.args(["-js", "-a", "127.0.0.1", "-p", &self.port.to_string(), "-sd"]).arg(&self.directory);
        self.child = Some(command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut child) = self.child.take() {
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    fn url(&self) -> String {
        format!("nats://127.0.0.1:{}", self.port)
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.kill();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_goes_away_is_waited_for_and_then_an_error() {
    let Some(program) = services::nats_server() else { return };
    let dir = tempfile::tempdir().unwrap();
    let mut server = Server::new(program, &dir.path().join("nats"));
    let deadline = Instant::now() + Duration::from_secs(10);
    while std::net::TcpStream::connect(("127.0.0.1", server.port)).is_err() {
        assert!(Instant::now() < deadline, "nats-server does not answer");
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
    let mut stream = TestStream::new(&server.url(), "server").await;
    stream.remove = false;
    stream.publish(0..40_000).await;
    let to = zone_at(&dir.path().join("zone"));
    let options = IngestOptions { batch_bytes: 50_000, ..quick() };
    // Away for a second.
    let nats = NatsOptions { patience: Duration::from_secs(30), ..stream.options() };
    let (ended, ()) = tokio::join!(run_nats(&nats, &to, &options), async {
        tokio::time::sleep(Duration::from_millis(250)).await;
        server.kill();
        tokio::time::sleep(Duration::from_millis(1_000)).await;
        server.start();
    });
    let summary = ended.unwrap();
    assert!(summary.events > 0, "{summary:?}");
    check(&to, 40_000).await;
    // Away for good.
    let nats = NatsOptions { patience: Duration::from_secs(2), ..stream.options() };
    let stop = IngestOptions { until_empty: false, ..options };
    let (ended, ()) = tokio::join!(run_nats(&nats, &to, &stop), async {
        stream.publish(40_000..41_000).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.kill();
    });
    let error = ended.unwrap_err().to_string();
    assert!(error.contains(&format!("127.0.0.1:{}", server.port)) && error.contains("waited"), "{error}");
    server.start();
    let nats = NatsOptions { patience: Duration::from_secs(30), ..stream.options() };
    run_nats(&nats, &to, &quick()).await.unwrap();
    check(&to, 41_000).await;
}

/// A source of two feeds, the second of which is not there at first; the last event of each says so.
#[derive(Default)]
struct Growing {
    feeds: Vec<Feed>,
    next: Vec<u64>,
    resumed: Vec<Vec<Ranges>>,
    acknowledged: Vec<(usize, u64)>,
}

impl Growing {
    const EVENTS: u64 = 500;

    fn grow(&mut self) {
        let name = format!("growing/{}", self.feeds.len()).into();
        self.feeds.push(Feed { name, identity: Some("first".into()) });
    }
}

impl EventSource for Growing {
    type Ticket = (usize, u64);
    fn feeds(&self) -> &[Feed] {
        &self.feeds
    }
    async fn resume(&mut self, committed: &[Ranges]) -> Result<()> {
        for committed in &committed[self.next.len()..] {
            self.next.push(committed.first_absent(0).unwrap());
        }
        self.resumed.push(committed.to_vec());
        Ok(())
    }
    async fn receive(&mut self, limit: usize, _: Duration, into: &mut Vec<Delivery<Self::Ticket>>) -> Result<Flow> {
        assert_eq!(self.next.len(), self.feeds.len(), "asked for events of a feed that was not resumed");
        for _ in 0..limit.min(40) {
            let (feed, next) = self.next.iter().copied().enumerate().min_by_key(|(_, next)| *next).unwrap();
            if next >= Self::EVENTS {
                if self.feeds.len() == 2 {
                    return Ok(Flow::Ended);
                }
                self.grow();
                break;
            }
            // Every third sequence is no event's.
            if next % 3 != 2 {
                let payload = payload(next * 2 + feed as u64).into();
                into.push(Delivery {
                    feed,
                    sequence: next,
                    covers_from: next,
                    received_ms: None,
                    payload,
                    ticket: (feed, next),
                });
            }
            self.next[feed] += 1;
        }
        Ok(Flow::Open)
    }
    async fn settle(&mut self) -> Result<Vec<Option<u64>>> {
        Ok(self.next.iter().map(|next| next.checked_sub(1)).collect())
    }
    async fn acknowledge(&mut self, tickets: Vec<Self::Ticket>) -> Result<()> {
        self.acknowledged.extend(tickets);
        Ok(())
    }
    async fn hold(&mut self, _: &[Self::Ticket]) -> Result<()> {
        Ok(())
    }
    fn hold_every(&self) -> Option<Duration> {
        None
    }
    async fn release(&mut self) {}
    async fn lag(&mut self) -> Result<Option<Lag>> {
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_may_get_more_feeds() {
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    let options = IngestOptions { batch_bytes: 20_000, until_empty: false, ..quick() };
    let mut source = Growing::default();
    source.grow();
    let summary = run(&mut source, &to, &options).await.unwrap();
    assert!(summary.batches > 3, "{summary:?}");
    assert_eq!(source.resumed.len(), 2);
    assert_eq!(source.resumed[0], [Ranges::default()]);
    assert!(source.resumed[1][1].is_empty());
    let mut expected: Vec<(usize, u64)> = Vec::new();
    for feed in 0..2 {
        expected.extend((0..Growing::EVENTS).filter(|next| next % 3 != 2).map(|next| (feed, next)));
    }
    source.acknowledged.sort_unstable();
    assert_eq!(source.acknowledged, expected);
    let zone = RawZone::open(to.clone()).await.unwrap();
    let mut events = read_zone(&zone).await;
    events.sort();
    let found: Vec<(String, u64)> = events.iter().map(|event| (event.source.clone(), event.sequence)).collect();
    let named: Vec<(String, u64)> = expected.iter().map(|(feed, next)| (format!("growing/{feed}"), *next)).collect();
    assert_eq!(found, named);
    // The sequences that are no event's are known to be none.
    for (name, ranges) in zone.committed() {
        assert_eq!(ranges.iter().collect::<Vec<_>>(), [(0, Growing::EVENTS - 1)], "{name}");
    }
    // The next run begins behind all that.
    let mut again = Growing::default();
    again.grow();
    again.grow();
    assert_eq!(run(&mut again, &to, &options).await.unwrap().events, 0);
    // A feed that is another one.
    let mut other =
        Growing { feeds: vec![Feed { name: "growing/1".into(), identity: Some("second".into()) }], ..again };
    other.next.clear();
    let error = run(&mut other, &to, &options).await.unwrap_err().to_string();
    assert!(error.contains("another growing/1 (first; now it is second)"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn lines_come_out_as_they_went_in() {
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    let mut text = Vec::new();
    let mut expected = Vec::new();
    for number in 0..10_000_u64 {
        let line = if number % 100 == 3 { Vec::new() } else { payload(number) };
        text.extend_from_slice(&line);
        text.extend_from_slice(if number % 2 == 0 { b"\n" } else { b"\r\n" });
        expected.push(line);
    }
    text.extend_from_slice(b"the last line");
    expected.push(b"the last line".to_vec());
    let mut source = LineSource::new("stdin:now", std::io::Cursor::new(text));
    let summary = run(&mut source, &to, &IngestOptions { until_empty: false, ..quick() }).await.unwrap();
    assert_eq!((summary.events, summary.lag), (10_001, None));
    let mut events = read_zone(&RawZone::open(to).await.unwrap()).await;
    events.sort();
    assert_eq!(events.iter().map(|event| event.sequence).collect::<Vec<_>>(), (1..=10_001).collect::<Vec<_>>());
    assert_eq!(events.into_iter().map(|event| event.payload).collect::<Vec<_>>(), expected);
}

/// What the killed process needs to know: server, stream, zone, and whether it ends when it has caught up.
const CHILD: &str = "DUET_TEST_INGEST";

/// Not a test: the process that [`no_kill_loses_or_doubles_an_event`] starts and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of another test"]
async fn child() {
    let Ok(task) = env::var(CHILD) else { return };
    let [url, stream, zone, until_empty]: [&str; 4] = task.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let nats = NatsOptions {
        subject: Some(format!("{stream}.{EVENTS}")),
        ack_wait: Duration::from_secs(1),
        ..NatsOptions::new(url, stream, "zone")
    };
    let options = IngestOptions {
        batch_bytes: 60_000,
        batch_age: Duration::from_millis(20),
        until_empty: until_empty == "true",
        ..IngestOptions::default()
    };
    let summary = run_nats(&nats, &zone_at(Path::new(zone)), &options).await.unwrap();
    println!("{summary:?}");
}

/// 20 kills at random moments; `DUET_KILLS=200` for more.
#[tokio::test(flavor = "multi_thread")]
async fn no_kill_loses_or_doubles_an_event() {
    use rand::{RngExt, SeedableRng};
    let Some(url) = services::nats() else { return };
    let kills: u32 = env::var("DUET_KILLS").ok().map_or(20, |kills| kills.parse().unwrap());
    let stream = Arc::new(TestStream::new(&url, "kill").await);
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("zone");
    let start = |until_empty: bool| {
        let mut command = Command::new(env::current_exe().unwrap());
        let task = format!("{url}\n{}\n{}\n{until_empty}", stream.name, place.display());
        command.args(["ingest::child", "--exact", "--ignored", "--nocapture"]).env(CHILD, task);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let publisher = tokio::spawn({
        let (stream, stop, published) = (Arc::clone(&stream), Arc::clone(&stop), Arc::clone(&published));
        async move {
            while !stop.load(Ordering::SeqCst) {
                let from = published.load(Ordering::SeqCst);
                stream.publish(from..from + 100).await;
                published.store(from + 100, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let seed = u64::from(std::process::id());
    let mut random = rand_pcg::Pcg64::seed_from_u64(seed);
    let (mut left, mut batches) = (0, 0);
    for _ in 0..kills {
        let mut child = start(false);
        tokio::time::sleep(Duration::from_millis(random.random_range(30..500))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        // How many kills hit a batch between its first part and its entry.
        let to = zone_at(&place);
        if let Ok(zone) = RawZone::open(to.clone()).await {
            let objects = to.list("").await.unwrap();
            left +=
                u32::from(objects.iter().filter(|(name, _)| !name.starts_with("_log/")).count() > zone.parts().len());
            batches = zone.parts().len();
        }
    }
    stop.store(true, Ordering::SeqCst);
    publisher.await.unwrap();
    let last = tokio::task::spawn_blocking({
        let mut child = start(true);
        move || child.wait().unwrap()
    });
    assert!(last.await.unwrap().success());
    let count = published.load(Ordering::SeqCst);
    let zone = check(&zone_at(&place), count).await;
    assert!(zone.parts().len() > 1, "{batches} parts before the last run");
    println!(
        "{kills} kills (seed {seed}): {count} events, none lost, none doubled; {left} kills left parts without an entry, all removed"
    );
}

/// `cargo test --release -p duet -p duet-data --test data -- --ignored --nocapture speed_of_nats`; `DUET_EVENTS` for more
/// than a million.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed_of_nats() {
    let Some(url) = services::nats() else { return };
    let count: u64 = env::var("DUET_EVENTS").ok().map_or(1_000_000, |count| count.parse().unwrap());
    // What the server takes without an ingest beside.
    let alone = TestStream::new(&url, "alone").await;
    let started = Instant::now();
    alone.publish(0..count / 4).await;
    println!("publishing alone: {:.0} events/s", (count / 4) as f64 / started.elapsed().as_secs_f64());
    drop(alone);
    let stream = Arc::new(TestStream::new(&url, "speed").await);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    let mut nats = stream.options();
    nats.ack_wait = Duration::from_secs(60);
    let stop = Arc::new(AtomicBool::new(false));
    let options = IngestOptions { until_empty: false, stop: Arc::clone(&stop), ..IngestOptions::default() };
    let started = Instant::now();
    let publishing = async {
        let publisher = Arc::clone(&stream);
        tokio::spawn(async move { publisher.publish(0..count).await }).await.unwrap();
        let seconds = started.elapsed().as_secs_f64();
        println!("published {count} events in {seconds:.1} s: {:.0} events/s", count as f64 / seconds);
        let server = stream.context.get_stream(&stream.name).await.unwrap();
        while server.consumer_info("zone").await.unwrap().num_pending > 0 {
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        // Time to take what the client has already; it is in the figure.
        tokio::time::sleep(Duration::from_millis(200)).await;
        stop.store(true, Ordering::SeqCst);
    };
    let (summary, ()) = tokio::join!(run_nats(&nats, &to, &options), publishing);
    let seconds = started.elapsed().as_secs_f64();
    let summary = summary.unwrap();
    println!(
        "{} events, published and in the zone in {seconds:.1} s: {:.0} events/s, {:.1} MB/s; {summary:?}",
        summary.events,
        summary.events as f64 / seconds,
        summary.bytes as f64 / 1e6 / seconds
    );
    // What the client had not handed out when it was stopped comes with the next run.
    let options = IngestOptions { until_empty: true, ..IngestOptions::default() };
    let rest = run_nats(&nats, &to, &options);
    let rest = tokio::time::timeout(Duration::from_secs(120), rest).await.unwrap().unwrap();
    assert_eq!(summary.events + rest.events, count);
    let zone = RawZone::open(to).await.unwrap();
    zone.verify().await.unwrap();
    let size = fs::metadata(dir.path()).map(|_| zone.parts().iter().map(|part| part.bytes).sum::<u64>()).unwrap();
    println!("zone: {} parts, {:.1} MB", zone.parts().len(), size as f64 / 1e6);
}
