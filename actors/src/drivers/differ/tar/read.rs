//! Reading an archive member by member.

use super::{
    BLOCK_BYTES, Entry, Kind, Limits,
    header::{self, Block, Dialect, Header, text},
    pax::{self, Records},
    sparse::{self, Fragment},
};
use std::io::{self, BufRead};
use wharf_messages::{Answer, Refusal};

/// Reads an archive from a stream.
pub struct Reader<R> {
    input: R,
    limits: Limits,
    /// Bytes of the current member that were not handed out yet, and what pads them to a whole block.
    left: u64,
    padding: u64,
    /// The parts of the current member's file, if it has holes.
    fragments: Option<Vec<Fragment>>,
}

impl<R: BufRead> Reader<R> {
    /// A reader at the start of an archive.
    pub fn new(input: R, limits: Limits) -> Self {
        Self { input, limits, left: 0, padding: 0, fragments: None }
    }

    /// The stream, wherever the reader stands in it.
    pub fn into_inner(self) -> R {
        self.input
    }

    /// The next member; none at the end of the archive.
    ///
    /// # Errors
    /// `InvalidArgument` for what is no tar, `DataLoss` for one that is cut, `ResourceExhausted` beyond the limits, and
    /// what the stream says.
    pub fn next(&mut self) -> Answer<Option<Entry>> {
        let mut records = Records::default();
        let (mut long_name, mut long_link) = (None, None);
        let mut extended = false;
        loop {
            self.skip_rest()?;
            let Some(block) = self.header_block()? else {
                return if extended {
                    Err(Refusal::data_loss("tar ends between an extended header and its member"))
                } else {
                    Ok(None)
                };
            };
            let header = header::parse(&block)?;
            match header.type_flag {
                b'x' => records = pax::parse(&self.body(&header)?, self.limits.fragments)?,
                // Global records: as containerd does, read past.
                b'g' => drop(pax::parse(&self.body(&header)?, self.limits.fragments)?),
                b'L' => long_name = Some(text(&self.body(&header)?).to_vec()),
                b'K' => long_link = Some(text(&self.body(&header)?).to_vec()),
                _ => {
                    return self.member(&block, &header, records, long_name.as_deref(), long_link.as_deref()).map(Some);
                }
            }
            extended = header.type_flag != b'g';
        }
    }

    /// Hands out the bytes of the current member, each piece with its place in the file.
    ///
    /// # Errors
    /// What `take` says, `DataLoss` if the archive ends within, and what the stream says.
    pub fn data(&mut self, mut take: impl FnMut(u64, &[u8]) -> Answer<()>) -> Answer<()> {
        let fragments = self.fragments.take().unwrap_or_else(|| vec![(0, self.left)]);
        for (mut offset, mut length) in fragments {
            while length > 0 {
                let piece = fill(&mut self.input)?;
                if piece.is_empty() {
                    return Err(cut());
                }
                let size = usize::try_from(length).map_or(piece.len(), |length| length.min(piece.len()));
                take(offset, &piece[..size])?;
                self.input.consume(size);
                let size = size as u64;
                self.left -= size;
                offset += size;
                length -= size;
            }
        }
        Ok(())
    }

