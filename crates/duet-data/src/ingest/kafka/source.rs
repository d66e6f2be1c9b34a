//! The source: all partitions of the topics, assigned to a consumer of its own.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use bytes::Bytes;
use duet_core::{Error, Result, number::grouped};
use futures::{FutureExt, StreamExt};
use rdkafka::{
    Message, Offset, TopicPartitionList,
    consumer::{CommitMode, Consumer, StreamConsumer},
    error::{KafkaError, KafkaResult, RDKafkaErrorCode},
    message::BorrowedMessage,
};

use super::{
    KafkaOptions,
    describe::{Topic, describe},
    options::refused,
    partition::Partition,
    trouble::{self, Listener, Trouble},
};
use crate::{
    ingest::{
        files::blocking,
        source::{Delivery, EventSource, Feed, Flow, Lag, RECEIVE_BYTES},
    },
    raw::Ranges,
};

/// How long an answer of the cluster is waited for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);
/// How often the client's queue is looked into after a failure.
const LISTENED: usize = 100;

type Client = StreamConsumer<Listener>;

/// The events of topics.
pub struct KafkaSource {
    options: KafkaOptions,
    client: Arc<Client>,
    /// The topics' ids, where the cluster has such.
    ids: Vec<Option<Arc<str>>>,
    /// A partition each, in the order of `partitions`.
    feeds: Vec<Feed>,
    partitions: Vec<Partition>,
    /// For each topic, the places of its partitions, in the order of their numbers.
    places: Vec<Vec<usize>>,
    handed_out: u64,
    acknowledged: u64,
    /// A partition can't be read where it is read.
    astray: bool,
    /// Since when nothing works, and why.
    failing: Option<(Instant, String)>,
    pause: Duration,
    released: bool,
}

impl std::fmt::Debug for KafkaSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("KafkaSource").field("options", &self.options).field("feeds", &self.feeds).finish()
    }
}

impl KafkaSource {
    /// Connects, and finds the topics' partitions. Must be called within a tokio runtime.
    ///
    /// # Errors
    /// [`Error::Io`] naming the servers if none answers; [`Error::Input`] for settings that can't be used and for a topic that
    /// is not there.
    pub async fn open(options: KafkaOptions) -> Result<Self> {
        let config = options.client()?;
        let client = config.create_with_context(Listener::default()).map_err(|error| refused(&error))?;
        let topics = options.topics.len();
        let mut source = Self {
            options,
            client: Arc::new(client),
            ids: vec![None; topics],
            feeds: Vec::new(),
            partitions: Vec::new(),
            places: vec![Vec::new(); topics],
            handed_out: 0,
            acknowledged: 0,
            astray: false,
            failing: None,
            pause: FIRST_PAUSE,
            released: false,
        };
        loop {
            match source.describe().await {
                Ok(found) => match source.find_topics(&found)? {
                    None => break,
                    Some(why) => source.after_failure(why).await?,
                },
                Err(why) => {
                    source.listen()?;
                    source.after_failure(why).await?;
                }
            }
        }
        source.works();
        Ok(source)
    }

