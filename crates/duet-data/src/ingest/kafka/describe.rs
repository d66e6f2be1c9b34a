//! What a cluster says of topics: their ids and partitions. The client crate does not offer topic ids, so librdkafka is
//! called as it is. Any broker can answer; librdkafka by itself would ask the controller, which a cluster may be without
//! for a while.
#![expect(unsafe_code, reason = "calls into librdkafka")]

use std::{
    ffi::{CStr, CString, c_char},
    sync::Arc,
    time::Duration,
};

use rdkafka::{
    bindings::{
        RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT, rd_kafka_AdminOptions_destroy, rd_kafka_AdminOptions_new,
        rd_kafka_AdminOptions_set_broker, rd_kafka_AdminOptions_set_request_timeout, rd_kafka_DescribeTopics,
        rd_kafka_DescribeTopics_result_topics, rd_kafka_TopicCollection_destroy,
        rd_kafka_TopicCollection_of_topic_names, rd_kafka_TopicDescription_error, rd_kafka_TopicDescription_name,
        rd_kafka_TopicDescription_partitions, rd_kafka_TopicDescription_t, rd_kafka_TopicDescription_topic_id,
        rd_kafka_TopicPartitionInfo_partition, rd_kafka_Uuid_base64str, rd_kafka_Uuid_least_significant_bits,
        rd_kafka_Uuid_most_significant_bits, rd_kafka_admin_op_t, rd_kafka_error_code,
        rd_kafka_event_DescribeTopics_result, rd_kafka_event_destroy, rd_kafka_event_error,
        rd_kafka_event_error_string, rd_kafka_event_type, rd_kafka_queue_destroy, rd_kafka_queue_new,
        rd_kafka_queue_poll, rd_kafka_resp_err_t,
    },
    client::{Client, ClientContext},
    error::RDKafkaErrorCode,
};

/// A topic as the cluster describes it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Topic {
    pub(super) name: String,
    /// Nothing for clusters that have none (before Kafka 2.8).
    pub(super) id: Option<Arc<str>>,
    /// The numbers of its partitions, in order.
    pub(super) partitions: Vec<i32>,
    /// Why the rest is not known.
    pub(super) error: Option<RDKafkaErrorCode>,
}

/// Something of librdkafka's that must be given back.
struct Owned<T>(*mut T, unsafe extern "C" fn(*mut T));

impl<T> Owned<T> {
    fn new(pointer: *mut T, destroy: unsafe extern "C" fn(*mut T)) -> Result<Self, String> {
        if pointer.is_null() { Err("librdkafka is out of memory".to_owned()) } else { Ok(Self(pointer, destroy)) }
    }
}

impl<T> Drop for Owned<T> {
    fn drop(&mut self) {
        // SAFETY: not null, made by librdkafka, destroyed here alone and by the function that belongs to it.
        unsafe { (self.1)(self.0) }
    }
}

