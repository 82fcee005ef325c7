//! A registry that serves an OCI layout, except where a test tells it to misbehave.

use crate::images::{Layout, TAG, digest};
use std::{
    io::{BufRead, BufReader, Write},
    net::{Shutdown, SocketAddr, TcpListener, TcpStream},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    thread,
};

/// What was asked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// `GET` or `HEAD`.
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: Vec<(String, String)>,
    /// How many requests with this method and path came before.
    pub repetition: usize,
}

impl Request {
    /// A header by its name in lower case.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&str> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str())
    }

    /// Whether it asks for a blob.
    #[must_use]
    pub fn is_blob(&self) -> bool {
        self.path.contains("/blobs/")
    }

    /// Whether it asks for this blob.
    #[must_use]
    pub fn is_blob_of(&self, digest: &str) -> bool {
        self.is_blob() && self.path.ends_with(digest)
    }

    /// Whether it asks for a manifest or an index.
    #[must_use]
    pub fn is_manifest(&self) -> bool {
        self.path.contains("/manifests/")
    }
}

/// How to answer.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Behaviour {
    /// As it should be.
    Proper,
    /// With this status, headers and body instead.
    Status(u16, Vec<(String, String)>, String),
    /// With these bytes instead of the right ones.
    Body(Vec<u8>),
    /// Announces everything, but hangs up after so many bytes of the body.
    Cut(usize),
    /// Announces and sends only the first so many bytes, as if that were all.
    Truncated(usize),
    /// Sends so many bytes and then nothing until [`HostileRegistry::release`], with the connection open.
    Stall(usize),
    /// Ignores a Range header: all of it, from the start.
    WithoutRange,
    /// Says nothing until [`HostileRegistry::release`].
    Silent,
}

impl Behaviour {
    /// A status with a registry's error body and no headers.
    #[must_use]
    pub fn status(code: u16) -> Self {
        let body = r#"{"errors":[{"code":"HOSTILE","message":"as the test wants it"}]}"#;
        Self::Status(code, Vec::new(), body.to_owned())
    }
}

type Rule = Box<dyn Fn(&Request) -> Behaviour + Send + Sync>;

struct Shared {
    layout: Layout,
    rule: Rule,
    requests: Mutex<Vec<Request>>,
    released: AtomicBool,
}

/// The running registry.
pub struct HostileRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
}

impl HostileRegistry {
    /// Serves a layout's image under every name, with what the rule says in between.
    #[must_use]
    pub fn serve(layout: &Layout, rule: impl Fn(&Request) -> Behaviour + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            layout: layout.clone(),
            rule: Box::new(rule),
            requests: Mutex::default(),
            released: AtomicBool::new(false),
        });
        let serving = shared.clone();
        // The thread ends with the test's process; until then it only waits.
        thread::spawn(move || {
            for stream in listener.incoming() {
                let shared = serving.clone();
                // A client that goes away in the middle is what some tests are about.
                thread::spawn(move || drop(shared.converse(&stream.unwrap())));
            }
        });
        Self { address, shared }
    }

    /// A reference to an image in it.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}:{TAG}", self.address)
    }

    /// Its host and port.
    #[must_use]
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// What it was asked so far.
    #[must_use]
    pub fn requests(&self) -> Vec<Request> {
        self.shared.requests.lock().unwrap().clone()
    }

    /// Lets the stalled answers go on.
    pub fn release(&self) {
        self.shared.released.store(true, Ordering::Release);
    }
}

impl Shared {
    fn converse(&self, stream: &TcpStream) -> std::io::Result<()> {
        let mut reader = BufReader::new(stream.try_clone()?);
        while let Some(request) = self.read_request(&mut reader)? {
            if !self.answer(&request, stream)? {
                return stream.shutdown(Shutdown::Both);
            }
        }
        Ok(())
    }

