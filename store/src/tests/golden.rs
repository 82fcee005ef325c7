//! What was once written stays readable: the bytes of every kind of record and event, as version 1 wrote them.
//!
//! A line of `golden.txt` never changes once a release has written it. If this test fails, a stored type has changed its
//! shape: raise its `VERSION` in `record.rs`, teach `upcast` the old form, and add lines for the new one under new names.
//! (Before the first release, an empty `golden.txt` makes the test print all lines anew.)

use super::world::*;
use crate::{
    FileId, IngestRow, ShimRecord, SnapshotRow, TaskPhase,
    record::{self, Record},
};
use proptest::prelude::*;
use std::{collections::BTreeMap, fmt::Debug};
use wharf_messages::{
    Any, CursorName, Descriptor, ExecId, ImageName, IngestRef, Labels, Mount, Namespace, Platform, Timestamp, codec,
    container::Runtime,
    content::ContentInfo,
    cursor::Cursor,
    event::{Event, EventRecord, Seq},
    health::HealthStatus,
    image::Image,
    lease::Lease,
    namespace::NamespaceRecord,
    snapshot::{SnapshotInfo, SnapshotKind, Usage},
    task::{Exit, Stdio, TaskStatus},
};

const GOLDEN: &str = include_str!("golden.txt");

fn golden() -> BTreeMap<&'static str, Vec<u8>> {
    GOLDEN
        .lines()
        .map(|line| {
            let (name, bytes) = line.split_once(' ').unwrap();
            (name, hex::decode(bytes).unwrap())
        })
        .collect()
}

/// The kind of record that a line is of: its name, up to what tells it from others of the kind.
fn kind_of(name: &str) -> &str {
    name.split_once('.').map_or(name, |(kind, _)| kind)
}

fn exec_id() -> ExecId {
    ExecId::new("sh").unwrap()
}

fn exit() -> Exit {
    Exit { code: 137, exited_at: Timestamp(1_700_000_000_123_456_789), oom: true }
}

fn stdio() -> Stdio {
    Stdio { stdin: "/in".into(), stdout: "/out".into(), stderr: "file:///err".into(), terminal: true }
}

fn mounts() -> Vec<Mount> {
    let options = vec!["ro".to_owned(), "lowerdir=/a:/b".to_owned()];
    vec![Mount { kind: "overlay".into(), source: "overlay".into(), target: String::new(), options }]
}

fn runtime() -> Runtime {
    Runtime { name: "io.containerd.runc.v2".into(), options: Some(Any::new("o", "1")) }
}

fn target() -> Descriptor {
    let mut target = image("i", &[]).target;
    target.annotations = labels(&[("a", "b")]);
    target.platform = Some(Platform::new("linux", "arm", "v7"));
    target
}

