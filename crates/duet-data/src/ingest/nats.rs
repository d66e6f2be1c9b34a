//! NATS JetStream as a source: a durable pull consumer.
//!
//! * An event is acknowledged once it is durable in the zone. An acknowledgement that gets lost does no harm: the event
//!   comes again, and its sequence is known.
//! * The consumer numbers its deliveries. Where two of them follow each other and both are the first of their event, the
//!   stream sequences between belong to no event of the consumer's subject; so the committed sequences stay few ranges.
//! * A server that goes away is waited for; the client connects again by itself. After the source's patience it is an error
//!   that names the server.

use std::{
    path::PathBuf,
    sync::Arc,
    time::{Duration, Instant},
};

use async_nats::{
    Client, ConnectOptions, Subject,
    connection::State,
    jetstream::{
        self, Context,
        consumer::{AckPolicy, DeliverPolicy, PullConsumer, pull},
        context::GetStreamErrorKind,
        stream,
    },
};
use bytes::Bytes;
use duet_core::{Error, Result};
use futures::{FutureExt, StreamExt};

use super::source::{Delivery, EventSource, Feed, Flow, Lag, RECEIVE_BYTES};
use crate::store::PATIENCE;

/// Messages asked for at once; up to one and a half times as many wait in the client.
const PULL_MESSAGES: usize = 8_192;
/// How long a request for messages stays open, and how often the server then shows that it is there.
const PULL_EXPIRES: Duration = Duration::from_secs(30);
const HEARTBEAT: Duration = Duration::from_secs(5);
/// How long an answer of the server is waited for.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(5);
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(5);

/// Which events of which server.
#[derive(Debug, Clone)]
pub struct NatsOptions {
    /// The server: `nats://[USER:PASSWORD@]HOST:PORT`, or `tls://`.
    pub url: String,
    /// A credentials file, as NATS's own tools use them.
    pub credentials: Option<PathBuf>,
    /// The stream.
    pub stream: String,
    /// The subject within the stream; all of them for nothing.
    pub subject: Option<String>,
    /// Name of the durable consumer. It belongs to one zone.
    pub consumer: String,
    /// Whether to make the stream, for the given subject, where there is none.
    pub create_stream: bool,
    /// After how long without an acknowledgement the server hands an event out again.
    pub ack_wait: Duration,
    /// How many events may be handed out and not acknowledged. Twice the events of a batch, or the stream stops and starts.
    pub max_unacknowledged: usize,
    /// How long a server that is gone is waited for.
    pub patience: Duration,
}

impl NatsOptions {
    /// A stream of a server, with the usual settings.
    pub fn new(url: &str, stream: &str, consumer: &str) -> Self {
        Self {
            url: url.to_owned(),
            credentials: None,
            stream: stream.to_owned(),
            subject: None,
            consumer: consumer.to_owned(),
            create_stream: false,
            ack_wait: Duration::from_secs(60),
            max_unacknowledged: 500_000,
            patience: PATIENCE,
        }
    }

    /// The URL without a password, for messages.
    fn server(&self) -> String {
        match url::Url::parse(&self.url) {
            Ok(mut url) if url.password().is_some() => {
                let _ = url.set_password(Some("***"));
                url.to_string()
            }
            _ => self.url.clone(),
        }
    }

    fn failed(&self, what: impl std::fmt::Display) -> Error {
        Error::Io { path: PathBuf::from(self.server()), source: std::io::Error::other(what.to_string()) }
    }
}

/// The events of a stream's subject.
pub struct NatsSource {
    options: NatsOptions,
    client: Client,
    context: Context,
    consumer: PullConsumer,
    /// None once they were given back.
    messages: Option<pull::Stream>,
    feed: Feed,
    /// The last sequence that the stream had when it was opened.
    target: u64,
    /// Consumer sequence and stream sequence of the last delivery, if it was the first of its event.
    last: Option<(u64, u64)>,
    /// Since when nothing works.
    failing_since: Option<Instant>,
    /// Whether the connection was there when it was last looked at.
    connected: bool,
    pause: Duration,
}

impl std::fmt::Debug for NatsSource {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.debug_struct("NatsSource").field("feed", &self.feed).finish()
    }
}