    /// Puts together what the header and its extensions say.
    fn member(
        &mut self,
        block: &Block,
        header: &Header,
        records: Records,
        long_name: Option<&[u8]>,
        long_link: Option<&[u8]>,
    ) -> Answer<Entry> {
        let path = long_name.or(records.sparse.name.as_deref()).or(records.path.as_deref()).unwrap_or(&header.path);
        let path = path.to_vec();
        let link = long_link.or(records.link.as_deref()).unwrap_or(&header.link).to_vec();
        let kind = match header.type_flag {
            // Before POSIX a directory was a file whose name ends with a slash.
            0 if path.ends_with(b"/") => Kind::Directory,
            0 | b'0' | b'7' | b'S' => Kind::File,
            b'1' => Kind::HardLink,
            b'2' => Kind::Symlink,
            b'3' => Kind::CharDevice,
            b'4' => Kind::BlockDevice,
            b'5' => Kind::Directory,
            b'6' => Kind::Fifo,
            other => {
                return Err(Refusal::invalid(format!("{}: unknown type {:?}", shown(&path), char::from(other))));
            }
        };
        let bad = |what: &str| Refusal::invalid(format!("{}: bad {what}", shown(&path)));
        let size = records.size.unwrap_or(header.size);
        let mut size_bytes = u64::try_from(size).map_err(|_| bad("size"))?;
        // As Go reads them: only files have bytes, whatever the size of another says.
        let held = if kind == Kind::File { size_bytes } else { 0 };
        self.begin(held);
        if kind == Kind::File {
            if let Some(real) = self.sparse_map(block, header, &records).map_err(|r| r.context(shown(&path)))? {
                size_bytes = u64::try_from(real).map_err(|_| bad("size"))?;
                let fragments = self.fragments.as_deref().unwrap_or_default();
                sparse::check(fragments, size_bytes, self.left).map_err(|r| r.context(shown(&path)))?;
            }
        } else {
            size_bytes = 0;
        }
        // The highest number means "do not change" to the kernel.
        let id = |id: i64, what: &str| u32::try_from(id).ok().filter(|id| *id != u32::MAX).ok_or_else(|| bad(what));
        let device = |n: i64| u32::try_from(n).map_err(|_| bad("device number"));
        Ok(Entry {
            uid: id(records.uid.unwrap_or(header.uid), "owner")?,
            gid: id(records.gid.unwrap_or(header.gid), "group")?,
            device: match kind {
                Kind::CharDevice | Kind::BlockDevice => (device(header.device.0)?, device(header.device.1)?),
                _ => (0, 0),
            },
            path,
            link,
            kind,
            mode: header.mode,
            size_bytes,
            mtime: records.mtime.unwrap_or(header.mtime),
            atime: records.atime.or(header.atime),
            xattrs: records.xattrs,
        })
    }

    /// Finds out whether a file has holes; answers its real size then.
    fn sparse_map(&mut self, block: &Block, header: &Header, records: &Records) -> Answer<Option<i64>> {
        if header.type_flag == b'S' && header.dialect == Dialect::Gnu {
            let mut fragments = Vec::new();
            let (mut more, size) = sparse::old_gnu_header(block, &mut fragments)?;
            // The blocks of the map that follow the header are not counted in its size.
            let (left, padding) = (self.left, self.padding);
            while more {
                let block = self.full_block()?;
                more = sparse::old_gnu(&block[..504], block[504], &mut fragments)?;
                self.bound(fragments.len())?;
            }
            (self.left, self.padding) = (left, padding);
            self.fragments = Some(fragments);
            return Ok(Some(size));
        }
        if !records.sparse.is_there() {
            return Ok(None);
        }
        let size = records.sparse.real_size.ok_or_else(|| Refusal::invalid("sparse file without a real size"))?;
        let version = (records.sparse.major.unwrap_or(0), records.sparse.minor.unwrap_or(0));
        self.fragments = Some(match version {
            (0, 0 | 1) => sparse::from_records(&records.sparse)?,
            (1, 0) => self.map_before_data()?,
            (major, minor) => return Err(Refusal::invalid(format!("sparse format {major}.{minor} is unknown"))),
        });
        Ok(Some(size))
    }

    /// The map of PAX format 1.0: decimal lines before the data, padded to whole blocks.
    fn map_before_data(&mut self) -> Answer<Vec<Fragment>> {
        let bad = || Refusal::invalid("sparse map that is malformed");
        let mut numbers: Vec<u64> = Vec::new();
        let mut line = Vec::new();
        let mut wanted = 1;
        while numbers.len() < wanted {
            self.left = self.left.checked_sub(BLOCK_BYTES as u64).ok_or_else(bad)?;
            for byte in self.full_block()? {
                match byte {
                    b'\n' if numbers.len() < wanted => {
                        numbers.push(sparse::natural(&line).ok_or_else(bad)?);
                        line.clear();
                        if numbers.len() == 1 {
                            let count = usize::try_from(numbers[0]).unwrap_or(usize::MAX);
                            self.bound(count)?;
                            wanted = 1 + 2 * count;
                        }
                    }
                    byte if numbers.len() < wanted => {
                        line.push(byte);
                        // No 64-bit number is longer.
                        if line.len() > 20 {
                            return Err(bad());
                        }
                    }
                    // What pads the last block.
                    _ => {}
                }
            }
        }
        Ok(numbers[1..].as_chunks::<2>().0.iter().map(|[offset, length]| (*offset, *length)).collect())
    }