    /// Does something with the client that blocks.
    async fn ask<T: Send + 'static>(
        &self,
        question: impl FnOnce(&Client) -> Result<T, String> + Send + 'static,
    ) -> Result<T, String> {
        let client = Arc::clone(&self.client);
        blocking(move || Ok(question(&client))).await.map_err(|error| error.to_string())?
    }

    fn request_timeout(&self) -> Duration {
        self.options.patience.clamp(FIRST_PAUSE, REQUEST_TIMEOUT)
    }

    async fn describe(&self) -> Result<Vec<Topic>, String> {
        let (topics, timeout) = (self.options.topics.clone(), self.request_timeout());
        self.ask(move |client| describe(client.client(), &topics, timeout)).await
    }

    /// Offsets of all partitions: where they begin, or end.
    async fn offsets(&self, of: Offset) -> Result<Vec<u64>, String> {
        let list = self.list(|_| Some(of)).map_err(|error| error.to_string())?;
        let (timeout, count) = (self.request_timeout(), self.partitions.len());
        let answer = self.ask(move |client| client.offsets_for_times(list, timeout).map_err(|error| error.to_string()));
        let answer = answer.await?;
        let mut offsets = vec![None; count];
        for element in answer.elements() {
            element.error().map_err(|error| error.to_string())?;
            if let (Offset::Offset(offset), Some(at)) =
                (element.offset(), self.place(element.topic(), element.partition()))
            {
                offsets[at] = Some(offset.unsigned_abs());
            }
        }
        let missing = offsets.iter().position(Option::is_none);
        match missing {
            Some(at) => Err(format!("no answer to where {} begins or ends", self.feeds[at].name)),
            None => Ok(offsets.into_iter().flatten().collect()),
        }
    }

    /// The partitions for which there is an offset.
    fn list(&self, offset: impl Fn(&Partition) -> Option<Offset>) -> KafkaResult<TopicPartitionList> {
        let mut list = TopicPartitionList::with_capacity(self.partitions.len());
        for partition in &self.partitions {
            if let Some(offset) = offset(partition) {
                list.add_partition_offset(&self.options.topics[partition.topic], partition.number, offset)?;
            }
        }
        Ok(list)
    }

    /// Takes over what the cluster says of the topics; gives why it must be asked again, if it must.
    fn find_topics(&mut self, found: &[Topic]) -> Result<Option<String>> {
        for (at, name) in self.options.topics.iter().enumerate() {
            let Some(topic) = found.iter().find(|topic| topic.name == *name) else {
                return Ok(Some(format!("nothing is said of topic {name:?}")));
            };
            match topic.error {
                None => {}
                Some(RDKafkaErrorCode::UnknownTopicOrPartition) if self.places[at].is_empty() => {
                    return Err(Error::input(format!(
                        "kafka://{}: there is no topic {name:?}; make it with `kafka-topics --bootstrap-server {} --create \
                         --topic {name} --partitions N`",
                        self.options.servers, self.options.servers
                    )));
                }
                Some(RDKafkaErrorCode::InvalidTopic) => {
                    return Err(Error::input(format!("{name:?} is no name of a topic")));
                }
                Some(code) if trouble::of_code(code) == Trouble::Passing => {
                    return Ok(Some(format!("topic {name:?}: {code}")));
                }
                Some(code) => return Err(self.options.failed(format!("topic {name:?} can't be read: {code}"))),
            }
            if let (Some(known), Some(id)) = (&self.ids[at], &topic.id)
                && known != id
            {
                return Err(Error::input(format!(
                    "kafka:{name}: the topic was made anew while it was read (topic id {known}; now it is {id}); take another \
                     zone for it"
                )));
            }
            if self.ids[at].is_none() && self.places[at].is_empty() {
                self.ids[at].clone_from(&topic.id);
            }
            for number in topic.partitions.iter().copied() {
                if self.place(name, number).is_some() {
                    continue;
                }
                self.places[at].push(self.partitions.len());
                self.partitions.push(Partition::new(at, number));
                let identity = self.ids[at].as_ref().map(|id| format!("topic id {id}").into());
                self.feeds.push(Feed { name: format!("kafka:{name}/{number}").into(), identity });
            }
            if topic.partitions.is_empty() {
                return Ok(Some(format!("topic {name:?} has no partitions")));
            }
        }
        Ok(None)
    }

    /// Looks whether the topics are what they were, and where they end. The outer error is one for good.
    async fn look(&mut self) -> Result<Result<(), String>> {
        let found = match self.describe().await {
            Ok(found) => found,
            Err(why) => return Ok(Err(why)),
        };
        if let Some(why) = self.find_topics(&found)? {
            return Ok(Err(why));
        }
        match self.offsets(Offset::End).await {
            Ok(ends) => {
                self.partitions.iter_mut().zip(ends).for_each(|(partition, end)| partition.end = end);
                Ok(Ok(()))
            }
            Err(why) => Ok(Err(why)),
        }
    }

    /// Something came from the cluster.
    fn works(&mut self) {
        (self.failing, self.pause) = (None, FIRST_PAUSE);
    }

    fn fails(&mut self, why: String) {
        let since = self.failing.take().map_or_else(Instant::now, |(since, _)| since);
        self.failing = Some((since, why));
    }

    /// Waits a little after a failure, or gives up.
    async fn after_failure(&mut self, why: String) -> Result<()> {
        self.fails(why);
        let Some((since, why)) = &self.failing else { return Ok(()) };
        let elapsed = since.elapsed();
        if elapsed >= self.options.patience {
            return Err(self.options.failed(format!(
                "{why} (waited {:.0} s for the cluster; what was not committed comes again in the next run)",
                elapsed.as_secs_f64()
            )));
        }
        tracing::warn!(servers = %self.options.servers, error = %why, "no events; trying again");
        tokio::time::sleep(self.pause.min(self.options.patience - elapsed)).await;
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        Ok(())
    }

    /// Hears the errors that wait for somebody to read, while nothing is assigned.
    fn listen(&mut self) -> Result<()> {
        let client = Arc::clone(&self.client);
        // Lines for the log are in the queue too, and look like nothing.
        for _ in 0..LISTENED {
            if let Some(Err(error)) = client.recv().now_or_never() {
                self.judge(&error)?;
            }
        }
        Ok(())
    }

    /// What an error means: to wait, to look for the position, or the end.
    fn judge(&mut self, error: &KafkaError) -> Result<()> {
        let why = self.client.context().reason(error);
        match trouble::of(error) {
            Trouble::Passing => self.fails(why),
            Trouble::Position => self.astray = true,
            Trouble::Lasting => {
                let zstd = why.contains("Decompression (codec 0x4)");
                let hint = if zstd && cfg!(not(feature = "kafka-zstd")) {
                    "; they are compressed by zstd: build duet with --features kafka-zstd"
                } else {
                    ""
                };
                return Err(self.options.failed(format!("{why}{hint}")));
            }
        }
        Ok(())
    }

    /// Reads every partition from where it is to go on. What the client has fetched is fetched again.
    async fn assign(&mut self) -> Result<(), String> {
        let next = |partition: &Partition| partition.started.then(|| i64::try_from(partition.next).ok()).flatten();
        let begin = |partition: &Partition| next(partition).map(Offset::Offset);
        let list = self.list(begin).map_err(|error| error.to_string())?;
        self.ask(move |client| client.assign(&list).map_err(|error| error.to_string())).await
    }

    /// Where the partitions begin and end, tried for as long as patience lasts.
    async fn bounds(&mut self) -> Result<(Vec<u64>, Vec<u64>)> {
        loop {
            let asked =
                async { Ok::<_, String>((self.offsets(Offset::Beginning).await?, self.offsets(Offset::End).await?)) };
            match asked.await {
                Ok(bounds) => return Ok(bounds),
                Err(why) => {
                    self.listen_while_stopped()?;
                    self.after_failure(why).await?;
                }
            }
        }
    }

    fn listen_while_stopped(&mut self) -> Result<()> {
        if self.partitions.iter().any(|partition| partition.started) { Ok(()) } else { self.listen() }
    }

    /// An error for events that were removed before the zone had them, or a word about it where that is allowed.
    fn missing(&self, gaps: &[(usize, u64, u64)]) -> Result<()> {
        let Some(&(feed, first, end)) = gaps.first() else { return Ok(()) };
        let total: u64 = gaps.iter().map(|(_, first, end)| end - first).sum();
        let others = match gaps.len() {
            1 => String::new(),
            2 => format!(", and more in another partition: {} in all", grouped(total)),
            number => format!(", and more in {} other partitions: {} in all", number - 1, grouped(total)),
        };
        let what = format!(
            "{}: {} offsets ({first} to {}) were removed from the topic before the zone had their events{others}",
            self.feeds[feed].name,
            grouped(end - first),
            end - 1
        );
        if self.options.allow_gaps {
            tracing::warn!("{what}; going on without them");
            return Ok(());
        }
        Err(Error::input(format!("{what}; go on without them with --allow-gaps")))
    }

    /// A partition ends before what the zone has of it.
    fn too_short(&self, feed: usize, next: u64, end: u64) -> Error {
        Error::input(format!(
            "{}: it ends at offset {end}, and the zone has it up to {}: the topic was made anew or cut off; take another zone \
             for it",
            self.feeds[feed].name,
            next - 1
        ))
    }

    /// Finds out why a partition can't be read where it is read, and goes on where that is possible.
    async fn find_position(&mut self) -> Result<()> {
        let (begins, ends) = self.bounds().await?;
        if let Ok(found) = self.describe().await {
            self.find_topics(&found)?;
        }
        let mut gaps = Vec::new();
        for (at, partition) in self.partitions.iter().enumerate().take(begins.len()) {
            if partition.next > ends[at] {
                return Err(self.too_short(at, partition.next, ends[at]));
            }
            if partition.next < begins[at] {
                gaps.push((at, partition.next, begins[at]));
            }
        }
        self.missing(&gaps)?;
        gaps.iter().for_each(|&(at, _, begin)| self.partitions[at].skip_to(begin));
        match self.assign().await {
            Ok(()) => self.astray = false,
            Err(why) => self.after_failure(why).await?,
        }
        Ok(())
    }

    /// Goes past what the client has seen and is no event: control records behind the last event.
    fn pass(&mut self) {
        let Ok(positions) = self.client.position() else { return };
        for element in positions.elements() {
            if let Offset::Offset(position) = element.offset()
                && let Some(at) = self.place(element.topic(), element.partition())
                && self.partitions[at].started
            {
                self.partitions[at].pass(position.unsigned_abs());
            }
        }
    }

    fn place(&self, topic: &str, partition: i32) -> Option<usize> {
        let topic = self.options.topics.iter().position(|name| name == topic)?;
        let places = &self.places[topic];
        // Partitions are numbered from 0 without gaps, unless the cluster left one out when it was asked.
        let guess = usize::try_from(partition).ok().and_then(|number| places.get(number)).copied();
        let is = |at: &usize| self.partitions[*at].number == partition;
        guess.filter(is).or_else(|| places.iter().copied().find(is))
    }

    fn take(&mut self, message: &BorrowedMessage<'_>) -> Result<Delivery<(usize, u64, u64)>> {
        let odd =
            || Error::Internal(format!("an event of {}/{}, which is not read", message.topic(), message.partition()));
        let feed = self.place(message.topic(), message.partition()).ok_or_else(odd)?;
        let sequence = u64::try_from(message.offset()).map_err(|_| odd())?;
        let covers_from = self.partitions[feed].hand_out(sequence);
        self.handed_out += 1;
        Ok(Delivery {
            feed,
            sequence,
            covers_from,
            received_ms: message.timestamp().to_millis(),
            payload: message.payload().map_or_else(Bytes::new, Bytes::copy_from_slice),
            ticket: (feed, covers_from, sequence),
        })
    }

    /// Tells the group how far the zone is, without waiting for an answer.
    fn tell(&mut self) {
        let news: Vec<bool> = self.partitions.iter_mut().map(|partition| partition.tell().is_some()).collect();
        if let Some(list) = self.durable(|place| news[place])
            && let Err(error) = self.client.commit(&list, CommitMode::Async)
        {
            self.client.context().not_committed(&error);
        }
    }

    /// How far the zone is, for some of the partitions.
    fn durable(&self, which: impl Fn(usize) -> bool) -> Option<TopicPartitionList> {
        let mut list = TopicPartitionList::new();
        for (place, partition) in self.partitions.iter().enumerate() {
            let until = partition.durable_until();
            if which(place) && partition.started && until > 0 {
                let topic = &self.options.topics[partition.topic];
                let until = Offset::Offset(i64::try_from(until).ok()?);
                list.add_partition_offset(topic, partition.number, until).ok()?;
            }
        }
        (list.count() > 0).then_some(list)
    }
}