/// One of each, in the order of the enum.
fn events() -> Vec<(&'static str, Event)> {
    let (name, id) = (Namespace::new("k8s.io").unwrap(), container_id("web"));
    let image_name = ImageName::new("docker.io/library/busybox:latest").unwrap();
    let (snapshotter, l) = (overlay(), labels(&[("k", "v")]));
    vec![
        ("namespace-created", Event::NamespaceCreated { name: name.clone(), labels: l.clone() }),
        ("namespace-updated", Event::NamespaceUpdated { name: name.clone(), labels: l.clone() }),
        ("namespace-deleted", Event::NamespaceDeleted { name }),
        ("image-created", Event::ImageCreated { name: image_name.clone(), labels: l.clone() }),
        ("image-updated", Event::ImageUpdated { name: image_name.clone(), labels: l.clone() }),
        ("image-deleted", Event::ImageDeleted { name: image_name.clone() }),
        ("content-created", Event::ContentCreated { digest: digest(1), size_bytes: 70_000 }),
        ("content-deleted", Event::ContentDeleted { digest: digest(1) }),
        (
            "snapshot-prepared",
            Event::SnapshotPrepared { snapshotter: snapshotter.clone(), key: key("k"), parent: Some(key("p")) },
        ),
        (
            "snapshot-committed",
            Event::SnapshotCommitted { snapshotter: snapshotter.clone(), key: key("k"), name: key("n") },
        ),
        ("snapshot-removed", Event::SnapshotRemoved { snapshotter, key: key("k") }),
        ("container-created", Event::ContainerCreated { id: id.clone(), image: "i".into(), runtime: runtime() }),
        (
            "container-updated",
            Event::ContainerUpdated { id: id.clone(), image: "i".into(), labels: l, snapshot_key: Some(key("s")) },
        ),
        ("container-deleted", Event::ContainerDeleted { id: id.clone() }),
        (
            "task-created",
            Event::TaskCreated {
                container_id: id.clone(),
                bundle: "/run/wharf/web".into(),
                rootfs: mounts(),
                stdio: stdio(),
                checkpoint: "c".into(),
                pid: 4_000_000,
            },
        ),
        ("task-started", Event::TaskStarted { container_id: id.clone(), pid: 7 }),
        ("task-exited", Event::TaskExited { container_id: id.clone(), exec_id: Some(exec_id()), pid: 7, exit: exit() }),
        ("task-oom-killed", Event::TaskOomKilled { container_id: id.clone() }),
        ("task-deleted", Event::TaskDeleted { container_id: id.clone(), exec_id: None, pid: 7, exit: exit() }),
        ("task-exec-added", Event::TaskExecAdded { container_id: id.clone(), exec_id: exec_id() }),
        ("task-exec-started", Event::TaskExecStarted { container_id: id.clone(), exec_id: exec_id(), pid: 8 }),
        ("task-paused", Event::TaskPaused { container_id: id.clone() }),
        ("task-resumed", Event::TaskResumed { container_id: id.clone() }),
        ("task-checkpointed", Event::TaskCheckpointed { container_id: id, checkpoint: "sha256:x".into() }),
        ("lease-created", Event::LeaseCreated { id: lease_id("l") }),
        ("lease-deleted", Event::LeaseDeleted { id: lease_id("l") }),
        (
            "child-restarted",
            Event::ChildRestarted { path: "tasks/default/web".into(), reason: "panic".into(), restarts: 2 },
        ),
        ("published", Event::Published { topic: "/orders/create".into(), payload: Any::new("orders.Create", "\u{1}") }),
        ("image-pulled", Event::ImagePulled { name: image_name, target: target() }),
        (
            "restart-scheduled",
            Event::RestartScheduled {
                container_id: container_id("web"),
                restarts: 300,
                due_at: Timestamp(1 << 60),
                reason: "it ended with 1".into(),
            },
        ),
        (
            "restart-given-up",
            Event::RestartGivenUp { container_id: container_id("web"), restarts: 3, reason: "a user".into() },
        ),
        (
            "health-changed",
            Event::HealthChanged { container_id: container_id("web"), status: HealthStatus::Unhealthy, failing: 3 },
        ),
    ]
}

fn ingest() -> IngestRow {
    IngestRow {
        reference: IngestRef::new("layer-sha256:1").unwrap(),
        file_id: FileId::new("0123456789abcdef0123456789abcdef").unwrap(),
        total_bytes: 1 << 40,
        expected: Some(digest(2)),
        started_at: Timestamp(5),
        updated_at: Timestamp(-6),
        labels: labels(&[("k", "v")]),
    }
}

fn full_task() -> crate::TaskRow {
    let mut row = task("web");
    row.phase = TaskPhase::Live;
    row.runtime = runtime();
    row.rootfs = mounts();
    row.created_at = Timestamp(9);
    row.shim = Some(ShimRecord {
        address: "unix:///run/wharf/s/1".into(),
        protocol_version: 3,
        pid: 99,
        start_ticks: 123_456,
        binary: "/usr/bin/wharf-shim".into(),
    });
    row.init.pid = 100;
    row.init.status = TaskStatus::Paused;
    row.execs =
        vec![crate::ProcessRow { exec_id: Some(exec_id()), stdio: stdio(), exit: Some(exit()), ..row.init.clone() }];
    row
}

/// Checks one sample against its line; answers the line that is missing, if it is.
fn check<R: Record + Debug + PartialEq>(
    golden: &mut BTreeMap<&'static str, Vec<u8>>,
    name: &str,
    sample: &R,
) -> Option<String> {
    let bytes = record::encode(sample).unwrap();
    let Some(stored) = golden.remove(name) else { return Some(format!("{name} {}", hex::encode(bytes))) };
    assert_eq!(record::decode::<R>(&stored).unwrap(), *sample, "{name} is read otherwise than it was written");
    assert_eq!(hex::encode(bytes), hex::encode(stored), "{name} is written otherwise, but under the same version");
    None
}