    fn bound(&self, fragments: usize) -> Answer<()> {
        let limit = self.limits.fragments;
        if fragments > limit {
            return Err(Refusal::resource_exhausted(format!("sparse map over the limit of {limit} parts")));
        }
        Ok(())
    }

    /// The body of an extended header.
    fn body(&mut self, header: &Header) -> Answer<Vec<u8>> {
        let size = u64::try_from(header.size).map_err(|_| Refusal::invalid("extended header with a negative size"))?;
        let limit = self.limits.header_bytes;
        if size > limit {
            return Err(Refusal::resource_exhausted(format!(
                "extended header of {size} bytes over the limit of {limit}"
            )));
        }
        self.begin(size);
        let mut body = Vec::new();
        self.data(|_, piece| {
            body.extend_from_slice(piece);
            Ok(())
        })?;
        Ok(body)
    }

    fn begin(&mut self, size: u64) {
        self.left = size;
        self.padding = size.wrapping_neg() % BLOCK_BYTES as u64;
        self.fragments = None;
    }

    /// Goes to where the next header is.
    fn skip_rest(&mut self) -> Answer<()> {
        self.fragments = None;
        if self.left > 0 {
            self.data(|_, _| Ok(()))?;
        }
        // As Go's reader: what pads the last member may be missing.
        while self.padding > 0 {
            let piece = fill(&mut self.input)?;
            let size = usize::try_from(self.padding).unwrap_or(usize::MAX).min(piece.len());
            if size == 0 {
                self.padding = 0;
                break;
            }
            self.input.consume(size);
            self.padding -= size as u64;
        }
        Ok(())
    }

    /// The next header; none at the end, which is two empty blocks, or one, or nothing more at all.
    fn header_block(&mut self) -> Answer<Option<Block>> {
        let Some(block) = self.block()? else { return Ok(None) };
        if block.iter().any(|b| *b != 0) {
            return Ok(Some(block));
        }
        match self.block()? {
            Some(second) if second.iter().any(|b| *b != 0) => {
                Err(Refusal::invalid("tar goes on after what should be its end"))
            }
            _ => Ok(None),
        }
    }

    fn full_block(&mut self) -> Answer<Block> {
        self.block()?.ok_or_else(cut)
    }

    fn block(&mut self) -> Answer<Option<Block>> {
        let mut block = [0; BLOCK_BYTES];
        let mut filled = 0;
        while filled < BLOCK_BYTES {
            let piece = fill(&mut self.input)?;
            if piece.is_empty() {
                return if filled == 0 { Ok(None) } else { Err(cut()) };
            }
            let size = piece.len().min(BLOCK_BYTES - filled);
            block[filled..filled + size].copy_from_slice(&piece[..size]);
            self.input.consume(size);
            filled += size;
        }
        Ok(Some(block))
    }
}

fn cut() -> Refusal {
    Refusal::data_loss("tar is cut short")
}

/// The bytes that can be had; a refusal that travels inside an error comes out as it was.
fn fill<R: BufRead>(input: &mut R) -> Answer<&[u8]> {
    // Asked twice because an error's borrow would outlive the loop.
    loop {
        match input.fill_buf() {
            Ok(_) => break,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(super::super::refusal(error)),
        }
    }
    input.fill_buf().map_err(super::super::refusal)
}

/// A path for people: quoted, escaped, of bounded length.
pub(crate) fn shown(path: &[u8]) -> String {
    const SHOWN_CHARS: usize = 256;
    let text = String::from_utf8_lossy(path);
    match text.char_indices().nth(SHOWN_CHARS) {
        Some((end, _)) => format!("{:?}...", &text[..end]),
        None => format!("{text:?}"),
    }
}
