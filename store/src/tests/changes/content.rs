//! Content, ingests, and the leases that hold them.

use super::*;
use crate::NewSnapshot;
use wharf_messages::{
    ImageName,
    content::UpdateContent,
    lease::{AddLeaseResource, CreateLease, DeleteLeaseResource},
    snapshot::SNAPSHOT_REF_LABEL,
};

#[test]
fn content() {
    let mut world = World::new();
    let other = Namespace::new("other").unwrap();
    let update = |n: u8, mask: &[&str]| {
        Change::UpdateContent(UpdateContent { digest: digest(n), labels: labels(&[("u", "1")]), mask: strings(mask) })
    };
    let share = |n: u8| Change::ShareContent { digest: digest(n), labels: labels(&[("s", "1")]) };
    let name = digest(1);
    done(&mut world, vec![create_content(1)]);
    refused(
        &mut world,
        vec![
            (create_content(1), &format!("content {name}: already exists")),
            (share(1), &format!("content {name}: already exists")),
            (share(2), &format!("content digest {}: not found", digest(2))),
            (update(2, &[]), &format!("content digest {}: not found", digest(2))),
            (
                update(1, &["size"]),
                &format!("cannot update \"size\" field on content info \"{name}\": invalid argument"),
            ),
            (Change::DeleteContent(digest(2)), &format!("content digest {}: not found", digest(2))),
            (
                Change::CreateContent { digest: digest(3), size_bytes: 1, labels: too_long() },
                &format!("info.Labels: {TOO_LONG}"),
            ),
        ],
    );
    let Outcome::Content(updated) = done(&mut world, vec![update(1, &["labels.u"])]) else { panic!() };
    assert_eq!((updated.labels, updated.size_bytes), (labels(&[("u", "1")]), 1));
    // Another namespace takes it without an upload, with labels of its own.
    let shared = world.commit(Commit::one(&other, share(1))).unwrap();
    assert!(matches!(&shared.events.last().unwrap().event, Event::ContentCreated { size_bytes: 1, .. }));
    assert_eq!(shared.into_content().unwrap().labels, labels(&[("s", "1")]));
    let reader = world.store.read().unwrap();
    assert_eq!(reader.blob(&name).unwrap(), Some(1));
    assert_eq!(reader.all_blobs().unwrap().map(Result::unwrap).collect::<Vec<_>>(), [(name.clone(), 1)]);
    drop(reader);
    let Outcome::ContentDeleted { last, .. } = done(&mut world, vec![Change::DeleteContent(name.clone())]) else {
        panic!()
    };
    assert!(!last);
    let gone = world.commit(Commit::one(&other, Change::DeleteContent(name.clone()))).unwrap();
    assert!(matches!(gone.outcomes[..], [Outcome::ContentDeleted { last: true, .. }]));
    assert_eq!(world.store.read().unwrap().blob(&name).unwrap(), None);
}

#[test]
fn ingests() {
    let mut world = World::new();
    let reference = IngestRef::new("layer-1").unwrap();
    let Outcome::Ingest(put) = done(&mut world, vec![Change::PutIngest(ingest("layer-1"))]) else { panic!() };
    assert_eq!((put.started_at, put.updated_at), (Timestamp(1), Timestamp(1)));
    let Outcome::Ingest(put) = done(&mut world, vec![Change::PutIngest(ingest("layer-1"))]) else { panic!() };
    assert_eq!((put.started_at, put.updated_at), (Timestamp(1), Timestamp(2)));
    refused(
        &mut world,
        vec![
            (Change::DeleteIngest(IngestRef::new("zz").unwrap()), "reference zz: not found"),
            (Change::PutIngest(IngestRow { labels: too_long(), ..ingest("x") }), &format!("info.Labels: {TOO_LONG}")),
        ],
    );
    assert!(world.store.read().unwrap().ingest(&ns(), &reference).unwrap().is_some());
    done(&mut world, vec![Change::DeleteIngest(reference.clone())]);
    assert!(world.store.read().unwrap().ingest(&ns(), &reference).unwrap().is_none());
}

fn resource(kind: &str, id: &str) -> LeaseResource {
    LeaseResource { kind: kind.to_owned(), id: id.to_owned() }
}

fn leased(world: &World) -> Vec<(String, String)> {
    let reader = world.store.read().unwrap();
    let all = reader.lease_resources(&ns(), &lease_id("l")).unwrap();
    all.map(|resource| resource.map(|r| (r.kind, r.id)).unwrap()).collect()
}