impl NatsSource {
    /// Connects, and makes the consumer where there is none.
    ///
    /// # Errors
    /// [`Error::Io`] naming the server if it does not answer; [`Error::Input`] for a stream that is not there, and for a
    /// consumer of that name that is for something else.
    pub async fn open(options: NatsOptions) -> Result<Self> {
        let client = connect(&options).await?;
        let mut context = jetstream::new(client.clone());
        context.set_timeout(REQUEST_TIMEOUT);
        let mut stream = open_stream(&options, &context).await?;
        let info = stream.info().await.map_err(|error| options.failed(error))?.clone();
        let consumer = open_consumer(&options, &stream).await?;
        let messages = pull(&consumer).await.map_err(|error| options.failed(error))?;
        Ok(Self {
            feed: Feed { name: format!("nats:{}", options.stream).into(), identity: Some(identity(&options, &info)) },
            target: info.state.last_sequence,
            options,
            client,
            context,
            consumer,
            messages: Some(messages),
            last: None,
            failing_since: None,
            connected: true,
            pause: FIRST_PAUSE,
        })
    }

    /// Waits a little after a failure, or gives up.
    async fn after_failure(&mut self, what: String) -> Result<()> {
        let since = *self.failing_since.get_or_insert_with(Instant::now);
        let elapsed = since.elapsed();
        if elapsed >= self.options.patience {
            return Err(self.options.failed(format!(
                "{what} (waited {:.0} s for the server; what was not acknowledged comes again in the next run)",
                elapsed.as_secs_f64()
            )));
        }
        tracing::warn!(server = %self.options.server(), error = %what, "no events; trying again");
        tokio::time::sleep(self.pause.min(self.options.patience - elapsed)).await;
        self.pause = (2 * self.pause).min(LONGEST_PAUSE);
        Ok(())
    }

    /// Asks for messages anew, if the server is there and the stream is still the same.
    async fn reopen(&mut self) -> Result<()> {
        let opened = async {
            let info = self.context.get_stream(&self.options.stream).await.map_err(|error| error.to_string())?;
            let identity = identity(&self.options, info.cached_info());
            self.consumer.get_info().await.map_err(|error| error.to_string())?;
            let messages = pull(&self.consumer).await.map_err(|error| error.to_string())?;
            Ok::<_, String>((identity, messages))
        };
        match opened.await {
            Ok((identity, _)) if self.feed.identity.as_ref() != Some(&identity) => Err(Error::input(format!(
                "{}: the stream was made anew while it was read ({}; now it is {identity}); take another zone for it",
                self.feed.name,
                self.feed.identity.as_deref().unwrap_or_default()
            ))),
            Ok((_, messages)) => {
                self.messages = Some(messages);
                (self.last, self.failing_since, self.pause) = (None, None, FIRST_PAUSE);
                Ok(())
            }
            Err(error) => self.after_failure(error).await,
        }
    }

    fn take(&mut self, message: jetstream::Message) -> Result<Delivery<Subject>> {
        let failed = |error: String| Error::Internal(format!("a message that is none of JetStream's: {error}"));
        let info = message.info().map_err(|error| failed(error.to_string()))?;
        let sequence = info.stream_sequence;
        let first = info.delivered == 1;
        let covers_from = match self.last {
            Some((delivery, before)) if first && info.consumer_sequence == delivery + 1 && before < sequence => {
                before + 1
            }
            _ => sequence,
        };
        self.last = first.then_some((info.consumer_sequence, sequence));
        let received_ms = i64::try_from(info.published.unix_timestamp_nanos() / 1_000_000).ok();
        let message = message.message;
        let ticket = message.reply.ok_or_else(|| failed("no reply subject".to_owned()))?;
        Ok(Delivery { feed: 0, sequence, covers_from, received_ms, payload: message.payload, ticket })
    }

    async fn publish_all(&self, tickets: &[Subject], word: &'static [u8]) {
        if self.client.connection_state() != State::Connected {
            return;
        }
        let all = async {
            for ticket in tickets {
                if self.client.publish(ticket.clone(), Bytes::from_static(word)).await.is_err() {
                    return;
                }
            }
            let _ = self.client.flush().await;
        };
        // A connection that was lost takes nothing any more; the events come again then.
        if tokio::time::timeout(REQUEST_TIMEOUT.max(self.options.ack_wait / 4), all).await.is_err() {
            tracing::warn!(server = %self.options.server(), "acknowledgements did not get through; the events come again");
        }
    }
}

