//! Sparse files: which bytes of a file the archive holds.

use super::{
    header::{Block, parse_number},
    pax::{self, decimal},
};
use wharf_messages::{Answer, Refusal};

/// A part of a file that is there: its place and its length.
pub(super) type Fragment = (u64, u64);

/// The entries of an old GNU map (24 bytes each) before the first empty one; answers whether another block follows.
pub(super) fn old_gnu(fields: &[u8], more: u8, fragments: &mut Vec<Fragment>) -> Answer<bool> {
    for entry in fields.as_chunks::<24>().0 {
        // As Go and GNU tar: the list ends at an empty offset.
        if entry[0] == 0 {
            return Ok(false);
        }
        let number = |field: &[u8]| parse_number(field).and_then(|n| u64::try_from(n).ok());
        let bad = || Refusal::invalid("sparse map with a bad number");
        fragments.push((number(&entry[..12]).ok_or_else(bad)?, number(&entry[12..]).ok_or_else(bad)?));
    }
    Ok(more != 0)
}

/// The map and the real size in an old GNU header.
pub(super) fn old_gnu_header(block: &Block, fragments: &mut Vec<Fragment>) -> Answer<(bool, i64)> {
    let size = parse_number(&block[483..495]).ok_or_else(|| Refusal::invalid("sparse file with a bad real size"))?;
    Ok((old_gnu(&block[386..482], block[482], fragments)?, size))
}

/// The map in the records of PAX formats 0.0 and 0.1.
pub(super) fn from_records(sparse: &pax::Sparse) -> Answer<Vec<Fragment>> {
    let bad = || Refusal::invalid("sparse map that is malformed");
    let numbers = match sparse.map.as_slice() {
        [only] if only.is_empty() => Vec::new(),
        map => map.iter().map(|text| natural(text)).collect::<Option<Vec<_>>>().ok_or_else(bad)?,
    };
    let (pairs, rest) = numbers.as_chunks::<2>();
    let counted = sparse.count.is_none_or(|count| u64::try_from(count) == Ok(pairs.len() as u64));
    if !rest.is_empty() || !counted {
        return Err(bad());
    }
    Ok(pairs.iter().map(|[offset, length]| (*offset, *length)).collect())
}

/// A number that is not negative.
pub(super) fn natural(text: &[u8]) -> Option<u64> {
    u64::try_from(decimal(text)?).ok()
}

/// Checks that the parts are in order, apart, within the file, and just what the archive holds.
pub(super) fn check(fragments: &[Fragment], size: u64, held: u64) -> Answer<()> {
    let bad = |why: &str| Err(Refusal::invalid(format!("sparse map that {why}")));
    let (mut end, mut total) = (0u64, 0u64);
    for (offset, length) in fragments {
        let Some(next) = offset.checked_add(*length).filter(|next| *next <= size) else {
            return bad("goes beyond the file");
        };
        if *offset < end {
            return bad("overlaps itself");
        }
        end = next;
        total += length;
    }
    if total != held {
        return bad("does not fit the bytes that follow");
    }
    Ok(())
}
