//! A layer's bytes, uncompressed and hashed while they pass.
//!
//! A big layer has two threads: one reads and decompresses, the other writes files. The hash is with whichever of them
//! has less to do: inflating gzip is slower than writing files, inflating zstd is faster.

use sha2::{Digest as _, Sha256};
use std::{
    io::{self, BufRead, BufReader, Read},
    sync::mpsc::{Receiver, Sender, SyncSender, TryRecvError, channel, sync_channel},
    thread::Scope,
};
use wharf_messages::{Digest, Refusal, descriptor::media_type::Compression};

/// The pieces in which uncompressed bytes travel: small enough to stay in a core's cache until they are used.
const CHUNK_BYTES: usize = 256 << 10;
/// How far the decompressing thread runs ahead.
const CHUNKS: usize = 4;
/// What is read of the compressed stream at once.
const INPUT_BYTES: usize = 128 << 10;
/// A layer that ends within so many bytes is not worth a thread.
const SMALL_BYTES: usize = 32 << 10;
/// The largest window of a zstd stream, as of the `zstd` program: what a frame may ask to keep in memory is 128 MiB.
const ZSTD_WINDOW_LOG_MAX: u32 = 27;

const GZIP_MAGIC: &[u8] = &[0x1f, 0x8b];
const ZSTD_MAGIC: &[u8] = &[0x28, 0xb5, 0x2f, 0xfd];

/// What a layer turned out to be, uncompressed.
pub(super) struct Summary {
    pub(super) diff_id: Digest,
    pub(super) size_bytes: u64,
}

/// The uncompressed bytes.
pub(super) struct Inflated<'scope> {
    feed: Feed<'scope>,
    chunk: Vec<u8>,
    at: usize,
    /// The hash, if this side computes it.
    hash: Option<Sha256>,
    size_bytes: u64,
    ended: bool,
}

enum Feed<'scope> {
    /// Decompresses when asked.
    Inline(Box<dyn Read + 'scope>),
    /// Takes what the other thread has ready, and gives the buffers back.
    Thread { full: Receiver<Message>, empty: Sender<Vec<u8>> },
}

enum Message {
    Chunk(Vec<u8>),
    /// The end, with the hash if that side computed it.
    End(Option<Sha256>),
    Failed(io::Error),
}

impl<'scope> Inflated<'scope> {
    /// Starts reading. How it is packed is seen by its first bytes; `declared` is only named when they make no sense.
    ///
    /// # Errors
    /// What the stream says.
    pub(super) fn start<'env>(
        scope: &'scope Scope<'scope, 'env>,
        layer: &'env mut (dyn Read + Send),
        declared: Compression,
    ) -> io::Result<Self> {
        let mut layer = Source { layer };
        let mut head = Vec::with_capacity(SMALL_BYTES);
        Read::by_ref(&mut layer).take(SMALL_BYTES as u64).read_to_end(&mut head)?;
        let small = head.len() < SMALL_BYTES;
        let packed = detect(&head);
        let input = BufReader::with_capacity(INPUT_BYTES, io::Cursor::new(head).chain(layer));
        let decoder = decoder(input, packed, declared)?;
        let one_core = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
        let hash_here = packed == Compression::Gzip || small || one_core;
        let feed = if small || one_core { Feed::Inline(decoder) } else { thread(scope, decoder, !hash_here)? };
        Ok(Self { feed, chunk: Vec::new(), at: 0, hash: hash_here.then(Sha256::new), size_bytes: 0, ended: false })
    }

    /// Reads to the end, so that the digest covers everything.
    ///
    /// # Errors
    /// What the stream says.
    pub(super) fn finish(mut self) -> io::Result<Summary> {
        loop {
            let length = self.fill_buf()?.len();
            if length == 0 {
                break;
            }
            self.consume(length);
        }
        let hash =
            self.hash.take().ok_or_else(|| io::Error::other(Refusal::internal("hash of the layer is missing")))?;
        Ok(Summary { diff_id: Digest::from_sha256(&hash.finalize().into()), size_bytes: self.size_bytes })
    }

    fn advance(&mut self) -> io::Result<()> {
        self.at = 0;
        match &mut self.feed {
            Feed::Inline(decoder) => self.ended = !fill(decoder, &mut self.chunk)?,
            Feed::Thread { full, empty } => {
                let used = std::mem::take(&mut self.chunk);
                // Whether the other side still wants it shows with the next message.
                if used.capacity() > 0 && empty.send(used).is_err() {
                    tracing::trace!("the last of a layer's buffers came back late");
                }
                match full.recv() {
                    Ok(Message::Chunk(chunk)) => self.chunk = chunk,
                    Ok(Message::End(hash)) => {
                        self.ended = true;
                        self.hash = self.hash.take().or(hash);
                    }
                    Ok(Message::Failed(error)) => return Err(error),
                    Err(_) => return Err(io::Error::other(Refusal::internal("decompression ended unexpectedly"))),
                }
            }
        }
        if let (Some(hash), Feed::Inline(_) | Feed::Thread { .. }) = (&mut self.hash, &self.feed) {
            hash.update(&self.chunk);
        }
        self.size_bytes += self.chunk.len() as u64;
        Ok(())
    }
}

