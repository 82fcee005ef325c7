//! Losing power, being killed, and running out of space: what was acknowledged is there, and what is there is whole.

use super::{
    audit::{audit, dump},
    world::*,
};
use crate::{Change, Commit, Options, Store, Writer, database, disk::Disk, open};
use std::{
    env,
    io::{self, BufRead, BufReader, Write},
    path::Path,
    process::{Child, Command, Stdio},
    sync::{Arc, Mutex},
};
use wharf_messages::{
    Any, Labels, RefusalKind, Timestamp,
    event::{Event, Seq},
    snapshot::Usage,
};

/// A disk that loses power: at a given sync and from then on nothing reaches it, and of what was written since the sync
/// before, any part may have.
#[derive(Debug)]
struct PowerDisk(Mutex<Power>);

#[derive(Debug)]
struct Power {
    live: Vec<u8>,
    durable: Vec<u8>,
    pending: Vec<Op>,
    syncs: usize,
    fails_at: usize,
}

#[derive(Debug, Clone)]
enum Op {
    SetLen(usize),
    Write(usize, Vec<u8>),
}

impl Op {
    fn apply(&self, bytes: &mut Vec<u8>) {
        match self {
            Self::SetLen(len) => bytes.resize(*len, 0),
            Self::Write(from, data) => {
                // The set_len before it may be among what was lost.
                bytes.resize(bytes.len().max(from + data.len()), 0);
                bytes[*from..from + data.len()].copy_from_slice(data);
            }
        }
    }
}

impl PowerDisk {
    /// On which a new root was made; how that survives a power cut is the affair of its file's name.
    fn failing_at(sync: usize) -> Arc<Self> {
        let fresh = Arc::new(Memory::default());
        database::create(&(fresh.clone() as Arc<dyn Disk>), Options::default(), Path::new("/test")).unwrap();
        let live = fresh.bytes();
        let durable = live.clone();
        Arc::new(Self(Mutex::new(Power { live, durable, pending: Vec::new(), syncs: 0, fails_at: sync })))
    }

    fn change(&self, op: Op) -> io::Result<()> {
        let mut power = self.0.lock().unwrap();
        power.alive()?;
        op.apply(&mut power.live);
        power.pending.push(op);
        Ok(())
    }

    fn syncs(&self) -> usize {
        self.0.lock().unwrap().syncs
    }

    /// What may be found on the disk afterwards: none, all, and some of what was under way.
    fn images(&self) -> Vec<Vec<u8>> {
        let power = self.0.lock().unwrap();
        let mut seed = power.fails_at as u64 + 1;
        let mut images = Vec::new();
        for choice in 0..6 {
            let mut image = power.durable.clone();
            for op in &power.pending {
                // A small generator is enough, and the same sweep is made every time.
                seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
                let reached = match choice {
                    0 => false,
                    1 => true,
                    _ => seed >> 63 == 1,
                };
                if reached {
                    op.apply(&mut image);
                }
            }
            images.push(image);
        }
        images
    }
}

impl Power {
    fn alive(&self) -> io::Result<()> {
        if self.syncs < self.fails_at { Ok(()) } else { Err(io::Error::other("no power")) }
    }
}

impl Disk for PowerDisk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().live.len() as u64)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Op::SetLen(usize::try_from(len).unwrap()))
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let from = usize::try_from(offset).unwrap();
        out.copy_from_slice(&self.0.lock().unwrap().live[from..from + out.len()]);
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.change(Op::Write(usize::try_from(offset).unwrap(), data.to_vec()))
    }

    fn sync(&self) -> io::Result<()> {
        let mut power = self.0.lock().unwrap();
        power.alive()?;
        power.syncs += 1;
        power.alive()?;
        for op in std::mem::take(&mut power.pending) {
            op.apply(&mut power.durable);
        }
        Ok(())
    }
}

/// Commits that touch every table, in batches of one to three.
fn workload() -> Vec<Vec<Commit>> {
    let one = |change: Change| Commit::one(&ns(), change);
    let freeze = |from: &str, to: &str| Change::CommitSnapshot {
        snapshotter: overlay(),
        key: key(from),
        name: key(to),
        parent: None,
        labels: Labels::new(),
        usage: Usage::default(),
    };
    let mut batches = Vec::new();
    for round in 0..5_u8 {
        let name = format!("r{round}");
        batches.push(vec![one(Change::CreateContent { digest: digest(round), size_bytes: 3, labels: Labels::new() })]);
        let prepared = active(&name, None, u64::from(round) + 1);
        batches.push(vec![
            one(Change::CreateImage(image(&name, &[]))),
            one(Change::PrepareSnapshot(prepared)).change(freeze(&name, &format!("{name}-done"))),
            one(Change::CreateImage(image(&name, &[]))), // refused
        ]);
        let started = Event::TaskStarted { container_id: container_id(&name), pid: 1 };
        let run = one(Change::CreateContainer(container(&name))).change(Change::CreateTask(task(&name))).event(started);
        batches.push(vec![run]);
        if round > 1 {
            let old = format!("r{}", round - 1);
            let stop = one(Change::DeleteTask(container_id(&old))).change(Change::DeleteContainer(container_id(&old)));
            batches.push(vec![stop, one(Change::DeleteContent(digest(round - 1)))]);
        }
    }
    batches
}

