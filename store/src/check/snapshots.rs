//! Snapshots' folders against their rows. What is in them is the snapshotter's; that they are there, and (deep) as large as
//! when they were committed, can be seen from outside.

use super::{
    Problem, Remedy, Report,
    rows::{Rows, Snapshot},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashSet},
    fs, io,
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};
use wharf_messages::{
    Answer, Refusal,
    snapshot::{SnapshotKind, Usage},
};

/// The folder of a snapshot: the same for every snapshotter that keeps folders.
pub(super) fn folder(root: &Path, snapshotter: &str, id: u64) -> PathBuf {
    folders(root, snapshotter).join(id.to_string())
}

fn folders(root: &Path, snapshotter: &str) -> PathBuf {
    root.join("snapshotters").join(snapshotter).join("snapshots")
}

pub(super) fn name(snapshot: &Snapshot) -> String {
    let (key, namespace) = (&snapshot.row.info.key, snapshot.namespace.as_str());
    format!("snapshot {key} of {} in namespace {namespace:?}", snapshot.snapshotter)
}

pub(super) fn check(root: &Path, rows: &Rows, deep: bool, report: &mut Report) -> Answer<()> {
    let mut damaged = BTreeMap::new();
    for (index, snapshot) in rows.snapshots.iter().enumerate() {
        if !folders(root, snapshot.snapshotter.as_str()).is_dir() {
            // A snapshotter that keeps its files elsewhere has nothing to be seen here.
            continue;
        }
        if let Some(what) = damage(root, snapshot, deep)? {
            damaged.insert(index, what);
        }
    }
    tell(rows, damaged, report);
    orphans(root, rows, report)
}

/// What is wrong with a snapshot.
fn damage(root: &Path, snapshot: &Snapshot, deep: bool) -> Answer<Option<String>> {
    let fs = folder(root, snapshot.snapshotter.as_str(), snapshot.row.id).join("fs");
    match fs::symlink_metadata(&fs) {
        Ok(found) if found.is_dir() => {}
        Ok(_) => return Ok(Some(format!("{} is no folder", fs.display()))),
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(Some(format!("its folder {} is lost", fs.display())));
        }
        Err(error) => return Err(Refusal::io(format!("look at {}", fs.display()), &error)),
    }
    let Some(usage) = snapshot.row.usage.filter(|_| deep) else { return Ok(None) };
    let found = measure(&fs).map_err(|error| Refusal::io(format!("measure {}", fs.display()), &error))?;
    // The space of a file depends on how it was written; what it holds shows in the number of files, and in files whose
    // bytes never reached the disk.
    let shrunk = found.size_bytes < usage.size_bytes / 2 && usage.size_bytes - found.size_bytes > 1 << 16;
    Ok((found.inodes != usage.inodes || shrunk).then(|| {
        format!(
            "it has {} files in {} bytes, when it was committed it had {} in {}",
            found.inodes, found.size_bytes, usage.inodes, usage.size_bytes
        )
    }))
}

/// Disk space and inodes, hard links once.
fn measure(fs: &Path) -> io::Result<Usage> {
    let mut usage = Usage::default();
    let mut links = HashSet::new();
    let mut to_visit = vec![fs.to_owned()];
    while let Some(path) = to_visit.pop() {
        let found = fs::symlink_metadata(&path)?;
        if !found.is_dir() && found.nlink() > 1 && !links.insert(found.ino()) {
            continue;
        }
        usage.inodes += 1;
        usage.size_bytes += found.blocks() * 512;
        if found.is_dir() {
            for entry in fs::read_dir(&path)? {
                to_visit.push(entry?.path());
            }
        }
    }
    Ok(usage)
}

/// Tells of damaged snapshots: those that can go, with all that stand on them, each after its children.
fn tell(rows: &Rows, damaged: BTreeMap<usize, String>, report: &mut Report) {
    let on = |index: usize| {
        let below = &rows.snapshots[index];
        rows.snapshots.iter().enumerate().filter(move |(_, other)| {
            (&other.namespace, &other.snapshotter, other.row.info.parent.as_ref())
                == (&below.namespace, &below.snapshotter, Some(&below.row.info.key))
        })
    };
    let mut told = BTreeSet::new();
    for (&index, what) in &damaged {
        // Depth first: children come out before what they stand on.
        let (mut order, mut to_visit, mut keeps) = (Vec::new(), vec![index], Vec::new());
        while let Some(at) = to_visit.pop() {
            let snapshot = &rows.snapshots[at];
            order.push(at);
            if snapshot.row.info.kind != SnapshotKind::Committed {
                keeps.push(user(rows, snapshot));
            }
            to_visit.extend(on(at).map(|(child, _)| child));
        }
        if !keeps.is_empty() {
            let whose = keeps.join(", ");
            report.problems.push(Problem {
                subject: name(&rows.snapshots[index]),
                what: format!("{what}; kept by {whose}, whose own files would go with it: delete that first"),
                remedy: Remedy::None,
            });
            continue;
        }
        for at in order.into_iter().rev() {
            if !told.insert(at) {
                continue;
            }
            let snapshot = &rows.snapshots[at];
            let what = damaged.get(&at).cloned().unwrap_or_else(|| format!("it stands on one that is damaged: {what}"));
            let (namespace, key) = (snapshot.namespace.clone(), snapshot.row.info.key.clone());
            let remedy = Remedy::DropSnapshot(namespace, snapshot.snapshotter.clone(), key, snapshot.row.id);
            report.problems.push(Problem { subject: name(snapshot), what, remedy });
        }
    }
}

/// Who has an active snapshot, for people.
fn user(rows: &Rows, snapshot: &Snapshot) -> String {
    let key = snapshot.row.info.key.as_str();
    let place = (snapshot.namespace.as_str().to_owned(), snapshot.snapshotter.as_str().to_owned(), key.to_owned());
    match rows.containers.get(&place) {
        Some(container) => format!("container {container:?}"),
        None => format!("snapshot {key}"),
    }
}

/// Folders that no row speaks of.
fn orphans(root: &Path, rows: &Rows, report: &mut Report) -> Answer<()> {
    let all = root.join("snapshotters");
    for snapshotter in entries(&all)? {
        let known: BTreeSet<u64> = rows
            .snapshots
            .iter()
            .filter(|snapshot| snapshot.snapshotter.as_str() == snapshotter)
            .map(|snapshot| snapshot.row.id)
            .collect();
        for entry in entries(&folders(root, &snapshotter))? {
            // What is no number is not ours to judge.
            let Some(id) = entry.parse::<u64>().ok().filter(|id| !known.contains(id)) else { continue };
            report.problems.push(Problem {
                subject: format!("folder {id} of {snapshotter}"),
                what: "no row speaks of it".to_owned(),
                remedy: Remedy::Delete(folder(root, &snapshotter, id)),
            });
        }
    }
    Ok(())
}

/// The names in a folder; none if it is not there.
fn entries(folder: &Path) -> Answer<Vec<String>> {
    let doing = |error: &io::Error| Refusal::io(format!("list {}", folder.display()), error);
    let mut names = Vec::new();
    match fs::read_dir(folder) {
        Ok(entries) => {
            for entry in entries {
                names.push(entry.map_err(|e| doing(&e))?.file_name().to_string_lossy().into_owned());
            }
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(doing(&error)),
    }
    names.sort_unstable();
    Ok(names)
}