#[test]
fn stored_records_are_read_and_written_as_ever() {
    let mut golden = golden();
    let mut missing = Vec::new();
    for (seq, (name, event)) in events().into_iter().enumerate() {
        let seq = Seq(seq as u64 + 250);
        let namespace = seq.0.is_multiple_of(2).then(ns);
        let record = EventRecord {
            seq,
            at: Timestamp(1_700_000_000_000_000_000),
            namespace,
            event,
            late: seq.0.is_multiple_of(3),
        };
        missing.extend(check(&mut golden, &format!("event.{name}"), &record));
    }
    let info = SnapshotInfo {
        key: key("k"),
        parent: Some(key("p")),
        kind: SnapshotKind::Committed,
        labels: labels(&[("k", "v")]),
        created_at: Timestamp(1),
        updated_at: Timestamp(2),
    };
    let usage = Some(Usage { size_bytes: 1 << 33, inodes: 3 });
    let image = Image {
        name: ImageName::new("i").unwrap(),
        target: target(),
        labels: Labels::new(),
        created_at: Timestamp(1),
        updated_at: Timestamp(2),
    };
    let content = ContentInfo {
        digest: digest(3),
        size_bytes: 5,
        created_at: Timestamp(1),
        updated_at: Timestamp(2),
        labels: labels(&[("k", "v")]),
    };
    missing.extend(check(&mut golden, "namespace", &NamespaceRecord { name: ns(), labels: labels(&[("k", "v")]) }));
    missing.extend(check(&mut golden, "image", &image));
    missing.extend(check(&mut golden, "container", &container("c")));
    missing.extend(check(&mut golden, "task", &full_task()));
    missing.extend(check(&mut golden, "snapshot", &SnapshotRow { info, id: 7, parent_id: Some(6), usage }));
    missing.extend(check(&mut golden, "content", &content));
    missing.extend(check(&mut golden, "ingest", &ingest()));
    let lease = Lease { id: lease_id("l"), created_at: Timestamp(1), labels: labels(&[("k", "v")]) };
    missing.extend(check(&mut golden, "lease", &lease));
    missing.extend(check(&mut golden, "restart", &restart()));
    missing.extend(check(&mut golden, "health", &health(HealthStatus::Healthy)));
    let cursor = Cursor {
        name: CursorName::new("audit").unwrap(),
        shared: true,
        acked: Seq(70_000),
        created_at: Timestamp(1),
        moved_at: Timestamp(1_700_000_000_123_456_789),
    };
    missing.extend(check(&mut golden, "cursor", &cursor));
    assert!(missing.is_empty(), "golden.txt lacks these lines:\n{}", missing.join("\n"));
    assert!(golden.is_empty(), "nothing writes these lines of golden.txt: {:?}", golden.keys());
}

#[test]
fn every_kind_that_is_stored_and_every_event_has_a_line() {
    let golden = golden();
    let without: Vec<_> =
        record::KINDS.iter().filter(|kind| !golden.keys().any(|name| kind_of(name) == **kind)).collect();
    assert!(without.is_empty(), "golden.txt and the test above lack a line of each of {without:?}");
    // The number after the last event's is nobody's: an event that the list lacks would have it.
    let events = events();
    let next = u8::try_from(events.len()).unwrap();
    for (number, (name, event)) in events.iter().enumerate() {
        assert_eq!(
            codec::encode(event).unwrap()[0],
            u8::try_from(number).unwrap(),
            "{name} is out of the enum's order"
        );
    }
    let refusal = codec::decode::<Event>(&[next]).unwrap_err();
    assert!(refusal.detail.contains(&format!("variant index 0 <= i < {next}")), "an event has no line: {refusal}");
}

#[test]
fn what_cannot_be_read_is_said_to_be_damaged() {
    for (bytes, why) in
        [(&[][..], "stored lease is empty: data loss"), (&[9, 1], "stored lease has the unknown version 9: data loss")]
    {
        assert_eq!(record::decode::<Lease>(bytes).unwrap_err().to_string(), why);
        assert_eq!(record::in_place::<Lease>(bytes.into()).unwrap_err().to_string(), why);
    }
    let cut = record::decode::<Lease>(&[1, 200]).unwrap_err();
    assert!(cut.is(wharf_messages::RefusalKind::DataLoss) && cut.detail.starts_with("stored lease: "), "{cut}");
    // What is passed on as it lies is told by whoever decodes it.
    let listed = record::in_place::<Lease>(vec![1, 200].into()).unwrap().get().unwrap_err();
    assert!(listed.is(wharf_messages::RefusalKind::DataLoss), "{listed}");
}

proptest! {
    #[test]
    fn damaged_records_are_errors_and_nothing_worse(which in any::<prop::sample::Index>(), at in any::<prop::sample::Index>(), with in any::<u8>(), cut in any::<bool>()) {
        let golden: Vec<_> = golden().into_iter().collect();
        let (name, mut bytes) = golden[which.index(golden.len())].clone();
        let at = at.index(bytes.len());
        if cut { bytes.truncate(at) } else { bytes[at] = with }
        // Either answer is fine; a panic or a huge allocation is not.
        drop(record::decode_kind(kind_of(name), &bytes));
    }
}