/// Runs the workload until the disk gives up; answers the dumps after each acknowledged batch, the first one empty.
fn run(disk: Arc<dyn Disk>) -> Vec<Vec<String>> {
    let folder = folder_in_memory();
    let mut dumps = vec![Vec::new()];
    let Ok((store, mut writer)) = open_in_memory(folder.path(), disk) else { return dumps };
    for (i, batch) in workload().into_iter().enumerate() {
        let answers = writer.commit(batch, Timestamp(i64::try_from(i).unwrap()));
        if answers.iter().any(|a| a.as_ref().is_err_and(|refusal| !refusal.is(RefusalKind::AlreadyExists))) {
            assert!(answers.iter().all(Result::is_err), "a batch was acknowledged in part");
            break;
        }
        dumps.push(dump(&store.read().unwrap()));
    }
    dumps
}

#[test]
fn whatever_was_acknowledged_survives_a_power_cut_at_any_sync() {
    let whole = PowerDisk::failing_at(usize::MAX);
    let states = run(whole.clone());
    assert_eq!(states.len(), workload().len() + 1);
    let (syncs, mut images) = (whole.syncs(), 0);
    for cut in 1..=syncs {
        let disk = PowerDisk::failing_at(cut);
        let acknowledged = run(disk.clone());
        let last = acknowledged.len() - 1;
        assert_eq!(acknowledged, states[..=last], "cut {cut}");
        for (choice, image) in disk.images().into_iter().enumerate() {
            let folder = folder_in_memory();
            let (store, mut writer) = open_in_memory(folder.path(), Arc::new(Memory::holding(image)))
                .unwrap_or_else(|error| panic!("cut {cut}, image {choice}: {error:?}"));
            let reader = store.read().unwrap();
            audit(&reader);
            let found = dump(&reader);
            // The batch in flight is there as a whole or not at all.
            let fits = found == states[last] || states.get(last + 1).is_some_and(|next| found == *next);
            assert!(fits, "cut {cut}, image {choice}: {found:#?}");
            let next = writer.commit(vec![Commit::one(&ns(), Change::PutImage(image_named("after")))], Timestamp(99));
            assert!(next[0].is_ok(), "cut {cut}, image {choice}: {next:?}");
            images += 1;
        }
    }
    assert!(syncs > 20 && images == syncs * 6, "{syncs} syncs, {images} images");
}

fn image_named(name: &str) -> wharf_messages::image::CreateImage {
    image(name, &[])
}

/// A disk with room for so many bytes.
#[derive(Debug)]
struct SmallDisk {
    memory: Memory,
    room_bytes: Mutex<u64>,
}

impl Disk for SmallDisk {
    fn len(&self) -> io::Result<u64> {
        self.memory.len()
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        if len > *self.room_bytes.lock().unwrap() && len > self.memory.len()? {
            return Err(io::ErrorKind::StorageFull.into());
        }
        self.memory.set_len(len)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.memory.read(offset, out)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.memory.write(offset, data)
    }

