//! Blobs against their rows: there, as long, and (deep) as their digest says.

use super::{Problem, Remedy, Report, rows::Rows};
use crate::{Store, blobs::Hasher};
use std::{collections::BTreeSet, fs::File, io::Read};
use wharf_messages::{Answer, Digest, Refusal};

/// How much of a blob is read at once.
const CHUNK_BYTES: usize = 1 << 20;

pub(super) fn check(store: &Store, rows: &Rows, deep: bool, report: &mut Report) -> Answer<()> {
    let blobs = store.blobs();
    for (digest, (size_bytes, namespaces)) in &rows.content {
        let what = match blobs.read(digest) {
            Err(refusal) if refusal.is(wharf_messages::RefusalKind::NotFound) => Some("its file is lost".to_owned()),
            Err(refusal) => return Err(refusal),
            Ok((_, found)) if found != *size_bytes => {
                Some(format!("its file has {found} bytes, its row says {size_bytes}"))
            }
            Ok((file, _)) if deep => damage(file, digest)?,
            Ok(_) => None,
        };
        if let Some(what) = what {
            report.problems.push(Problem {
                subject: format!("blob {digest}"),
                what,
                remedy: Remedy::DropBlob(digest.clone(), namespaces.clone()),
            });
        }
    }
    for digest in blobs.list()?.into_iter().filter(|digest| !rows.content.contains_key(digest)) {
        report.problems.push(Problem {
            subject: format!("blob {digest}"),
            what: "no row speaks of it".to_owned(),
            remedy: Remedy::Delete(blobs.path(&digest)),
        });
    }
    let named: BTreeSet<_> = rows.ingests.iter().map(|(_, row)| row.file_id.clone()).collect();
    let there: BTreeSet<_> = blobs.list_ingests()?.into_iter().collect();
    for (namespace, row) in rows.ingests.iter().filter(|(_, row)| !there.contains(&row.file_id)) {
        report.problems.push(Problem {
            subject: format!("ingest {:?} in namespace {:?}", row.reference.as_str(), namespace.as_str()),
            what: "its file is lost".to_owned(),
            remedy: Remedy::DropIngest(namespace.clone(), row.reference.clone()),
        });
    }
    for id in there.difference(&named) {
        report.problems.push(Problem {
            subject: format!("ingest file {id}"),
            what: "no row speaks of it".to_owned(),
            remedy: Remedy::Delete(blobs.ingest_path(id)),
        });
    }
    Ok(())
}

/// What is wrong with a blob's bytes.
fn damage(mut file: File, digest: &Digest) -> Answer<Option<String>> {
    let mut hasher = Hasher::new(digest.algorithm());
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        match file.read(&mut chunk) {
            Ok(0) => break,
            Ok(read) => hasher.update(&chunk[..read]),
            // A disk that cannot give it back has lost it.
            Err(error) if error.raw_os_error() == Some(EIO) => return Ok(Some(format!("it cannot be read: {error}"))),
            Err(error) => return Err(Refusal::io(format!("read blob {digest}"), &error)),
        }
    }
    let found = hasher.digest()?;
    Ok((found != *digest).then(|| format!("its bytes are those of {found}")))
}

/// The disk's own error.
const EIO: i32 = 5;