async fn connect(options: &NatsOptions) -> Result<Client> {
    let (started, mut pause) = (Instant::now(), FIRST_PAUSE);
    loop {
        let mut settings = ConnectOptions::new()
            .name("duet ingest")
            .connection_timeout(REQUEST_TIMEOUT)
            .request_timeout(Some(REQUEST_TIMEOUT))
            .reconnect_delay_callback(|attempts| {
                (FIRST_PAUSE * 2_u32.saturating_pow(attempts.min(10) as u32)).min(LONGEST_PAUSE)
            });
        if let Some(file) = &options.credentials {
            settings = settings.credentials_file(file).await.map_err(Error::io(file))?;
        }
        let error = match settings.connect(&options.url).await {
            Ok(client) => return Ok(client),
            Err(error) => error,
        };
        use async_nats::ConnectErrorKind as Kind;
        let hopeless =
            matches!(error.kind(), Kind::ServerParse | Kind::Authentication | Kind::AuthorizationViolation | Kind::Tls);
        if hopeless || started.elapsed() + pause > options.patience {
            let seconds = started.elapsed().as_secs_f64();
            let waited = if hopeless { String::new() } else { format!(" (tried for {seconds:.0} s)") };
            return Err(options.failed(format!("no NATS server to work with: {error}{waited}")));
        }
        tracing::warn!(server = %options.server(), %error, ?pause, "no connection; trying again");
        tokio::time::sleep(pause).await;
        pause = (2 * pause).min(LONGEST_PAUSE);
    }
}

async fn open_stream(options: &NatsOptions, context: &Context) -> Result<stream::Stream> {
    let error = match context.get_stream(&options.stream).await {
        Ok(stream) => return Ok(stream),
        Err(error) => error,
    };
    let missing = match error.kind() {
        GetStreamErrorKind::JetStream(ref answer) => answer.error_code() == jetstream::ErrorCode::STREAM_NOT_FOUND,
        GetStreamErrorKind::InvalidStreamName | GetStreamErrorKind::EmptyName => {
            return Err(Error::input(format!("{:?} is no name of a stream", options.stream)));
        }
        _ => false,
    };
    if !missing {
        let hint = "is JetStream on (nats-server -js)?";
        return Err(options.failed(format!("stream {:?} can't be looked up: {error}; {hint}", options.stream)));
    }
    match (&options.subject, options.create_stream) {
        (Some(subject), true) => {
            let config = stream::Config {
                name: options.stream.clone(),
                subjects: vec![subject.clone()],
                storage: stream::StorageType::File,
                ..stream::Config::default()
            };
            let made = context.create_stream(config).await;
            made.map_err(|error| options.failed(format!("stream {:?} can't be made: {error}", options.stream)))
        }
        (None, true) => Err(Error::input("--create-stream needs --subject: what the new stream is to collect")),
        (subject, false) => {
            let subject = subject.as_deref().unwrap_or("SUBJECT");
            Err(Error::input(format!(
                "{}: there is no stream {:?}; make it with `nats stream add {} --subjects {subject} --storage file \
                 --defaults`, or let duet make it with --create-stream",
                options.server(),
                options.stream,
                options.stream
            )))
        }
    }
}

async fn open_consumer(options: &NatsOptions, stream: &stream::Stream) -> Result<PullConsumer> {
    let wanted = pull::Config {
        durable_name: Some(options.consumer.clone()),
        description: Some("duet ingest".to_owned()),
        deliver_policy: DeliverPolicy::All,
        ack_policy: AckPolicy::Explicit,
        ack_wait: options.ack_wait,
        max_ack_pending: i64::try_from(options.max_unacknowledged).unwrap_or(i64::MAX),
        filter_subject: options.subject.clone().unwrap_or_default(),
        ..pull::Config::default()
    };
    let taken = |why: String| {
        Error::input(format!(
            "consumer {:?} of stream {:?} is for something else: {why}; give --consumer another name",
            options.consumer, options.stream
        ))
    };
    if let Ok(found) = stream.consumer_info(&options.consumer).await {
        let config = found.config;
        if config.deliver_subject.is_some() {
            return Err(taken("it pushes".to_owned()));
        }
        if config.ack_policy != AckPolicy::Explicit {
            return Err(taken("its events need no acknowledgement of their own".to_owned()));
        }
        if config.filter_subject != wanted.filter_subject {
            let of = |subject: &str| if subject.is_empty() { "all".to_owned() } else { format!("{subject:?}") };
            return Err(taken(format!(
                "its subject is {}, not {}",
                of(&config.filter_subject),
                of(&wanted.filter_subject)
            )));
        }
        if config.deliver_policy != DeliverPolicy::All {
            return Err(taken("it does not begin at the first event".to_owned()));
        }
        if config.max_deliver > 0 {
            return Err(taken(format!("it gives up after {} deliveries", config.max_deliver)));
        }
    }
    let made = stream.create_consumer(wanted).await;
    made.map_err(|error| options.failed(format!("consumer {:?} can't be used: {error}", options.consumer)))
}