impl Drop for KafkaSource {
    fn drop(&mut self) {
        // Closing a consumer blocks until its threads have ended, and this may be the thread of a runtime.
        let client = Arc::clone(&self.client);
        std::thread::spawn(move || {
            while Arc::strong_count(&client) > 1 {
                std::thread::sleep(Duration::from_millis(5));
            }
        });
    }
}

impl EventSource for KafkaSource {
    /// Feed, and first and last offset that the event accounts for.
    type Ticket = (usize, u64, u64);

    fn feeds(&self) -> &[Feed] {
        &self.feeds
    }

    async fn resume(&mut self, committed: &[Ranges]) -> Result<()> {
        let (begins, ends) = self.bounds().await?;
        let mut gaps = Vec::new();
        for at in 0..begins.len() {
            let Some(committed_here) = committed.get(at).filter(|_| !self.partitions[at].started) else { continue };
            let next = committed_here.first_absent(0).unwrap_or(u64::MAX);
            if next > ends[at] {
                return Err(self.too_short(at, next, ends[at]));
            }
            let begin = next.max(begins[at]);
            if begin > next {
                // A zone that has nothing of the topic begins with what is there.
                let mut siblings = self.places[self.partitions[at].topic].iter();
                if siblings.any(|sibling| committed.get(*sibling).is_some_and(|committed| !committed.is_empty())) {
                    gaps.push((at, next, begin));
                } else {
                    tracing::info!(feed = %self.feeds[at].name, offset = begin, "begins behind what the topic has no more");
                }
            }
            self.partitions[at].begin(begin, ends[at], committed_here);
        }
        self.missing(&gaps)?;
        while let Err(why) = self.assign().await {
            self.after_failure(why).await?;
        }
        self.works();
        Ok(())
    }

