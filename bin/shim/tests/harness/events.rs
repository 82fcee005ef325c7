//! The daemon's event service: takes what the shim forwards, acknowledges it and keeps it.

use std::io::{Read, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use containerd_shim_protos::shim::events::ForwardRequest;
use containerd_shim_protos::ttrpc::{Request, Response};
use protobuf::Message;

/// An event as it was forwarded.
#[derive(Debug, Clone)]
pub struct Event {
    pub topic: String,
    pub type_url: String,
    pub payload: Vec<u8>,
}

impl Event {
    pub fn decode<M: Message>(&self) -> M {
        assert_eq!(self.type_url, format!("containerd.events.{}", M::NAME));
        M::parse_from_bytes(&self.payload).unwrap()
    }
}

pub struct EventService {
    path: PathBuf,
    events: Arc<Mutex<Vec<Event>>>,
    over: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl EventService {
    pub fn start(path: &Path) -> Self {
        Self::with(path, Arc::default())
    }

    fn with(path: &Path, events: Arc<Mutex<Vec<Event>>>) -> Self {
        let listener = UnixListener::bind(path).unwrap();
        let over = Arc::new(AtomicBool::new(false));
        let thread = std::thread::spawn({
            let (events, over) = (Arc::clone(&events), Arc::clone(&over));
            move || {
                for socket in listener.incoming() {
                    if over.load(Ordering::SeqCst) {
                        break;
                    }
                    let (events, over) = (Arc::clone(&events), Arc::clone(&over));
                    let mut socket = socket.unwrap();
                    std::thread::spawn(move || while serve(&mut socket, &events, &over).is_some() {});
                }
            }
        });
        Self { path: path.to_owned(), events, over, thread: Some(thread) }
    }

    /// The daemon dies: nobody listens any more, and nothing is acknowledged.
    pub fn stop(&mut self) {
        self.over.store(true, Ordering::SeqCst);
        // Wakes the one that accepts.
        drop(UnixStream::connect(&self.path));
        if let Some(thread) = self.thread.take() {
            thread.join().unwrap();
        }
        std::fs::remove_file(&self.path).ok();
    }

    /// It comes back, and remembers.
    pub fn restart(&mut self) {
        self.stop();
        *self = Self::with(&self.path.clone(), Arc::clone(&self.events));
    }

    pub fn all(&self) -> Vec<Event> {
        self.events.lock().unwrap().clone()
    }

    pub fn topics(&self) -> Vec<String> {
        self.all().into_iter().map(|event| event.topic).collect()
    }

    /// Waits for an event of a topic.
    pub fn wait_for(&self, topic: &str) -> Event {
        self.wait_for_nth(topic, 0)
    }

    pub fn wait_for_nth(&self, topic: &str, nth: usize) -> Event {
        super::eventually(&format!("event {topic}"), || {
            self.all().into_iter().filter(|event| event.topic == topic).nth(nth)
        })
    }
}

impl Drop for EventService {
    fn drop(&mut self) {
        if self.thread.is_some() {
            self.stop();
        }
    }
}

fn serve(socket: &mut UnixStream, events: &Mutex<Vec<Event>>, over: &AtomicBool) -> Option<()> {
    let mut header = [0; 10];
    socket.read_exact(&mut header).ok()?;
    let mut data = vec![0; u32::from_be_bytes(*header.first_chunk()?) as usize];
    socket.read_exact(&mut data).ok()?;
    if over.load(Ordering::SeqCst) {
        return None;
    }
    let request = Request::parse_from_bytes(&data).unwrap();
    assert_eq!(request.service, "containerd.services.events.ttrpc.v1.Events");
    assert_eq!(request.method, "Forward");
    let forward = ForwardRequest::parse_from_bytes(&request.payload).unwrap();
    let envelope = forward.envelope.unwrap();
    assert_eq!(envelope.namespace, super::NAMESPACE);
    assert!(envelope.timestamp.seconds > 1_600_000_000);
    let event = envelope.event.unwrap();
    events.lock().unwrap().push(Event { topic: envelope.topic, type_url: event.type_url, payload: event.value });
    let response = Response::new().write_to_bytes().unwrap();
    let mut frame = u32::try_from(response.len()).unwrap().to_be_bytes().to_vec();
    frame.extend_from_slice(&header[4..8]);
    frame.extend_from_slice(&[2, 0]);
    frame.extend_from_slice(&response);
    socket.write_all(&frame).ok()
}
