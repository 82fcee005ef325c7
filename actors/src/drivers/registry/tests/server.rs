//! An HTTP server that does what a test says, byte by byte.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    sync::watch,
    task::JoinHandle,
};

/// A request as it came.
#[derive(Debug, Clone)]
pub(super) struct Seen {
    pub(super) method: String,
    /// Path and query.
    pub(super) target: String,
    /// Names in lower case.
    pub(super) headers: BTreeMap<String, String>,
    pub(super) body: Vec<u8>,
}

impl Seen {
    pub(super) fn path(&self) -> &str {
        self.target.split('?').next().unwrap()
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.headers.get(name).map(String::as_str)
    }

    /// The offset of a `Range: bytes=OFFSET-`.
    pub(super) fn range(&self) -> Option<usize> {
        self.header("range").map(|r| r.strip_prefix("bytes=").unwrap().strip_suffix('-').unwrap().parse().unwrap())
    }
}

/// What comes after the headers.
#[derive(Debug, Clone)]
pub(super) enum Then {
    /// These bytes, all of them.
    Whole(Vec<u8>),
    /// These bytes, and the connection is cut.
    Cut(Vec<u8>),
    /// These bytes, and nothing ever after.
    Stall(Vec<u8>),
    /// This piece again and again, in chunked coding.
    Endless(Vec<u8>),
    /// These bytes, one at a time with pauses.
    Drip(Vec<u8>, Duration),
}

#[derive(Debug, Clone)]
pub(super) struct Reply {
    status: u16,
    headers: Vec<(String, String)>,
    then: Then,
}

impl Reply {
    pub(super) fn new(status: u16) -> Self {
        Self { status, headers: Vec::new(), then: Then::Whole(Vec::new()) }
    }

    pub(super) fn header(mut self, name: &str, value: impl ToString) -> Self {
        self.headers.push((name.to_owned(), value.to_string()));
        self
    }

    /// The body, with its length announced.
    pub(super) fn body(self, bytes: impl Into<Vec<u8>>) -> Self {
        let bytes = bytes.into();
        Self { then: Then::Whole(bytes.clone()), ..self.header("content-length", bytes.len()) }
    }

    pub(super) fn then(self, then: Then) -> Self {
        Self { then, ..self }
    }
}

pub(super) struct Server {
    pub(super) address: String,
    seen: Arc<Mutex<Vec<Seen>>>,
    open: watch::Sender<usize>,
    task: JoinHandle<()>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Server {
    /// Serves on a free port of the loopback; the handler gets each request and its number (from 0).
    pub(super) async fn start(handler: impl Fn(&Seen, usize) -> Reply + Send + Sync + 'static) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let seen = Arc::new(Mutex::new(Vec::new()));
        let open = watch::Sender::new(0);
        let (handler, log, count) = (Arc::new(handler), seen.clone(), open.clone());
        let task = tokio::spawn(async move {
            loop {
                let Ok((stream, _)) = listener.accept().await else { return };
                let (handler, log, count) = (handler.clone(), log.clone(), count.clone());
                count.send_modify(|n| *n += 1);
                tokio::spawn(async move {
                    // A client that goes away is the test's business, not an error here.
                    let _ = converse(stream, &*handler, &log).await;
                    count.send_modify(|n| *n -= 1);
                });
            }
        });
        Self { address, seen, open, task }
    }

    pub(super) fn seen(&self) -> Vec<Seen> {
        self.seen.lock().unwrap().clone()
    }

    /// `METHOD path` of all requests so far.
    pub(super) fn lines(&self) -> Vec<String> {
        self.seen().iter().map(|seen| format!("{} {}", seen.method, seen.path())).collect()
    }

    /// How many clients are connected.
    pub(super) fn connections(&self) -> usize {
        *self.open.borrow()
    }

    /// Waits until no client is connected.
    pub(super) async fn deserted(&self) {
        self.open.subscribe().wait_for(|n| *n == 0).await.unwrap();
    }
}

async fn converse(
    mut stream: TcpStream,
    handler: &(dyn Fn(&Seen, usize) -> Reply + Send + Sync),
    log: &Mutex<Vec<Seen>>,
) -> std::io::Result<()> {
    let mut buffer = Vec::new();
    while let Some(seen) = read_request(&mut stream, &mut buffer).await? {
        let number = {
            let mut log = log.lock().unwrap();
            log.push(seen.clone());
            log.len() - 1
        };
        let reply = handler(&seen, number);
        let mut head = format!("HTTP/1.1 {} X\r\n", reply.status);
        let has_length = reply.headers.iter().any(|(name, _)| name == "content-length");
        for (name, value) in &reply.headers {
            head.push_str(&format!("{name}: {value}\r\n"));
        }
        let chunked = matches!(reply.then, Then::Endless(_));
        if chunked {
            head.push_str("transfer-encoding: chunked\r\n");
        } else if !has_length {
            head.push_str("content-length: 0\r\n");
        }
        head.push_str("\r\n");
        stream.write_all(head.as_bytes()).await?;
        if seen.method == "HEAD" {
            continue;
        }
        match reply.then {
            Then::Whole(bytes) => stream.write_all(&bytes).await?,
            Then::Cut(bytes) => {
                stream.write_all(&bytes).await?;
                return stream.shutdown().await;
            }
            Then::Stall(bytes) => {
                stream.write_all(&bytes).await?;
                // Until the client has had enough.
                return stream.read(&mut [0]).await.map(drop);
            }
            Then::Endless(piece) => loop {
                stream.write_all(format!("{:x}\r\n", piece.len()).as_bytes()).await?;
                stream.write_all(&piece).await?;
                stream.write_all(b"\r\n").await?;
            },
            Then::Drip(bytes, pause) => {
                for byte in bytes {
                    stream.write_all(&[byte]).await?;
                    tokio::time::sleep(pause).await;
                }
            }
        }
    }
    Ok(())
}

async fn read_request(stream: &mut TcpStream, buffer: &mut Vec<u8>) -> std::io::Result<Option<Seen>> {
    let mut chunk = vec![0; 64 << 10];
    let head_len = loop {
        if let Some(at) = buffer.windows(4).position(|w| w == b"\r\n\r\n") {
            break at + 4;
        }
        match stream.read(&mut chunk).await? {
            0 => return Ok(None),
            n => buffer.extend_from_slice(&chunk[..n]),
        }
    };
    let head = String::from_utf8(buffer.drain(..head_len).collect()).unwrap();
    let mut lines = head.lines();
    let mut first = lines.next().unwrap().split(' ');
    let (method, target) = (first.next().unwrap().to_owned(), first.next().unwrap().to_owned());
    let headers: BTreeMap<_, _> = lines
        .filter_map(|line| line.split_once(':'))
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    let length: usize = headers.get("content-length").map_or(0, |n| n.parse().unwrap());
    while buffer.len() < length {
        match stream.read(&mut chunk).await? {
            0 => return Ok(None),
            n => buffer.extend_from_slice(&chunk[..n]),
        }
    }
    let body = buffer.drain(..length).collect();
    Ok(Some(Seen { method, target, headers, body }))
}
