//! A layer's bytes, uncompressed and hashed while they pass.
//!
//! A big layer has two threads: one reads, decompresses and hashes, the other writes files. Measured on a layer of many
//! small files, each is busy for about the same time.

use sha2::{Digest as _, Sha256};
use std::{
    io::{self, BufRead, BufReader, Read},
    sync::mpsc::{Receiver, Sender, TryRecvError, channel, sync_channel},
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
    /// At the end: what it was.
    summary: Option<Summary>,
}

enum Feed<'scope> {
    /// Decompresses when asked.
    Inline(Hashed<'scope>),
    /// Takes what the other thread has ready, and gives the buffers back.
    Thread { full: Receiver<io::Result<Piece>>, empty: Sender<Vec<u8>> },
}

enum Piece {
    Chunk(Vec<u8>),
    End(Summary),
}

impl<'scope> Inflated<'scope> {
    /// Starts reading. How it is packed is seen by its first bytes; `declared` is only compared with it.
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
        if packed != declared {
            tracing::debug!(?packed, ?declared, "a layer is packed differently than its media type says");
        }
        let input = BufReader::with_capacity(INPUT_BYTES, io::Cursor::new(head).chain(layer));
        let hashed = Hashed { decoder: decoder(input, packed)?, hash: Sha256::new(), size_bytes: 0 };
        let one_core = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
        let feed = if small || one_core { Feed::Inline(hashed) } else { thread(scope, hashed)? };
        Ok(Self { feed, chunk: Vec::new(), at: 0, summary: None })
    }

    /// Reads to the end, so that the digest covers everything.
    ///
    /// # Errors
    /// What the stream says.
    pub(super) fn finish(mut self) -> io::Result<Summary> {
        loop {
            if let Some(summary) = self.summary.take() {
                return Ok(summary);
            }
            self.advance()?;
        }
    }

    fn advance(&mut self) -> io::Result<()> {
        self.at = 0;
        let chunk = std::mem::take(&mut self.chunk);
        let piece = match &mut self.feed {
            Feed::Inline(hashed) => hashed.next(chunk)?,
            Feed::Thread { full, empty } => {
                if chunk.capacity() > 0 && empty.send(chunk).is_err() {
                    tracing::trace!("the last of a layer's buffers came back late");
                }
                let gone = |_| io::Error::other(Refusal::internal("decompression ended unexpectedly"));
                full.recv().map_err(gone)??
            }
        };
        match piece {
            Piece::Chunk(chunk) => self.chunk = chunk,
            Piece::End(summary) => self.summary = Some(summary),
        }
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
        if self.at == self.chunk.len() && self.summary.is_none() {
            self.advance()?;
        }
        Ok(&self.chunk[self.at..])
    }

    fn consume(&mut self, size: usize) {
        self.at += size;
    }
}

/// Decompresses and hashes on a thread of its own.
fn thread<'scope>(scope: &'scope Scope<'scope, '_>, mut hashed: Hashed<'scope>) -> io::Result<Feed<'scope>> {
    let (to_writer, full) = sync_channel(CHUNKS);
    let (empty, from_writer) = channel();
    std::thread::Builder::new().name("inflate".to_owned()).spawn_scoped(scope, move || {
        loop {
            let chunk = match from_writer.try_recv() {
                Ok(chunk) => chunk,
                Err(TryRecvError::Empty) => Vec::new(),
                // The other side has failed; nobody wants the rest.
                Err(TryRecvError::Disconnected) => return,
            };
            let piece = hashed.next(chunk);
            let last = !matches!(piece, Ok(Piece::Chunk(_)));
            if to_writer.send(piece).is_err() || last {
                return;
            }
        }
    })?;
    Ok(Feed::Thread { full, empty })
}

/// Decompressed bytes, hashed.
struct Hashed<'a> {
    decoder: Box<dyn Read + Send + 'a>,
    hash: Sha256,
    size_bytes: u64,
}

impl Hashed<'_> {
    fn next(&mut self, mut chunk: Vec<u8>) -> io::Result<Piece> {
        fill(&mut self.decoder, &mut chunk)?;
        if chunk.is_empty() {
            let hash = std::mem::take(&mut self.hash).finalize();
            return Ok(Piece::End(Summary { diff_id: Digest::from_sha256(&hash.into()), size_bytes: self.size_bytes }));
        }
        self.hash.update(&chunk);
        self.size_bytes += chunk.len() as u64;
        Ok(Piece::Chunk(chunk))
    }
}

/// Fills a chunk, at least by half unless the stream ends.
fn fill(decoder: &mut impl Read, chunk: &mut Vec<u8>) -> io::Result<()> {
    // What a used chunk still holds is written over.
    chunk.resize(CHUNK_BYTES, 0);
    let mut filled = 0;
    // Not to the brim: what a stalled download has left undone can be written meanwhile.
    while filled < CHUNK_BYTES / 2 {
        match decoder.read(&mut chunk[filled..]) {
            Ok(0) => break,
            Ok(size) => filled += size,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    chunk.truncate(filled);
    Ok(())
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

fn decoder<'a>(input: impl BufRead + Send + 'a, packed: Compression) -> io::Result<Box<dyn Read + Send + 'a>> {
    let decoder: Box<dyn Read + Send + 'a> = match packed {
        Compression::None => return Ok(Box::new(input)),
        Compression::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(input)),
        Compression::Zstd => {
            let mut decoder = zstd::stream::read::Decoder::with_buffer(input)?;
            decoder.window_log_max(ZSTD_WINDOW_LOG_MAX)?;
            Box::new(decoder)
        }
    };
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