    async fn receive(&mut self, limit: usize, wait: Duration, into: &mut Vec<Delivery<Self::Ticket>>) -> Result<Flow> {
        if self.released {
            return Ok(Flow::Ended);
        }
        if self.astray {
            self.find_position().await?;
        }
        let client = Arc::clone(&self.client);
        let mut messages = client.stream();
        let mut next = tokio::time::timeout(wait, messages.next()).await.ok().flatten();
        if next.is_none() && self.failing.is_some() {
            match self.look().await? {
                Ok(()) => self.works(),
                Err(why) => self.after_failure(why).await?,
            }
        }
        let mut bytes = 0;
        while let Some(message) = next {
            match message {
                Ok(message) => {
                    self.works();
                    bytes += message.payload_len();
                    into.push(self.take(&message)?);
                }
                Err(error) => self.judge(&error)?,
            }
            // Not one message more than is wanted is taken out: it would be lost to this run.
            if bytes >= RECEIVE_BYTES || into.len() >= limit || self.astray {
                break;
            }
            next = messages.next().now_or_never().flatten();
        }
        Ok(Flow::Open)
    }

    async fn settle(&mut self) -> Result<Vec<Option<u64>>> {
        self.pass();
        // A cluster that does not answer has not made the topic anew either; it is asked again before it is read again.
        if self.failing.is_none() {
            match self.describe().await {
                Ok(found) => {
                    if let Some(why) = self.find_topics(&found)? {
                        self.fails(why);
                    }
                }
                Err(why) => self.fails(why),
            }
        }
        let last = |partition: &Partition| partition.started.then(|| partition.next.checked_sub(1)).flatten();
        Ok(self.partitions.iter().map(last).collect())
    }