impl Read for Inflated<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let size = self.fill_buf()?.read(buffer)?;
        self.consume(size);
        Ok(size)
    }
}

impl BufRead for Inflated<'_> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.at == self.chunk.len() && !self.ended {
            self.advance()?;
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, size: usize) {
        self.at += size;
    }
}

/// Decompresses on a thread of its own.
fn thread<'scope, 'env>(
    scope: &'scope Scope<'scope, 'env>,
    mut decoder: Box<dyn Read + Send + 'scope>,
    hash_there: bool,
) -> io::Result<Feed<'scope>> {
    let (full, from_thread): (SyncSender<Message>, _) = sync_channel(CHUNKS);
    let (to_thread, empty) = channel::<Vec<u8>>();
    let mut hash = hash_there.then(Sha256::new);
    std::thread::Builder::new().name("inflate".to_owned()).spawn_scoped(scope, move || {
        loop {
            let mut chunk = match empty.try_recv() {
                Ok(chunk) => chunk,
                Err(TryRecvError::Empty) => Vec::new(),
                Err(TryRecvError::Disconnected) => return,
            };
            let message = match fill(&mut decoder, &mut chunk) {
                Ok(true) => {
                    if let Some(hash) = &mut hash {
                        hash.update(&chunk);
                    }
                    Message::Chunk(chunk)
                }
                Ok(false) => Message::End(hash.take()),
                Err(error) => Message::Failed(error),
            };
            let last = !matches!(message, Message::Chunk(_));
            // The other side is gone if it failed; nobody wants the rest.
            if full.send(message).is_err() || last {
                return;
            }
        }
    })?;
    Ok(Feed::Thread { full: from_thread, empty: to_thread })
}

/// Fills a chunk as far as one read gets; answers whether there was anything.
fn fill(decoder: &mut impl Read, chunk: &mut Vec<u8>) -> io::Result<bool> {
    chunk.resize(CHUNK_BYTES, 0);
    let mut filled = 0;
    // A layer that is still coming is handed on as it comes; a fast one in whole chunks.
    while filled < CHUNK_BYTES / 2 {
        match decoder.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(size) => filled += size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(filled);
    Ok(filled > 0)
}

/// How a stream is packed, by its first bytes.
fn detect(head: &[u8]) -> Compression {
    if head.starts_with(GZIP_MAGIC) {
        Compression::Gzip
    } else if head.starts_with(ZSTD_MAGIC) || skippable(head) {
        Compression::Zstd
    } else {
        Compression::None
    }
}

/// A zstd stream may begin with a frame that is to be skipped: sixteen magic numbers.
fn skippable(head: &[u8]) -> bool {
    matches!(head, [0x50..=0x5f, 0x2a, 0x4d, 0x18, ..])
}

fn decoder<'a>(
    input: impl BufRead + Send + 'a,
    packed: Compression,
    declared: Compression,
) -> io::Result<Box<dyn Read + Send + 'a>> {
    let decoder: Box<dyn Read + Send + 'a> = match packed {
        Compression::None => return Ok(Box::new(input)),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    };
    if packed != declared {
        tracing::debug!(?packed, ?declared, "a layer is packed differently than its media type says");
    }
    Ok(Box::new(Damage { decoder, packed }))
}

/// Tells errors of the compressed stream from those of whoever brings it.
struct Damage<R> {
    decoder: R,
    packed: Compression,
}

impl<R: Read> Read for Damage<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.decoder.read(buffer).map_err(|error| {
            if error.kind() == io::ErrorKind::Interrupted || error.get_ref().is_some_and(|e| e.is::<Refusal>()) {
                return error;
            }
            let packed = match self.packed {
                Compression::Gzip => "gzip",
                Compression::Zstd => "zstd",
                Compression::None => "tar",
            };
            io::Error::other(match error.kind() {
                io::ErrorKind::UnexpectedEof => Refusal::data_loss(format!("{packed} stream is cut short")),
                _ => Refusal::data_loss(format!("{packed} stream is damaged: {error}")),
            })
        })
    }
}

/// Marks the errors of whoever brings the layer.
struct Source<'a> {
    layer: &'a mut (dyn Read + Send),
}

impl Read for Source<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.layer.read(buffer).map_err(|error| match error.kind() {
            io::ErrorKind::Interrupted => error,
            _ if error.get_ref().is_some_and(|e| e.is::<Refusal>()) => error,
            _ => io::Error::other(Refusal::io("read the layer", &error)),
        })
    }
}