#[test]
fn leases_and_their_resources() {
    let mut world = World::new();
    let create = |id: Option<&str>, labels: Labels| Change::CreateLease(CreateLease { id: id.map(lease_id), labels });
    let add =
        |id: &str, resource: LeaseResource| Change::AddLeaseResource(AddLeaseResource { id: lease_id(id), resource });
    let take = |id: &str, resource: LeaseResource| {
        Change::DeleteLeaseResource(DeleteLeaseResource { id: lease_id(id), resource })
    };
    let Outcome::Lease(made) = done(&mut world, vec![create(Some("l"), labels(&[("a", "1")]))]) else { panic!() };
    assert_eq!((made.created_at, made.labels), (Timestamp(1), labels(&[("a", "1")])));
    for (kind, id) in [("images", "i"), ("ingests", "r"), ("snapshots/overlayfs", "s"), ("ingests", "r")] {
        done(&mut world, vec![add("l", resource(kind, id))]);
    }
    done(
        &mut world,
        vec![add("l", blob_resource(1)), create(Some("m"), Labels::new()), add("m", resource("images", "i"))],
    );
    assert_eq!(leased(&world).len(), 4);
    let holders = world.store.read().unwrap().leases_of(&ns(), &resource("images", "i")).unwrap();
    assert_eq!(holders, [lease_id("l"), lease_id("m")]);
    done(&mut world, vec![take("l", resource("ingests", "r")), take("l", resource("ingests", "never there"))]);
    refused(
        &mut world,
        vec![
            (create(Some("l"), Labels::new()), "lease \"l\": already exists"),
            (create(None, Labels::new()), "lease id must be provided: invalid argument"),
            (create(Some("n"), too_long()), &format!("lease.Labels: {TOO_LONG}")),
            (Change::DeleteLease(lease_id("zz")), "lease \"zz\": not found"),
            (add("zz", blob_resource(1)), "lease \"zz\": not found"),
            (take("zz", blob_resource(1)), "lease \"zz\": not found"),
            (add("l", resource("snapshots", "x")), "invalid snapshot resource type snapshots: invalid argument"),
            (add("l", resource("content/x", "x")), "invalid resource type content/x: invalid argument"),
            (add("l", resource("volumes", "x")), "resource type volumes not supported yet: not implemented"),
            (
                add("l", resource("content", "nothing")),
                "invalid content resource id nothing: digest \"nothing\" must be algorithm:hex: invalid argument",
            ),
            (add("l", resource("images", "")), "invalid resource id \"\" of type images: invalid argument"),
            (add("l", resource("images", "a\0b")), "invalid resource id \"a\\0b\" of type images: invalid argument"),
        ],
    );
    done(&mut world, vec![Change::DeleteLease(lease_id("l"))]);
    assert_eq!(leased(&world), []);
    assert_eq!(world.store.read().unwrap().leases_of(&ns(), &resource("images", "i")).unwrap(), [lease_id("m")]);
}

#[test]
fn a_commits_lease_gets_what_the_commit_makes() {
    let mut world = World::new();
    let with = |change: Change| Commit::one(&ns(), change).leased(Some(lease_id("l")));
    let missing = world.commit(with(create_content(1))).unwrap_err();
    assert_eq!(missing.to_string(), "lease \"l\": not found");
    assert_eq!(world.store.read().unwrap().last_seq().unwrap().0, 0);

    done(&mut world, vec![Change::CreateLease(CreateLease { id: Some(lease_id("l")), labels: Labels::new() })]);
    done(
        &mut world,
        vec![create_content(2), Change::PrepareSnapshot(active("old", None, 1)), commit_snapshot("old", "base", None)],
    );
    // What is there already is leased too, although the answer is a refusal.
    let shared = NewSnapshot { labels: labels(&[(SNAPSHOT_REF_LABEL, "base")]), ..active("new", None, 2) };
    for (change, text) in [
        (create_content(2), format!("content {}: already exists", digest(2))),
        (Change::PrepareSnapshot(shared), "target snapshot \"base\": already exists".to_owned()),
    ] {
        // Nothing else of that commit is done.
        let commit = Commit { changes: vec![Change::CreateImage(image("no", &[])), change], ..with(create_content(9)) };
        assert_eq!(world.commit(commit).unwrap_err().to_string(), text);
    }
    let kinds = |kind: &str, id: &str| (kind.to_owned(), id.to_owned());
    let two = digest(2).to_string();
    assert_eq!(leased(&world), [kinds("content", &two), kinds("snapshots/overlayfs", "base")]);
    assert!(world.store.read().unwrap().image(&ns(), &ImageName::new("no").unwrap()).unwrap().is_none());
    audit(&world.store.read().unwrap());

    // An ingest becomes content, an active snapshot a committed one: the lease follows.
    world.commit(with(Change::PutIngest(ingest("r")))).unwrap();
    world.commit(with(Change::PrepareSnapshot(active("x", Some("base"), 3)))).unwrap();
    assert_eq!(leased(&world).len(), 4);
    world.commit(with(create_content(4)).change(Change::DeleteIngest(IngestRef::new("r").unwrap()))).unwrap();
    world.commit(with(commit_snapshot("x", "layer", None))).unwrap();
    assert_eq!(
        leased(&world),
        [
            kinds("content", &two),
            kinds("content", digest(4).as_str()),
            kinds("snapshots/overlayfs", "base"),
            kinds("snapshots/overlayfs", "layer")
        ]
    );
    world.commit(with(Change::DeleteContent(digest(4))).change(remove_snapshot("layer"))).unwrap();
    assert_eq!(leased(&world).len(), 2);
    audit(&world.store.read().unwrap());
}