    async fn acknowledge(&mut self, tickets: Vec<Self::Ticket>) -> Result<()> {
        self.acknowledged += tickets.len() as u64;
        for (feed, first, last) in tickets {
            self.partitions[feed].keep(first, last);
        }
        self.tell();
        Ok(())
    }

    async fn hold(&mut self, _: &[Self::Ticket]) -> Result<()> {
        Ok(())
    }

    fn hold_every(&self) -> Option<Duration> {
        None
    }

    async fn release(&mut self) {
        self.released = true;
        self.pass();
        let Some(list) = self.durable(|_| true).filter(|_| self.failing.is_none()) else { return };
        // An answer is waited for: the process may end right after, and with it what was sent before.
        let committed = self.ask(move |client| {
            if let Err(error) = client.commit(&list, CommitMode::Sync) {
                client.context().not_committed(&error);
            }
            Ok(())
        });
        if tokio::time::timeout(REQUEST_TIMEOUT, committed).await.is_err() {
            tracing::warn!("the group's offsets were not committed in time; no event is lost");
        }
    }

    async fn lag(&mut self) -> Result<Option<Lag>> {
        self.pass();
        let looked = self.look().await?;
        let known = looked.is_ok();
        match looked {
            Ok(()) => {}
            Err(why) if self.released => return Err(self.options.failed(why)),
            Err(why) => self.after_failure(why).await?,
        }
        Ok(Some(Lag {
            waiting: self.partitions.iter().map(Partition::waiting).sum(),
            unacknowledged: self.handed_out - self.acknowledged,
            caught_up: known && self.partitions.iter().all(|partition| partition.durable_until() >= partition.target),
        }))
    }
}