/// Asks the cluster for topics, which come in any order. Blocks, at most a little longer than twice `timeout`.
pub(super) fn describe<C: ClientContext>(
    client: &Client<C>,
    topics: &[String],
    timeout: Duration,
) -> Result<Vec<Topic>, String> {
    let broker = any_broker(client, topics, timeout)?;
    let client = client.native_ptr();
    let names: Vec<CString> = topics
        .iter()
        .map(|name| CString::new(name.as_str()).map_err(|_| format!("{name:?} is no name of a topic")))
        .collect::<Result<_, _>>()?;
    let mut pointers: Vec<*const c_char> = names.iter().map(|name| name.as_ptr()).collect();
    let milliseconds = i32::try_from(timeout.as_millis()).unwrap_or(i32::MAX - 1_000);
    // SAFETY: `client` is the handle of a client that is borrowed until the end, and librdkafka's handles may be used from any
    // thread. The names live as long, and the collection copies them. Queue, collection, options and event are checked and
    // given back by `Owned`. The texts and arrays read below belong to `event`, which outlives their use.
    unsafe {
        let queue = Owned::new(rd_kafka_queue_new(client), rd_kafka_queue_destroy)?;
        let collection = rd_kafka_TopicCollection_of_topic_names(pointers.as_mut_ptr(), pointers.len());
        let collection = Owned::new(collection, rd_kafka_TopicCollection_destroy)?;
        let options = rd_kafka_AdminOptions_new(client, rd_kafka_admin_op_t::RD_KAFKA_ADMIN_OP_DESCRIBETOPICS);
        let options = Owned::new(options, rd_kafka_AdminOptions_destroy)?;
        let mut text = [0 as c_char; 256];
        let set = rd_kafka_AdminOptions_set_request_timeout(options.0, milliseconds, text.as_mut_ptr(), text.len());
        let set = match set {
            rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR => {
                rd_kafka_AdminOptions_set_broker(options.0, broker, text.as_mut_ptr(), text.len())
            }
            error => error,
        };
        if set != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(CStr::from_ptr(text.as_ptr()).to_string_lossy().into_owned());
        }
        rd_kafka_DescribeTopics(client, collection.0, options.0, queue.0);
        // The request ends by its own timeout; a second more is for the answer to get here.
        let event = rd_kafka_queue_poll(queue.0, milliseconds + 1_000);
        if event.is_null() {
            return Err("no answer to a question about topics".to_owned());
        }
        let event = Owned(event, rd_kafka_event_destroy);
        if rd_kafka_event_error(event.0) != rd_kafka_resp_err_t::RD_KAFKA_RESP_ERR_NO_ERROR {
            return Err(CStr::from_ptr(rd_kafka_event_error_string(event.0)).to_string_lossy().into_owned());
        }
        let result = rd_kafka_event_DescribeTopics_result(event.0);
        if rd_kafka_event_type(event.0) != RD_KAFKA_EVENT_DESCRIBETOPICS_RESULT || result.is_null() {
            return Err("an answer of another kind to a question about topics".to_owned());
        }
        let mut count = 0;
        let descriptions = rd_kafka_DescribeTopics_result_topics(result, &raw mut count);
        Ok((0..count).map(|at| topic(*descriptions.add(at))).collect())
    }
}

/// The number of a broker that is there: the one that answers this, or the first that it names.
fn any_broker<C: ClientContext>(client: &Client<C>, topics: &[String], timeout: Duration) -> Result<i32, String> {
    // One topic's metadata; without a name it would be that of all.
    let metadata =
        client.fetch_metadata(topics.first().map(String::as_str), timeout).map_err(|error| error.to_string())?;
    let brokers = || metadata.brokers().iter().map(rdkafka::metadata::MetadataBroker::id);
    brokers()
        .find(|id| *id == metadata.orig_broker_id())
        .or_else(|| brokers().next())
        .ok_or_else(|| "the cluster names no brokers".to_owned())
}

/// # Safety
/// `description` must belong to a result that is still there.
unsafe fn topic(description: *const rd_kafka_TopicDescription_t) -> Topic {
    // SAFETY: by this function's contract; all that is read belongs to the description and is copied.
    unsafe {
        let name = CStr::from_ptr(rd_kafka_TopicDescription_name(description)).to_string_lossy().into_owned();
        let error: RDKafkaErrorCode = rd_kafka_error_code(rd_kafka_TopicDescription_error(description)).into();
        let error = (error != RDKafkaErrorCode::NoError).then_some(error);
        let id = rd_kafka_TopicDescription_topic_id(description);
        let given = !id.is_null()
            && (rd_kafka_Uuid_most_significant_bits(id), rd_kafka_Uuid_least_significant_bits(id)) != (0, 0);
        let id = given.then(|| CStr::from_ptr(rd_kafka_Uuid_base64str(id)).to_string_lossy());
        // Kafka's own tools write ids with these two letters.
        let id = id.map(|id| id.replace('+', "-").replace('/', "_").into());
        let mut partitions = Vec::new();
        if error.is_none() {
            let mut count = 0;
            let list = rd_kafka_TopicDescription_partitions(description, &raw mut count);
            partitions.extend((0..count).map(|at| rd_kafka_TopicPartitionInfo_partition(*list.add(at))));
            partitions.sort_unstable();
        }
        Topic { name, id, partitions, error }
    }
}