    fn sync(&self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_full_disk_costs_no_reader_and_nothing_acknowledged() {
    let room_bytes = Mutex::new(4 << 20);
    let disk = Arc::new(SmallDisk { memory: Memory::default(), room_bytes });
    let folder = tempfile::tempdir().unwrap();
    let (store, mut writer) = open_in_memory(folder.path(), disk.clone()).unwrap();
    let (acknowledged, refusal) = fill(&mut writer);
    assert_eq!(refusal.kind, RefusalKind::ResourceExhausted, "{refusal}");
    assert!(acknowledged > 0);
    assert_eq!(writer.broken(), Some(&refusal));
    assert_eq!(store.read().unwrap().last_seq().unwrap(), Seq(acknowledged));

    // Until it is reopened, nothing is written, and the reason is told.
    let again = writer.commit(vec![filler()], Timestamp(1)).remove(0).unwrap_err();
    assert!(again.is(RefusalKind::ResourceExhausted) && again.detail.contains("waits to be reopened"), "{again}");

    let old_reader = store.read().unwrap();
    *disk.room_bytes.lock().unwrap() = 64 << 20;
    writer.reopen().unwrap();
    assert_eq!(writer.last_seq(), Seq(acknowledged));
    let told = writer.commit(vec![filler()], Timestamp(2)).remove(0).unwrap();
    assert_eq!(told.last_seq, Seq(acknowledged + 1));
    assert_eq!(store.read().unwrap().events(Seq(0), 1).unwrap().len(), 1);
    // A reader of the old handle finishes from its cache, or is told to try again; it never sees anything wrong.
    match old_reader.last_seq() {
        Ok(seq) => assert_eq!(seq, Seq(acknowledged)),
        Err(refusal) => assert!(refusal.is(RefusalKind::Unavailable), "{refusal}"),
    }
}

fn filler() -> Commit {
    let payload = Any::new("x", vec![1; 100_000]);
    Commit::default().event(Event::Published { topic: "/fill".to_owned(), payload })
}

/// Writes until the disk is full; answers how many events were acknowledged, and the refusal.
fn fill(writer: &mut Writer) -> (u64, wharf_messages::Refusal) {
    let mut acknowledged = 0;
    loop {
        match writer.commit(vec![filler()], Timestamp(1)).remove(0) {
            Ok(committed) => acknowledged = committed.last_seq.0,
            Err(refusal) => return (acknowledged, refusal),
        }
        assert!(acknowledged < 10_000, "the disk does not fill");
    }
}

/// The root that a child test works on; without it, the child tests below do nothing.
const CHILD_ROOT: &str = "WHARF_STORE_TEST_ROOT";

/// Commits for ever, and says on its output what was acknowledged.
#[test]
#[ignore = "run by its parent test, to be killed"]
fn child_that_commits() {
    let Some(root) = env::var_os(CHILD_ROOT) else { return };
    let (_store, mut writer) = open(Path::new(&root), Options::default()).unwrap();
    let mut out = io::stdout();
    for n in writer.last_seq().0.. {
        let commit = Commit::one(&ns(), Change::CreateImage(image(&format!("i{n}"), &[])));
        writer.commit(vec![commit], Timestamp(0)).remove(0).unwrap();
        writeln!(out, "acknowledged i{n}").unwrap();
    }
}

/// A child test, killed when it is dropped.
struct Killed(Child);

impl Killed {
    fn start(root: &Path, test: &str) -> Self {
        let mut command = Command::new(env::current_exe().unwrap());
        command.args(["--ignored", "--exact", "--nocapture", test]).env(CHILD_ROOT, root);
        Self(command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap())
    }
}

impl Drop for Killed {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn whatever_was_acknowledged_survives_sigkill() {
    let folder = tempfile::tempdir().unwrap();
    let mut acknowledged = Vec::new();
    for rounds in [1, 2, 7] {
        let mut child = Killed::start(folder.path(), "tests::crash::child_that_commits");
        let mut lines = BufReader::new(child.0.stdout.take().unwrap()).lines().map(Result::unwrap);
        let words = lines.by_ref().filter_map(|line| line.split_once("acknowledged ").map(|(_, name)| name.to_owned()));
        acknowledged.extend(words.take(rounds));
        // While it lives, it is named as the one that has the root.
        let error = open(folder.path(), Options::default()).unwrap_err().to_string();
        assert!(error.ends_with(&format!("is in use by the process with pid {}", child.0.id())), "{error}");
        child.0.kill().unwrap();
        child.0.wait().unwrap();
        // What it said before it was killed was true.
        let more = lines.filter_map(|line| line.split_once("acknowledged ").map(|(_, name)| name.to_owned()));
        acknowledged.extend(more);
        let (store, _writer) = open(folder.path(), Options::default()).unwrap();
        let reader = store.read().unwrap();
        audit(&reader);
        for name in &acknowledged {
            let name = wharf_messages::ImageName::new(name).unwrap();
            assert!(reader.image(&ns(), &name).unwrap().is_some(), "{name} was acknowledged and is not there");
        }
    }
    assert!(acknowledged.len() >= 10);
}

/// Fills a real file system, and does what a daemon on a full disk must still be able to do.
#[test]
#[ignore = "run by its parent test, on a small file system of its own"]
fn child_on_a_full_disk() {
    let Some(root) = env::var_os(CHILD_ROOT) else { return };
    let root = Path::new(&root);
    let (store, mut writer) = open(root, Options::default()).unwrap();
    let (acknowledged, refusal) = fill(&mut writer);
    assert_eq!(refusal.kind, RefusalKind::ResourceExhausted, "{refusal}");
    assert_eq!(store.read().unwrap().last_seq().unwrap(), Seq(acknowledged));
    // A blob that does not fit keeps what did.
    let mut ingest = store.blobs().begin(wharf_messages::id::DigestAlgorithm::Sha256).unwrap();
    let refusal = loop {
        match ingest.append(&[7; 10_000]) {
            Ok(_) => {}
            Err(refusal) => break refusal,
        }
    };
    assert_eq!(refusal.kind, RefusalKind::ResourceExhausted, "{refusal}");
    let kept = ingest.offset_bytes();
    assert_eq!(store.blobs().ingest_status(ingest.id()).unwrap().unwrap().0, kept);
    let id = ingest.id().clone();
    drop(ingest);
    store.blobs().discard_ingest(&id, || Ok(true)).unwrap();

    // Reopening needs no room to speak of.
    reopened(&store, &mut writer, acknowledged);
    drop((store, writer));
    let (store, mut writer) = open(root, Options::default()).unwrap();
    reopened(&store, &mut writer, acknowledged);
    println!("the child is through");
}

/// Fills a real file system from outside, to the last byte and again and again, and deletes all the same.
#[test]
#[ignore = "run by its parent test, on a small file system of its own"]
fn child_that_deletes_on_a_full_disk() {
    let Some(root) = env::var_os(CHILD_ROOT) else { return };
    let root = Path::new(&root);
    let (store, mut writer) = open(root, Options::default()).unwrap();
    let put = |n: usize| Commit::one(&ns(), Change::PutImage(image_named(&format!("i{n}"))));
    let delete = |n: usize| {
        let name = image_named(&format!("i{n}")).name;
        Commit::one(&ns(), Change::DeleteImage(name))
    };
    let commit = |writer: &mut Writer, commit| writer.commit(vec![commit], Timestamp(1)).remove(0);
    for n in 0..600 {
        commit(&mut writer, put(n)).unwrap();
    }
    // Somebody takes every byte there is, and whatever becomes free.
    let hog = || {
        let mut file = std::fs::File::options().create(true).append(true).open(root.join("hog")).unwrap();
        while Write::write(&mut file, &[7; 512]).is_ok() {}
    };
    hog();
    let mut stored = 600;
    let refusal = loop {
        match commit(&mut writer, put(stored)) {
            Ok(_) => stored += 1,
            Err(refusal) => break refusal,
        }
        hog();
        assert!(stored < 700, "the disk does not fill");
    };
    assert!(refusal.is(RefusalKind::ResourceExhausted) && refusal.detail.contains("no space left"), "{refusal}");
    assert_eq!(writer.broken(), None, "nothing had to be reopened");
    // One transaction has both kinds in it: each is answered for itself.
    let mixed = writer.commit(vec![put(1), delete(0), put(2)], Timestamp(2));
    assert_eq!(mixed.iter().map(Result::is_ok).collect::<Vec<_>>(), [false, true, false]);
    for n in 1..stored / 2 {
        commit(&mut writer, delete(n)).unwrap_or_else(|refusal| panic!("{n}: {refusal}"));
        hog();
    }
    // So does a daemon that starts again.
    drop((store, writer));
    let (store, mut writer) = open(root, Options::default()).unwrap();
    for n in stored / 2..stored {
        commit(&mut writer, delete(n)).unwrap_or_else(|refusal| panic!("{n}: {refusal}"));
        hog();
    }
    assert_eq!(store.read().unwrap().images(&ns()).unwrap().count(), 0);
    audit(&store.read().unwrap());
    // With room again it goes on by itself, and the reserve is whole.
    std::fs::remove_file(root.join("hog")).unwrap();
    commit(&mut writer, put(0)).unwrap();
    assert_eq!(std::fs::metadata(root.join("reserve")).unwrap().len(), 2 << 20);
    println!("the child is through");
}

fn reopened(store: &Store, writer: &mut Writer, acknowledged: u64) {
    writer.reopen().unwrap();
    assert_eq!(store.read().unwrap().last_seq().unwrap(), Seq(acknowledged));
}

#[test]
fn a_real_file_system_that_is_full() {
    on_a_small_file_system("6m", "tests::crash::child_on_a_full_disk");
}

#[test]
fn a_real_file_system_that_somebody_else_fills() {
    on_a_small_file_system("16m", "tests::crash::child_that_deletes_on_a_full_disk");
}

fn on_a_small_file_system(size: &str, child: &str) {
    let folder = tempfile::tempdir().unwrap();
    let script = format!(r#"mount -t tmpfs -o size={size} wharf-test "$WHARF_STORE_TEST_ROOT" && exec "$0" "$@""#);
    let output = Command::new("unshare")
        .args(["--mount", "--propagation", "private", "sh", "-c", &script])
        .arg(env::current_exe().unwrap())
        .args(["--ignored", "--exact", "--nocapture", child])
        .env(CHILD_ROOT, folder.path())
        .output()
        .unwrap();
    let said = format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if said.contains("Operation not permitted") || said.contains("must be superuser") {
        println!("not tried: mounting takes root");
        return;
    }
    assert!(output.status.success() && said.contains("the child is through"), "{said}");
}
