//! Ingest from Kafka: librdkafka's own cluster of pretended brokers, in this process, spoken to over TCP as any other.

use std::{
    collections::BTreeMap,
    env,
    path::Path,
    process::{Command, Stdio},
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, Instant},
};

use duet_core::Result;
use duet_data::{
    ingest::{Delivery, EventSource, Feed, Flow, IngestOptions, IngestSummary, KafkaOptions, KafkaSource, Lag},
    raw::{Ranges, RawZone},
    store::Location,
};
use rdkafka::{
    ClientConfig, Offset, TopicPartitionList,
    consumer::{BaseConsumer, Consumer},
    mocking::MockCluster,
    producer::{DefaultProducerContext, FutureProducer, FutureRecord},
    types::{RDKafkaApiKey, RDKafkaRespErr},
};

use crate::{
    ingest::{payload, quick, run, zone_at},
    raw::read_zone,
};

const TOPIC: &str = "events";
const GROUP: &str = "zone";

/// Brokers of a test's own with one topic.
struct Cluster {
    brokers: MockCluster<'static, DefaultProducerContext>,
    partitions: u64,
}

impl Cluster {
    fn new(partitions: u64) -> Self {
        let brokers = MockCluster::new(2).unwrap();
        brokers.create_topic(TOPIC, partitions as i32, 1).unwrap();
        Self { brokers, partitions }
    }

    fn servers(&self) -> String {
        self.brokers.bootstrap_servers()
    }

    fn options(&self) -> KafkaOptions {
        KafkaOptions { patience: Duration::from_secs(20), ..KafkaOptions::new(&self.servers(), &[TOPIC], GROUP) }
    }

    fn publisher(&self) -> Publisher {
        Publisher::new(&self.servers(), self.partitions, "none")
    }

    /// Publishes the numbered events, in order; gives when the brokers have them.
    async fn publish(&self, numbers: std::ops::Range<u64>) {
        self.publisher().publish(numbers).await;
    }

    /// What the group was told: the next offset of each partition.
    async fn told(&self) -> Vec<u64> {
        let (servers, partitions) = (self.servers(), self.partitions as i32);
        let asked = tokio::task::spawn_blocking(move || {
            let mut config = ClientConfig::new();
            let consumer: BaseConsumer =
                config.set("bootstrap.servers", servers).set("group.id", GROUP).create().unwrap();
            let mut list = TopicPartitionList::new();
            list.add_partition_range(TOPIC, 0, partitions - 1);
            let told = consumer.committed_offsets(list, Duration::from_secs(10)).unwrap();
            let offset = |offset| if let Offset::Offset(offset) = offset { offset as u64 } else { 0 };
            told.elements().iter().map(|element| offset(element.offset())).collect()
        });
        asked.await.unwrap()
    }
}

/// Event N goes to partition N modulo their number.
struct Publisher {
    producer: FutureProducer,
    partitions: u64,
}

impl Publisher {
    fn new(servers: &str, partitions: u64, compression: &str) -> Self {
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", servers).set("compression.type", compression).set("linger.ms", "2");
        config.set("message.timeout.ms", "60000").set("enable.idempotence", "true");
        Self { producer: config.create().unwrap(), partitions }
    }

    async fn publish(&self, numbers: std::ops::Range<u64>) {
        let mut sent = Vec::new();
        for number in numbers {
            let event = payload(number);
            let partition = (number % self.partitions) as i32;
            let record: FutureRecord<'_, (), [u8]> = FutureRecord::to(TOPIC).partition(partition).payload(&event);
            sent.push(self.producer.send_result(record).map_err(|(error, _)| error).unwrap());
        }
        for sent in sent {
            sent.await.unwrap().map_err(|(error, _)| error).unwrap();
        }
    }
}

async fn run_kafka(kafka: &KafkaOptions, to: &Location, options: &IngestOptions) -> Result<IngestSummary> {
    run(&mut KafkaSource::open(kafka.clone()).await?, to, options).await
}