    fn read_request(&self, reader: &mut impl BufRead) -> std::io::Result<Option<Request>> {
        let mut line = String::new();
        if reader.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let mut words = line.split_whitespace().map(str::to_owned);
        let (method, path) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
        let mut headers = Vec::new();
        loop {
            let mut line = String::new();
            reader.read_line(&mut line)?;
            match line.trim().split_once(':') {
                Some((name, value)) => headers.push((name.to_lowercase(), value.trim().to_owned())),
                None => break,
            }
        }
        let mut requests = self.requests.lock().unwrap();
        let same = |earlier: &&Request| earlier.method == method && earlier.path == path;
        let repetition = requests.iter().filter(same).count();
        let request = Request { method, path, headers, repetition };
        requests.push(request.clone());
        Ok(Some(request))
    }

    /// Answers; false if the connection is not to be used any more.
    fn answer(&self, request: &Request, mut stream: &TcpStream) -> std::io::Result<bool> {
        let behaviour = (self.rule)(request);
        if let Behaviour::Status(code, headers, body) = &behaviour {
            let mut head = format!("HTTP/1.1 {code} As Told\r\nContent-Length: {}\r\n", body.len());
            for (name, value) in headers {
                head += &format!("{name}: {value}\r\n");
            }
            stream.write_all((head + "\r\n").as_bytes())?;
            if request.method != "HEAD" {
                stream.write_all(body.as_bytes())?;
            }
            return Ok(true);
        }
        while behaviour == Behaviour::Silent && !self.released.load(Ordering::Acquire) {
            thread::sleep(std::time::Duration::from_millis(5));
        }
        let Some((kind, found)) = self.find(&request.path) else {
            stream.write_all(b"HTTP/1.1 404 Not Found\r\nContent-Length: 2\r\n\r\n{}")?;
            return Ok(true);
        };
        let named = digest(&found);
        let mut body = found;
        match &behaviour {
            Behaviour::Body(other) => body.clone_from(other),
            Behaviour::Truncated(length) => body.truncate(*length),
            _ => {}
        }
        let whole = body.len();
        let from = match request.header("range").and_then(|range| range.strip_prefix("bytes=")?.split('-').next()) {
            Some(from) if behaviour != Behaviour::WithoutRange => from.parse().unwrap_or(0),
            _ => 0,
        };
        let body = body.get(from..).unwrap_or_default();
        let mut head = if from == 0 {
            "HTTP/1.1 200 OK\r\n".to_owned()
        } else {
            format!("HTTP/1.1 206 Partial Content\r\nContent-Range: bytes {from}-{}/{whole}\r\n", whole - 1)
        };
        head += &format!("Content-Length: {}\r\nContent-Type: {kind}\r\n", body.len());
        if request.is_manifest() {
            head += &format!("Docker-Content-Digest: {named}\r\n");
        }
        stream.write_all((head + "\r\n").as_bytes())?;
        if request.method == "HEAD" {
            return Ok(true);
        }
        match behaviour {
            Behaviour::Cut(length) => {
                stream.write_all(&body[..length.min(body.len())])?;
                return Ok(false);
            }
            Behaviour::Stall(length) => {
                let (first, rest) = body.split_at(length.min(body.len()));
                stream.write_all(first)?;
                while !self.released.load(Ordering::Acquire) {
                    thread::sleep(std::time::Duration::from_millis(5));
                }
                stream.write_all(rest)?;
            }
            _ => stream.write_all(body)?,
        }
        Ok(true)
    }

    /// The media type and bytes of what a path names.
    fn find(&self, path: &str) -> Option<(String, Vec<u8>)> {
        let path = path.split('?').next()?;
        if path == "/v2/" {
            return Some(("application/json".to_owned(), b"{}".to_vec()));
        }
        let (rest, name) = path.rsplit_once('/')?;
        if rest.ends_with("/manifests") {
            let name = if name.starts_with("sha256:") { name.to_owned() } else { self.layout.digest(TAG) };
            let bytes = self.layout.blob(&name)?;
            let value: serde_json::Value = serde_json::from_slice(&bytes).ok()?;
            let kind = value["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
            return Some((kind.to_owned(), bytes));
        }
        rest.ends_with("/blobs").then_some(())?;
        Some(("application/octet-stream".to_owned(), self.layout.blob(name)?))
    }
}