#[cfg(test)]
#[expect(clippy::unwrap_used, reason = "tests")]
mod tests {
    use rdkafka::mocking::MockCluster;

    use super::*;

    #[tokio::test(flavor = "multi_thread")]
    async fn a_topic_that_changes_while_it_is_read() {
        let brokers = MockCluster::new(1).unwrap();
        brokers.create_topic("events", 2, 1).unwrap();
        let options = KafkaOptions::new(&brokers.bootstrap_servers(), &["events"], "zone");
        let mut source = KafkaSource::open(options).await.unwrap();
        let found = source.describe().await.unwrap();
        assert_eq!((found.len(), found[0].partitions.as_slice(), found[0].error), (1, &[0, 1][..], None));
        let id = found[0].id.clone().unwrap();
        assert_eq!(id.len(), 22, "{id}");
        let identity = Some(format!("topic id {id}").into());
        let feed = |number| Feed { name: format!("kafka:events/{number}").into(), identity: identity.clone() };
        assert_eq!(source.feeds(), [feed(0), feed(1)]);

        // The same again, and one partition more.
        assert_eq!(source.find_topics(&found).unwrap(), None);
        let grown = Topic { partitions: vec![0, 1, 2], ..found[0].clone() };
        assert_eq!(source.find_topics(&[grown]).unwrap(), None);
        assert_eq!(source.feeds(), [feed(0), feed(1), feed(2)]);
        assert_eq!(
            (source.place("events", 2), source.place("events", 3), source.place("other", 0)),
            (Some(2), None, None)
        );

        // Gone, which may be over soon; and back as another one.
        let gone = Topic { error: Some(RDKafkaErrorCode::UnknownTopicOrPartition), ..found[0].clone() };
        assert!(source.find_topics(&[gone]).unwrap().unwrap().contains("events"));
        let other = Topic { id: Some("AAAAAAAAAAAAAAAAAAAAAA".into()), ..found[0].clone() };
        let error = source.find_topics(&[other]).unwrap_err().to_string();
        assert!(error.contains("made anew while it was read") && error.contains(&*id), "{error}");
    }
}