async fn pull(consumer: &PullConsumer) -> Result<pull::Stream, jetstream::consumer::StreamError> {
    consumer.stream().max_messages_per_batch(PULL_MESSAGES).expires(PULL_EXPIRES).heartbeat(HEARTBEAT).messages().await
}

/// A stream made anew counts from 1 again, and another subject has other gaps.
fn identity(options: &NatsOptions, info: &stream::Info) -> Arc<str> {
    let subject = options.subject.as_deref().unwrap_or(">");
    let nanoseconds = info.created.unix_timestamp_nanos();
    let created = chrono::DateTime::from_timestamp_nanos(i64::try_from(nanoseconds).unwrap_or(i64::MAX));
    let created = created.to_rfc3339_opts(chrono::SecondsFormat::Micros, true);
    format!("made at {created}, subject {subject}").into()
}

impl EventSource for NatsSource {
    type Ticket = Subject;

    fn feeds(&self) -> &[Feed] {
        std::slice::from_ref(&self.feed)
    }

    async fn receive(&mut self, limit: usize, wait: Duration, into: &mut Vec<Delivery<Subject>>) -> Result<Flow> {
        use jetstream::consumer::pull::MessagesErrorKind as Kind;
        let Some(messages) = &mut self.messages else { return Ok(Flow::Ended) };
        let (mut bytes, mut next) = (0, tokio::time::timeout(wait, messages.next()).await.ok());
        loop {
            match next {
                // Nothing for now.
                None => {
                    let connected = self.client.connection_state() == State::Connected;
                    if !connected {
                        self.after_failure("the connection was lost".to_owned()).await?;
                    } else if !self.connected {
                        self.reopen().await?;
                    }
                    self.connected = connected;
                    break;
                }
                Some(Some(Ok(message))) => {
                    (self.failing_since, self.pause) = (None, FIRST_PAUSE);
                    bytes += message.payload.len();
                    into.push(self.take(message)?);
                    // Not one message more than is wanted is taken out: it would be lost until the server sends it again.
                    if bytes >= RECEIVE_BYTES || into.len() >= limit {
                        break;
                    }
                }
                Some(Some(Err(error))) if error.kind() == Kind::ConsumerDeleted => {
                    let (consumer, stream) = (&self.options.consumer, &self.options.stream);
                    return Err(Error::input(format!(
                        "consumer {consumer:?} of stream {stream:?} was deleted while it was read; run again, and the zone \
                         goes on where it is"
                    )));
                }
                Some(Some(Err(error))) => {
                    tracing::debug!(%error, "the stream of messages failed");
                    self.reopen().await?;
                    break;
                }
                Some(None) => {
                    self.reopen().await?;
                    break;
                }
            }
            next = self.messages.as_mut().and_then(|messages| messages.next().now_or_never());
            if next.is_none() {
                break;
            }
        }
        Ok(Flow::Open)
    }

    async fn acknowledge(&mut self, tickets: Vec<Subject>) -> Result<()> {
        self.publish_all(&tickets, b"+ACK").await;
        Ok(())
    }

    async fn hold(&mut self, tickets: &[Subject]) -> Result<()> {
        if !tickets.is_empty() {
            self.publish_all(tickets, b"+WPI").await;
        }
        Ok(())
    }

    fn hold_every(&self) -> Option<Duration> {
        Some(self.options.ack_wait / 3)
    }

    async fn release(&mut self) {
        let Some(mut messages) = self.messages.take() else { return };
        let mut tickets = Vec::new();
        while let Some(Some(Ok(message))) = messages.next().now_or_never() {
            tickets.extend(message.message.reply);
        }
        // The request for messages is still open; the server forgets it with the subscription. Without that it would hand
        // the next events to nobody, and they would come no sooner than `ack_wait` later.
        drop(messages);
        self.publish_all(&tickets, b"-NAK").await;
        // The server has read everything up to here once it answers.
        let _ = self.consumer.get_info().await;
    }

    async fn lag(&mut self) -> Result<Option<Lag>> {
        loop {
            match self.consumer.get_info().await {
                Ok(info) => {
                    let (waiting, unacknowledged) = (info.num_pending, info.num_ack_pending as u64);
                    let all = waiting == 0 && unacknowledged == 0;
                    let caught_up = all || info.ack_floor.stream_sequence >= self.target;
                    return Ok(Some(Lag { waiting, unacknowledged, caught_up }));
                }
                Err(error) => self.after_failure(format!("the consumer can't be looked up: {error}")).await?,
            }
        }
    }
}
