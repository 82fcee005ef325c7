//! What happens to tasks, told to the daemon's event service.
//!
//! Events leave in order, one at a time, and each is sent until the daemon has acknowledged it: a daemon that restarts
//! misses nothing. The queue is bounded; what falls out of it the daemon learns all the same when it comes back and
//! asks, from the task's state and from the exit record.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use containerd_shim_protos::protobuf::well_known_types::{any::Any, timestamp::Timestamp as ProtoTimestamp};
use containerd_shim_protos::shim::{event::Envelope, events::ForwardRequest};
use protobuf::Message;
use wharf_messages::{RefusalKind, Timestamp};

use crate::reactor::{Interest, Reactor, Timer, Token};
use crate::ttrpc::{self, client::Client};
use crate::{debug, warning};

const SERVICE: &str = "containerd.services.events.ttrpc.v1.Events";
const METHOD: &str = "Forward";

/// How many events wait for a daemon that is away. Each is a few hundred bytes.
const QUEUE_MAX: usize = 2048;
/// The first pause before trying again, and the longest.
const BACKOFF_MIN: Duration = Duration::from_millis(50);
const BACKOFF_MAX: Duration = Duration::from_secs(5);
/// How often an event that the daemon answers with an error of its own is sent.
const ANSWERS_MAX: u32 = 10;
/// How long a connection is kept that has nothing to say: a thousand idle shims should cost the daemon nothing.
const IDLE: Duration = Duration::from_secs(2);

/// The timestamp as protobuf has it.
#[must_use]
pub fn proto_timestamp(at: Timestamp) -> ProtoTimestamp {
    ProtoTimestamp { seconds: at.seconds(), nanos: at.nanos(), ..Default::default() }
}

#[derive(Debug)]
struct Pending {
    topic: &'static str,
    payload: Vec<u8>,
}

/// The queue of events and the way to the daemon.
#[derive(Debug)]
pub struct Publisher {
    address: Option<PathBuf>,
    namespace: String,
    queue: VecDeque<Pending>,
    client: Option<Client>,
    in_flight: bool,
    answers: u32,
    backoff: Duration,
    /// A timer is set to try again; until it comes nothing is sent.
    waiting: bool,
    dropped: u64,
}

impl Publisher {
    /// A publisher to the daemon at that address (`TTRPC_ADDRESS`); without one, events go nowhere.
    #[must_use]
    pub fn new(address: Option<&str>, namespace: &str) -> Self {
        let address = address.filter(|a| !a.is_empty());
        Self {
            address: address.map(|a| Path::new(a.strip_prefix("unix://").unwrap_or(a)).to_owned()),
            namespace: namespace.to_owned(),
            queue: VecDeque::new(),
            client: None,
            in_flight: false,
            answers: 0,
            backoff: BACKOFF_MIN,
            waiting: false,
            dropped: 0,
        }
    }

    /// Queues an event and sends it if nothing is before it.
    pub fn publish<M: Message>(&mut self, reactor: &mut Reactor, topic: &'static str, event: &M) {
        if self.address.is_none() {
            return;
        }
        let value = match ttrpc::encode(event) {
            Ok(value) => value,
            Err(refusal) => return warning!("event {topic} is not published: {refusal}"),
        };
        let event = Any { type_url: format!("containerd.events.{}", M::NAME), value, ..Default::default() };
        let envelope = Envelope {
            timestamp: Some(proto_timestamp(SystemTime::now().into())).into(),
            namespace: self.namespace.clone(),
            topic: topic.to_owned(),
            event: Some(event).into(),
            ..Default::default()
        };
        let request = ForwardRequest { envelope: Some(envelope).into(), ..Default::default() };
        match ttrpc::encode(&request) {
            Ok(payload) => self.queue.push_back(Pending { topic, payload }),
            Err(refusal) => return warning!("event {topic} is not published: {refusal}"),
        }
        if self.queue.len() > QUEUE_MAX {
            // The one in flight may have reached the daemon already; the one after it is the oldest that surely
            // has not.
            if let Some(oldest) = self.queue.remove(usize::from(self.in_flight)) {
                self.dropped += 1;
                warning!("event {} is dropped: {QUEUE_MAX} wait ({} dropped so far)", oldest.topic, self.dropped);
            }
        }
        self.advance(reactor);
    }

    /// Whether every event has been acknowledged.
    #[must_use]
    pub fn is_idle(&self) -> bool {
        self.queue.is_empty()
    }

    /// Handles news on the connection.
    pub fn ready(&mut self, reactor: &mut Reactor) {
        let Some(client) = &mut self.client else { return };
        match client.receive() {
            Ok(None) => {}
            Ok(Some(answer)) if self.in_flight => {
                self.in_flight = false;
                match answer {
                    Ok(_) => self.settle(),
                    Err(refusal) => {
                        self.answers += 1;
                        let hopeless = matches!(
                            refusal.kind,
                            RefusalKind::InvalidArgument | RefusalKind::NotImplemented | RefusalKind::NotFound
                        );
                        if hopeless || self.answers >= ANSWERS_MAX {
                            let topic = self.queue.front().map_or("", |p| p.topic);
                            warning!("event {topic} is given up: the daemon answers: {refusal}");
                            self.settle();
                        } else {
                            debug!("the daemon does not take an event now: {refusal}");
                            self.pause(reactor);
                        }
                    }
                }
                self.advance(reactor);
                if self.queue.is_empty() && !self.waiting {
                    reactor.after(IDLE, Timer::Publisher);
                }
            }
            Ok(Some(_)) => {}
            Err(error) => {
                debug!("the daemon's event service hung up: {error}");
                self.client = None;
                if std::mem::take(&mut self.in_flight) || !self.queue.is_empty() {
                    self.pause(reactor);
                }
            }
        }
    }

    /// Handles the timer: tries again, or lets an idle connection go.
    pub fn due(&mut self, reactor: &mut Reactor) {
        if self.queue.is_empty() {
            self.waiting = false;
            self.client = None;
        } else if std::mem::take(&mut self.waiting) {
            self.advance(reactor);
        }
    }

    /// The event in front is done with.
    fn settle(&mut self) {
        self.queue.pop_front();
        self.answers = 0;
        self.backoff = BACKOFF_MIN;
    }

    fn pause(&mut self, reactor: &mut Reactor) {
        if !self.waiting {
            self.waiting = true;
            reactor.after(self.backoff, Timer::Publisher);
            self.backoff = (self.backoff * 2).min(BACKOFF_MAX);
        }
    }

    fn advance(&mut self, reactor: &mut Reactor) {
        let (Some(address), Some(next)) = (&self.address, self.queue.front()) else { return };
        if self.in_flight || self.waiting {
            return;
        }
        let sent = (|| {
            let client = match &mut self.client {
                Some(client) => client,
                none => {
                    let client = Client::connect(address)?;
                    reactor.watch(client.socket(), Token::Publisher, Interest::Both)?;
                    none.insert(client)
                }
            };
            client.call(SERVICE, METHOD, &self.namespace, next.payload.clone())
        })();
        match sent {
            Ok(()) => self.in_flight = true,
            Err(error) => {
                debug!("the daemon's event service at {} is not there: {error}", address.display());
                self.client = None;
                self.pause(reactor);
            }
        }
    }
}
