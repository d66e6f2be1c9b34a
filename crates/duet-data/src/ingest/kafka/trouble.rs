//! What goes wrong between the client and the cluster: what passes, what does not, and what librdkafka said of it.

use std::sync::{
    Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use rdkafka::{
    ClientContext, Statistics, TopicPartitionList,
    config::RDKafkaLogLevel,
    consumer::ConsumerContext,
    error::{KafkaError, KafkaResult, RDKafkaErrorCode as Code},
};

/// What is to be done about an error.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Trouble {
    /// It may be over soon: wait, for as long as patience lasts.
    Passing,
    /// Nothing can be read where a partition is read: look what it has.
    Position,
    /// It will be the same next time; or it hides events, as a batch that can't be decompressed does.
    Lasting,
}

/// What an error of reading is.
pub(super) fn of(error: &KafkaError) -> Trouble {
    match error {
        KafkaError::MessageConsumption(code) | KafkaError::Global(code) | KafkaError::MetadataFetch(code) => {
            of_code(*code)
        }
        _ => Trouble::Lasting,
    }
}

/// What the code of an error is. Whatever is not known to pass is taken as lasting: to skip what can't be read is to lose it.
pub(super) fn of_code(code: Code) -> Trouble {
    match code {
        Code::AutoOffsetReset | Code::LogTruncation | Code::OffsetOutOfRange | Code::NoOffset => Trouble::Position,
        Code::BrokerTransportFailure
        | Code::AllBrokersDown
        | Code::Resolve
        | Code::OperationTimedOut
        | Code::TimedOutQueue
        | Code::MessageTimedOut
        | Code::WaitingForCoordinator
        | Code::NodeUpdate
        | Code::DestroyBroker
        | Code::BrokerDestroy
        | Code::UnknownBroker
        | Code::UnknownPartition
        | Code::UnknownTopic
        | Code::UnknownTopicOrPartition
        | Code::UnknownTopicId
        | Code::LeaderNotAvailable
        | Code::NotLeaderForPartition
        | Code::RequestTimedOut
        | Code::BrokerNotAvailable
        | Code::ReplicaNotAvailable
        | Code::NetworkException
        | Code::CoordinatorLoadInProgress
        | Code::CoordinatorNotAvailable
        | Code::NotCoordinator
        | Code::NotController
        | Code::KafkaStorageError
        | Code::FetchSessionIdNotFound
        | Code::InvalidFetchSessionEpoch
        | Code::ListenerNotFound
        | Code::FencedLeaderEpoch
        | Code::UnknownLeaderEpoch
        | Code::StaleBrokerEpoch
        | Code::OffsetNotAvailable
        | Code::PreferredLeaderNotAvailable
        | Code::EligibleLeadersNotAvailable
        | Code::ThrottlingQuotaExceeded
        | Code::RebootstrapRequired => Trouble::Passing,
        _ => Trouble::Lasting,
    }
}

/// Hears what librdkafka has to say.
#[derive(Debug, Default)]
pub(super) struct Listener {
    /// Why the last thing failed, in librdkafka's words.
    reason: Mutex<Option<String>>,
    /// Whether it was said that offsets can't be committed.
    told: AtomicBool,
}

impl Listener {
    /// The reason that belongs to an error which was just returned.
    pub(super) fn reason(&self, error: &KafkaError) -> String {
        let reason = self.reason.lock().unwrap_or_else(PoisonError::into_inner).take();
        match (reason, error.rdkafka_error_code()) {
            (Some(reason), Some(code)) if !reason.contains(&code.to_string()) => format!("{reason} ({code})"),
            (Some(reason), _) => reason,
            (None, _) => error.to_string(),
        }
    }

    /// Says, once, that Kafka does not know how far the zone is. No events depend on that.
    pub(super) fn not_committed(&self, error: &KafkaError) {
        if self.told.swap(true, Ordering::Relaxed) {
            tracing::debug!(%error, "offsets were not committed");
        } else {
            tracing::warn!(%error, "offsets were not committed: the lag that Kafka's tools show is too large; no event is lost");
        }
    }
}

impl ClientContext for Listener {
    fn log(&self, level: RDKafkaLogLevel, facility: &str, message: &str) {
        // What matters comes as an error too, and is told then.
        match level {
            RDKafkaLogLevel::Debug => tracing::trace!(facility, "{message}"),
            _ => tracing::debug!(facility, "{message}"),
        }
    }

    fn stats(&self, _: Statistics) {}

    fn error(&self, error: KafkaError, reason: &str) {
        tracing::debug!(%error, reason, "librdkafka");
        if !reason.is_empty() {
            *self.reason.lock().unwrap_or_else(PoisonError::into_inner) = Some(reason.to_owned());
        }
    }
}

impl ConsumerContext for Listener {
    fn commit_callback(&self, result: KafkaResult<()>, _: &TopicPartitionList) {
        match result {
            // There was nothing to commit.
            Err(error) if error.rdkafka_error_code() != Some(Code::NoOffset) => self.not_committed(&error),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_is_known_to_pass_is_waited_for() {
        let consumption = |code| of(&KafkaError::MessageConsumption(code));
        assert_eq!(consumption(Code::AllBrokersDown), Trouble::Passing);
        assert_eq!(consumption(Code::AutoOffsetReset), Trouble::Position);
        for code in [Code::BadCompression, Code::BadMessage, Code::NotImplemented, Code::Authentication, Code::SSL] {
            assert_eq!(consumption(code), Trouble::Lasting, "{code}");
        }
        assert_eq!(of(&KafkaError::MessageConsumptionFatal(Code::AllBrokersDown)), Trouble::Lasting);
    }
}