/// Checks that the zone has the events with these numbers, each once, at the offset that it has in its partition.
async fn check(to: &Location, partitions: u64, count: u64) -> RawZone {
    let zone = RawZone::open(to.clone()).await.unwrap();
    let mut found: BTreeMap<String, Vec<u64>> = BTreeMap::new();
    for event in read_zone(&zone).await {
        let partition: u64 = event.source.strip_prefix("kafka:events/").unwrap().parse().unwrap();
        assert_eq!(event.payload, payload(event.sequence * partitions + partition), "{}", event.source);
        assert!(event.received_ms.is_some_and(|at| at > 1_700_000_000_000));
        found.entry(event.source).or_default().push(event.sequence);
    }
    assert_eq!(found.len() as u64, partitions.min(count));
    for (source, mut sequences) in found {
        sequences.sort_unstable();
        let partition: u64 = source.strip_prefix("kafka:events/").unwrap().parse().unwrap();
        let has = (count - partition).div_ceil(partitions);
        assert_eq!(sequences, (0..has).collect::<Vec<_>>(), "lost or doubled in {source}");
    }
    zone
}

fn ranges(zone: &RawZone) -> Vec<(String, Vec<(u64, u64)>)> {
    zone.committed().map(|(source, ranges)| (source.to_owned(), ranges.iter().collect())).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn every_event_of_every_partition_comes_once() {
    let cluster = Cluster::new(4);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    for round in 0..3 {
        cluster.publish(round * 2_000..(round + 1) * 2_000).await;
        let summary = run_kafka(&cluster.options(), &to, &quick()).await.unwrap();
        assert_eq!((summary.events, summary.known, summary.lag), (2_000, 0, Some(0)));
        // What is taken out of the client at once goes into one batch, so there are fewer than bytes would make.
        assert!(summary.batches >= 2, "{summary:?}");
        assert_eq!(cluster.told().await, [(round + 1) * 500; 4]);
    }
    let zone = check(&to, 4, 6_000).await;
    let expected: Vec<_> = (0..4).map(|partition| (format!("kafka:events/{partition}"), vec![(0, 1_499)])).collect();
    assert_eq!(ranges(&zone), expected);
    let summary = run_kafka(&cluster.options(), &to, &quick()).await.unwrap();
    assert_eq!((summary.events, summary.known, summary.batches, summary.lag), (0, 0, 0, Some(0)));
    // An empty topic, and partitions of which most are empty.
    let cluster = Cluster::new(8);
    let to = zone_at(&dir.path().join("empty"));
    let summary = run_kafka(&cluster.options(), &to, &quick()).await.unwrap();
    assert_eq!((summary.events, summary.batches, summary.lag), (0, 0, Some(0)));
    cluster.publish(0..3).await;
    assert_eq!(run_kafka(&cluster.options(), &to, &quick()).await.unwrap().events, 3);
    check(&to, 8, 3).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn several_topics_and_compressions_come_byte_for_byte() {
    let cluster = Cluster::new(1);
    let topics = ["gzip", "snappy", "lz4"];
    for topic in topics {
        cluster.brokers.create_topic(topic, 3, 1).unwrap();
        let mut config = ClientConfig::new();
        config.set("bootstrap.servers", cluster.servers()).set("compression.type", topic);
        let producer: FutureProducer = config.create().unwrap();
        let mut sent = Vec::new();
        for number in 0..900 {
            let event = payload(number);
            let partition = (number % 3) as i32;
            let record: FutureRecord<'_, str, [u8]> = FutureRecord::to(topic).partition(partition).key("user");
            // Every tenth has no value: a tombstone.
            let record = if number % 10 == 9 { record } else { record.payload(&event) };
            sent.push(producer.send_result(record).map_err(|(error, _)| error).unwrap());
        }
        for sent in sent {
            sent.await.unwrap().map_err(|(error, _)| error).unwrap();
        }
    }
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    let kafka = KafkaOptions { topics: topics.map(str::to_owned).to_vec(), ..cluster.options() };
    assert_eq!(run_kafka(&kafka, &to, &quick()).await.unwrap().events, 2_700);
    let zone = RawZone::open(to.clone()).await.unwrap();
    let events = read_zone(&zone).await;
    assert_eq!(events.len(), 2_700);
    for event in events {
        let (topic, partition) = event.source.strip_prefix("kafka:").unwrap().split_once('/').unwrap();
        assert!(topics.contains(&topic), "{topic}");
        let number = event.sequence * 3 + partition.parse::<u64>().unwrap();
        let expected = if number % 10 == 9 { Vec::new() } else { payload(number) };
        assert_eq!(event.payload, expected, "{topic} {number}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn the_zone_says_where_to_begin_and_not_the_group() {
    let cluster = Cluster::new(3);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    cluster.publish(0..900).await;
    run_kafka(&cluster.options(), &to, &quick()).await.unwrap();
    // A group that knows nothing, as after commits that were lost.
    cluster.publish(900..1_200).await;
    let stranger = KafkaOptions { group: "stranger".to_owned(), ..cluster.options() };
    let summary = run_kafka(&stranger, &to, &quick()).await.unwrap();
    assert_eq!((summary.events, summary.known), (300, 0));
    // The old one is told the next time, though there is nothing new.
    assert_eq!(cluster.told().await, [300; 3]);
    assert_eq!(run_kafka(&cluster.options(), &to, &quick()).await.unwrap().events, 0);
    assert_eq!(cluster.told().await, [400; 3]);
    check(&to, 3, 1_200).await;
    // Another zone gets everything under the same group.
    let other = zone_at(&dir.path().join("other"));
    assert_eq!(run_kafka(&cluster.options(), &other, &quick()).await.unwrap().events, 1_200);
    check(&other, 3, 1_200).await;
    // Nor do refused commits matter.
    cluster.publish(1_200..1_500).await;
    let refused = [RDKafkaRespErr::RD_KAFKA_RESP_ERR_UNKNOWN_MEMBER_ID; 50];
    cluster.brokers.request_errors(RDKafkaApiKey::OffsetCommit, &refused);
    assert_eq!(run_kafka(&cluster.options(), &to, &quick()).await.unwrap().events, 300);
    check(&to, 3, 1_500).await;
}

/// A source that loses events on the way to the zone: it gets holes.
struct Leaky(KafkaSource);

impl EventSource for Leaky {
    type Ticket = <KafkaSource as EventSource>::Ticket;
    fn feeds(&self) -> &[Feed] {
        self.0.feeds()
    }
    async fn resume(&mut self, committed: &[Ranges]) -> Result<()> {
        self.0.resume(committed).await
    }
    async fn receive(&mut self, limit: usize, wait: Duration, into: &mut Vec<Delivery<Self::Ticket>>) -> Result<Flow> {
        let flow = self.0.receive(limit, wait, into).await;
        into.retain(|delivery| !(100..200).contains(&delivery.sequence));
        into.iter_mut().for_each(|delivery| delivery.covers_from = delivery.sequence);
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
        Ok(lag.map(|lag| Lag { caught_up: lag.waiting == 0, ..lag }))
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn holes_in_the_zone_are_filled() {
    let cluster = Cluster::new(2);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    cluster.publish(0..1_000).await;
    let mut leaky = Leaky(KafkaSource::open(cluster.options()).await.unwrap());
    assert_eq!(run(&mut leaky, &to, &quick()).await.unwrap().events, 800);
    let holes = vec![(0, 99), (200, 499)];
    let zone = RawZone::open(to.clone()).await.unwrap();
    assert_eq!(ranges(&zone), [("kafka:events/0".to_owned(), holes.clone()), ("kafka:events/1".to_owned(), holes)]);
    drop(leaky);
    let summary = run_kafka(&cluster.options(), &to, &quick()).await.unwrap();
    assert_eq!((summary.events, summary.known, summary.lag), (200, 600, Some(0)));
    assert_eq!(cluster.told().await, [500; 2]);
    check(&to, 2, 1_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn the_lag_is_what_is_not_in_the_zone() {
    let cluster = Cluster::new(3);
    cluster.publish(0..3_000).await;
    let mut source = KafkaSource::open(cluster.options()).await.unwrap();
    source.resume(&vec![Ranges::default(); 3]).await.unwrap();
    let all = Lag { waiting: 3_000, unacknowledged: 0, caught_up: false };
    assert_eq!(source.lag().await.unwrap(), Some(all));
    let mut deliveries = Vec::new();
    let deadline = Instant::now() + Duration::from_secs(20);
    while deliveries.len() < 1_000 {
        assert!(Instant::now() < deadline, "{}", deliveries.len());
        let limit = 1_000;
        source.receive(limit, Duration::from_millis(100), &mut deliveries).await.unwrap();
    }
    assert_eq!(deliveries.len(), 1_000);
    let some = Lag { waiting: 2_000, unacknowledged: 1_000, caught_up: false };
    assert_eq!(source.lag().await.unwrap(), Some(some));
    source.acknowledge(deliveries.drain(..).map(|delivery| delivery.ticket).collect()).await.unwrap();
    cluster.publish(3_000..3_300).await;
    let more = Lag { waiting: 2_300, unacknowledged: 0, caught_up: false };
    assert_eq!(source.lag().await.unwrap(), Some(more));
    while deliveries.len() < 2_300 {
        assert!(Instant::now() < deadline, "{}", deliveries.len());
        source.receive(10_000, Duration::from_millis(100), &mut deliveries).await.unwrap();
    }
    source.acknowledge(deliveries.drain(..).map(|delivery| delivery.ticket).collect()).await.unwrap();
    let none = Lag { waiting: 0, unacknowledged: 0, caught_up: true };
    assert_eq!(source.lag().await.unwrap(), Some(none));
    source.release().await;
    assert_eq!(cluster.told().await, [1_100; 3]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stopped_run_keeps_what_it_took_and_the_next_goes_on() {
    let cluster = Cluster::new(4);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    cluster.publish(0..20_000).await;
    let stop = Arc::new(AtomicBool::new(false));
    // A batch that would never be complete by itself.
    let options = IngestOptions { until_empty: false, stop: Arc::clone(&stop), ..IngestOptions::default() };
    let set = async {
        tokio::time::sleep(Duration::from_millis(2_500)).await;
        stop.store(true, Ordering::SeqCst);
    };
    let kafka = cluster.options();
    let (summary, ()) = tokio::join!(run_kafka(&kafka, &to, &options), set);
    let summary = summary.unwrap();
    assert!(summary.events > 0 && summary.batches >= 1, "{summary:?}");
    assert_eq!(summary.lag, Some(20_000 - summary.events));
    assert_eq!(cluster.told().await.iter().sum::<u64>(), summary.events);
    let rest = run_kafka(&cluster.options(), &to, &quick()).await.unwrap();
    assert_eq!((summary.events + rest.events, rest.known), (20_000, 0));
    check(&to, 4, 20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn of_two_ingests_into_a_zone_one_fails_and_nothing_is_lost() {
    let cluster = Cluster::new(4);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    run_kafka(&cluster.options(), &to, &quick()).await.unwrap();
    cluster.publish(0..20_000).await;
    let (kafka, options) = (cluster.options(), IngestOptions { batch_bytes: 20_000, ..quick() });
    let (one, two) = tokio::join!(run_kafka(&kafka, &to, &options), run_kafka(&kafka, &to, &options));
    let errors: Vec<String> = [one, two].into_iter().filter_map(|run| Some(run.err()?.to_string())).collect();
    assert!(!errors.is_empty() && errors.iter().all(|error| error.contains("another process writes")), "{errors:?}");
    run_kafka(&kafka, &to, &quick()).await.unwrap();
    check(&to, 4, 20_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_cluster_that_goes_away_is_waited_for_and_then_an_error() {
    let cluster = Cluster::new(4);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    cluster.publish(0..20_000).await;
    let options = IngestOptions { batch_bytes: 50_000, ..quick() };
    // Away for a second and a half, in the middle.
    let mut kafka = cluster.options();
    kafka.patience = Duration::from_secs(60);
    // Small fetches, or everything would be there before the brokers go.
    let small = [("fetch.message.max.bytes", "20000"), ("queued.max.messages.kbytes", "100")];
    kafka.settings = small.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let away = async {
        tokio::time::sleep(Duration::from_millis(300)).await;
        cluster.brokers.broker_down(-1).unwrap();
        tokio::time::sleep(Duration::from_millis(1_500)).await;
        cluster.brokers.broker_up(-1).unwrap();
    };
    let (ended, ()) = tokio::join!(run_kafka(&kafka, &to, &options), away);
    let summary = ended.unwrap();
    assert_eq!((summary.events, summary.known, summary.lag), (20_000, 0, Some(0)));
    check(&to, 4, 20_000).await;
    // Away for good.
    kafka.patience = Duration::from_secs(2);
    let endless = IngestOptions { until_empty: false, ..options.clone() };
    let away = async {
        cluster.publish(20_000..21_000).await;
        tokio::time::sleep(Duration::from_millis(500)).await;
        cluster.brokers.broker_down(-1).unwrap();
    };
    let started = Instant::now();
    let (ended, ()) = tokio::join!(run_kafka(&kafka, &to, &endless), away);
    let error = ended.unwrap_err().to_string();
    assert!(error.contains(&cluster.servers()) && error.contains("waited"), "{error}");
    assert!(started.elapsed() < Duration::from_secs(30), "{:?}", started.elapsed());
    // Away from the beginning.
    let error = run_kafka(&kafka, &to, &options).await.unwrap_err().to_string();
    assert!(error.contains(&cluster.servers()) && error.contains("waited"), "{error}");
    cluster.brokers.broker_up(-1).unwrap();
    kafka.patience = Duration::from_secs(60);
    run_kafka(&kafka, &to, &quick()).await.unwrap();
    check(&to, 4, 21_000).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn faults_of_the_brokers_lose_and_double_nothing() {
    use RDKafkaRespErr as E;
    let cluster = Cluster::new(4);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    let faults = [
        (RDKafkaApiKey::Fetch, vec![E::RD_KAFKA_RESP_ERR_OFFSET_OUT_OF_RANGE]),
        (RDKafkaApiKey::Fetch, vec![E::RD_KAFKA_RESP_ERR_NOT_LEADER_FOR_PARTITION; 3]),
        (RDKafkaApiKey::Fetch, vec![E::RD_KAFKA_RESP_ERR__TRANSPORT; 2]),
        (RDKafkaApiKey::ListOffsets, vec![E::RD_KAFKA_RESP_ERR_LEADER_NOT_AVAILABLE; 2]),
        (RDKafkaApiKey::Metadata, vec![E::RD_KAFKA_RESP_ERR__TRANSPORT; 2]),
    ];
    let mut published = 0;
    for (api, errors) in faults {
        println!("{api:?} {errors:?}");
        cluster.publish(published..published + 4_000).await;
        published += 4_000;
        let options = IngestOptions { batch_bytes: 50_000, ..quick() };
        let kafka = cluster.options();
        let disturb = async {
            tokio::time::sleep(Duration::from_millis(100)).await;
            cluster.brokers.request_errors(api, &errors);
        };
        let (ended, ()) = tokio::join!(run_kafka(&kafka, &to, &options), disturb);
        let summary = ended.unwrap();
        assert_eq!((summary.events, summary.known, summary.lag), (4_000, 0, Some(0)));
        cluster.brokers.clear_request_errors(api);
    }
    check(&to, 4, published).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_retention_removed_is_told_and_not_passed_over() {
    let cluster = Cluster::new(2);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    cluster.publish(0..200).await;
    run_kafka(&cluster.options(), &to, &quick()).await.unwrap();
    // The brokers keep 5 MiB a partition.
    cluster.publish(200..60_000).await;
    let error = run_kafka(&cluster.options(), &to, &quick()).await.unwrap_err().to_string();
    assert!(error.contains("kafka:events/0") && error.contains("offsets (100 to "), "{error}");
    assert!(error.contains("another partition") && error.contains("--allow-gaps"), "{error}");
    // Nothing was done.
    check(&to, 2, 200).await;
    let kafka = KafkaOptions { allow_gaps: true, ..cluster.options() };
    let summary = run_kafka(&kafka, &to, &quick()).await.unwrap();
    assert!((30_000..59_000).contains(&summary.events) && summary.lag == Some(0), "{summary:?}");
    // Said once: from then on it is known.
    let zone = RawZone::open(to.clone()).await.unwrap();
    let whole = vec![(0, 29_999)];
    assert_eq!(ranges(&zone), [("kafka:events/0".to_owned(), whole.clone()), ("kafka:events/1".to_owned(), whole)]);
    cluster.publish(60_000..60_100).await;
    assert_eq!(run_kafka(&cluster.options(), &to, &quick()).await.unwrap().events, 100);
    let mut numbers: Vec<u64> = Vec::new();
    for event in read_zone(&RawZone::open(to).await.unwrap()).await {
        let partition: u64 = event.source.strip_prefix("kafka:events/").unwrap().parse().unwrap();
        numbers.push(event.sequence * 2 + partition);
        assert_eq!(event.payload, payload(event.sequence * 2 + partition));
    }
    let events = numbers.len();
    numbers.sort_unstable();
    numbers.dedup();
    assert_eq!((numbers.len(), events as u64), (events, 200 + summary.events + 100));
    // A new zone begins with what is there.
    let fresh = zone_at(&dir.path().join("fresh"));
    let summary = run_kafka(&cluster.options(), &fresh, &quick()).await.unwrap();
    assert!(summary.events > 30_000 && summary.lag == Some(0), "{summary:?}");
    let zone = RawZone::open(fresh.clone()).await.unwrap();
    assert!(ranges(&zone).iter().all(|(_, ranges)| *ranges == [(0, 30_049)]), "{:?}", ranges(&zone));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_was_empty_loses_nothing_in_silence() {
    let cluster = Cluster::new(2);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    // All to partition 0: the zone has nothing of partition 1, but knows the topic.
    Publisher::new(&cluster.servers(), 1, "none").publish(0..10).await;
    assert_eq!(run_kafka(&cluster.options(), &to, &quick()).await.unwrap().events, 10);
    Publisher::new(&cluster.servers(), 2, "none").publish(0..60_000).await;
    let error = run_kafka(&cluster.options(), &to, &quick()).await.unwrap_err().to_string();
    assert!(error.contains("offsets (10 to ") && error.contains("another partition"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_made_anew_is_told_from_the_old_one() {
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    let cluster = Cluster::new(2);
    cluster.publish(0..100).await;
    run_kafka(&cluster.options(), &to, &quick()).await.unwrap();
    // The same name and more events than before: only the id tells.
    let anew = Cluster::new(2);
    anew.publish(0..1_000).await;
    let error = run_kafka(&anew.options(), &to, &quick()).await.unwrap_err().to_string();
    assert!(error.contains("take another zone") && error.contains("topic id"), "{error}");
    check(&to, 2, 100).await;
    // Brokers without ids: what is not there any more tells.
    let old = Cluster::new(2);
    old.brokers.apiversion(RDKafkaApiKey::Metadata, Some(0), Some(9)).unwrap();
    let to = zone_at(&dir.path().join("old"));
    old.publish(0..100).await;
    run_kafka(&old.options(), &to, &quick()).await.unwrap();
    let shorter = Cluster::new(2);
    shorter.brokers.apiversion(RDKafkaApiKey::Metadata, Some(0), Some(9)).unwrap();
    shorter.publish(0..10).await;
    let error = run_kafka(&shorter.options(), &to, &quick()).await.unwrap_err().to_string();
    assert!(error.contains("ends at offset 5") && error.contains("up to 49") && error.contains("anew"), "{error}");
    check(&to, 2, 100).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_does_not_fit_is_told_plainly() {
    let cluster = Cluster::new(1);
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    let refused = |kafka: KafkaOptions| {
        let to = to.clone();
        async move { run_kafka(&kafka, &to, &quick()).await.unwrap_err().to_string() }
    };
    let with = |key: &str, value: &str| {
        let settings = vec![(key.to_owned(), value.to_owned())];
        KafkaOptions { settings, ..cluster.options() }
    };
    let error = refused(KafkaOptions { topics: vec!["no-such-topic".to_owned()], ..cluster.options() }).await;
    assert!(error.contains("no topic \"no-such-topic\"") && error.contains("kafka-topics --bootstrap"), "{error}");
    let error = refused(with("no.such.setting", "1")).await;
    assert!(error.contains("no.such.setting"), "{error}");
    let error = refused(with("enable.auto.commit", "true")).await;
    assert!(error.contains("enable.auto.commit") && error.contains("durable"), "{error}");
    let error = refused(with("fetch.wait.max.ms", "soon")).await;
    assert!(error.contains("fetch.wait.max.ms"), "{error}");
    // The brokers speak no SASL; the password is in no message.
    let sasl = [
        ("security.protocol", "sasl_plaintext"),
        ("sasl.mechanisms", "PLAIN"),
        ("sasl.username", "reader"),
        ("sasl.password", "hunter2"),
    ];
    let settings = sasl.map(|(key, value)| (key.to_owned(), value.to_owned())).to_vec();
    let error = refused(KafkaOptions { settings, patience: Duration::from_secs(2), ..cluster.options() }).await;
    assert!(error.contains(&cluster.servers()) && !error.contains("hunter2"), "{error}");
    let gone =
        KafkaOptions { servers: "127.0.0.1:1".to_owned(), patience: Duration::from_millis(700), ..cluster.options() };
    let error = refused(gone).await;
    assert!(error.contains("127.0.0.1:1") && error.contains("waited"), "{error}");
    // A broker that denies the topic.
    let denied = RDKafkaRespErr::RD_KAFKA_RESP_ERR_TOPIC_AUTHORIZATION_FAILED;
    cluster.brokers.topic_error(TOPIC, denied).unwrap();
    let started = Instant::now();
    let error = refused(cluster.options()).await;
    assert!(error.contains("uthoriz") && started.elapsed() < Duration::from_secs(10), "{error}");
}

/// What the killed process needs to know: servers, zone, and whether it ends when it has caught up.
const CHILD: &str = "DUET_TEST_INGEST_KAFKA";

/// Not a test: the process that [`no_kill_loses_or_doubles_an_event`] starts and kills.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "the child of another test"]
async fn child() {
    let Ok(task) = env::var(CHILD) else { return };
    let [servers, zone, until_empty]: [&str; 3] = task.split('\n').collect::<Vec<_>>().try_into().unwrap();
    let options = IngestOptions {
        batch_bytes: 60_000,
        batch_age: Duration::from_millis(20),
        until_empty: until_empty == "true",
        ..IngestOptions::default()
    };
    let kafka = KafkaOptions::new(servers, &[TOPIC], GROUP);
    let summary = run_kafka(&kafka, &zone_at(Path::new(zone)), &options).await.unwrap();
    println!("{summary:?}");
}

/// 20 kills at random moments; `DUET_KILLS=200` for more.
#[tokio::test(flavor = "multi_thread")]
async fn no_kill_loses_or_doubles_an_event() {
    use rand::{RngExt, SeedableRng};
    const PARTITIONS: u64 = 12;
    let kills: u32 = env::var("DUET_KILLS").ok().map_or(20, |kills| kills.parse().unwrap());
    let cluster = Cluster::new(PARTITIONS);
    let dir = tempfile::tempdir().unwrap();
    let place = dir.path().join("zone");
    let start = |until_empty: bool| {
        let mut command = Command::new(env::current_exe().unwrap());
        let task = format!("{}\n{}\n{until_empty}", cluster.servers(), place.display());
        command.args(["kafka::child", "--exact", "--ignored", "--nocapture"]).env(CHILD, task);
        command.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap()
    };
    let (stop, published) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
    let publisher = tokio::spawn({
        let (publisher, stop, published) = (cluster.publisher(), Arc::clone(&stop), Arc::clone(&published));
        async move {
            while !stop.load(Ordering::SeqCst) {
                let from = published.load(Ordering::SeqCst);
                publisher.publish(from..from + 100).await;
                published.store(from + 100, Ordering::SeqCst);
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        }
    });
    let seed = u64::from(std::process::id());
    let mut random = rand_pcg::Pcg64::seed_from_u64(seed);
    let (mut left, mut killed_while_reading, mut before) = (0, 0, 0);
    for _ in 0..kills {
        let mut child = start(false);
        tokio::time::sleep(Duration::from_millis(random.random_range(30..600))).await;
        child.kill().unwrap();
        child.wait().unwrap();
        // How many kills hit a run that had begun to commit, and how many a batch between its first part and its entry.
        let to = zone_at(&place);
        if let Ok(zone) = RawZone::open(to.clone()).await {
            let objects = to.list("").await.unwrap();
            left +=
                u32::from(objects.iter().filter(|(name, _)| !name.starts_with("_log/")).count() > zone.parts().len());
            killed_while_reading += u32::from(zone.parts().len() > before);
            before = zone.parts().len();
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
    let zone = check(&zone_at(&place), PARTITIONS, count).await;
    assert!(zone.parts().len() > 1);
    assert!(killed_while_reading > 0, "every kill came before the first commit");
    println!(
        "{kills} kills (seed {seed}), {killed_while_reading} of runs that had committed: {count} events, none lost, none \
         doubled; {left} kills left parts without an entry, all removed"
    );
}

/// `cargo test --release -p duet -p duet-data --features kafka --test data -- --ignored --nocapture speed_of_kafka`. The brokers
/// keep 5 MiB a partition, so there are many, and a million events at most.
#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement"]
async fn speed_of_kafka() {
    const PARTITIONS: u64 = 64;
    let count: u64 = env::var("DUET_EVENTS").ok().map_or(1_000_000, |count| count.parse().unwrap());
    let cluster = Cluster::new(PARTITIONS);
    let started = Instant::now();
    for from in (0..count).step_by(50_000) {
        cluster.publish(from..(from + 50_000).min(count)).await;
    }
    println!("published {count} events: {:.0} events/s", count as f64 / started.elapsed().as_secs_f64());
    let dir = tempfile::tempdir().unwrap();
    let to = zone_at(&dir.path().join("zone"));
    let options = IngestOptions { until_empty: true, ..IngestOptions::default() };
    let started = Instant::now();
    let summary = run_kafka(&cluster.options(), &to, &options).await.unwrap();
    let seconds = started.elapsed().as_secs_f64();
    assert_eq!((summary.events, summary.lag), (count, Some(0)));
    println!(
        "{count} events from {PARTITIONS} partitions in the zone in {seconds:.1} s: {:.0} events/s, {:.1} MB/s; {summary:?}",
        count as f64 / seconds,
        summary.bytes as f64 / 1e6 / seconds
    );
    check(&to, PARTITIONS, count).await;
}
