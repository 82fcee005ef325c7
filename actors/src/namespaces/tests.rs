//! Namespaces and leases through messages.

use crate::testing::{meta, whole::run_whole};
use wharf_messages::{
    Labels, LeaseId, Meta, Namespace, RefusalKind, SnapshotKey, SnapshotterName,
    event::Event,
    lease::{
        AddLeaseResource, CreateLease, DeleteLease, DeleteLeaseResource, LeaseResource, ListLeaseResources, ListLeases,
    },
    namespace::{CreateNamespace, DEFAULT_SNAPSHOTTER_LABEL, DeleteNamespace, GetNamespace, UpdateNamespace},
    snapshot::{PrepareSnapshot, StatSnapshot},
};

fn labels(key: &str, value: &str) -> Labels {
    Labels::from([(key.to_owned(), value.to_owned())])
}

#[test]
fn a_namespace_is_made_changed_and_deleted_when_it_is_empty() {
    run_whole(async |whole| {
        let name = Namespace::new("team").unwrap();
        let inside = Meta::in_namespace(name.clone());
        let create = CreateNamespace { name: name.clone(), labels: labels("a", "1") };
        whole.call(Meta::default(), create.clone()).await.unwrap();
        let refusal = whole.call(Meta::default(), create).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::AlreadyExists);
        let labels = labels(DEFAULT_SNAPSHOTTER_LABEL, "native");
        let mask = vec![format!("labels.{DEFAULT_SNAPSHOTTER_LABEL}")];
        let update = UpdateNamespace { name: name.clone(), labels, mask };
        assert_eq!(whole.call(Meta::default(), update).await.unwrap().labels.len(), 2);

        // Its label names the snapshotter of those who name none.
        let key = SnapshotKey::new("a").unwrap();
        let prepare = PrepareSnapshot { snapshotter: None, key: key.clone(), parent: None, labels: Labels::new() };
        whole.call(inside.clone(), prepare).await.unwrap();
        let native = Some(SnapshotterName::new("native").unwrap());
        whole.call(inside, StatSnapshot { snapshotter: native, key }).await.unwrap();
        let delete = DeleteNamespace { name: name.clone() };
        let refusal = whole.call(Meta::default(), delete).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::FailedPrecondition);
        assert!(refusal.detail.contains("snapshot"), "{refusal}");

        let empty = Namespace::new("empty").unwrap();
        let create = CreateNamespace { name: empty.clone(), labels: Labels::new() };
        whole.call(Meta::default(), create).await.unwrap();
        whole.call(Meta::default(), DeleteNamespace { name: empty.clone() }).await.unwrap();
        let refusal = whole.call(Meta::default(), DeleteNamespace { name: empty.clone() }).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::NotFound);
        assert!(matches!(whole.world.events().last(), Some(Event::NamespaceDeleted { name }) if *name == empty));
        // One that is not there is one without labels.
        assert!(whole.call(Meta::default(), GetNamespace { name: empty }).await.unwrap().labels.is_empty());
    });
}

#[test]
fn a_lease_gets_a_name_and_holds_what_it_is_told_to() {
    run_whole(async |whole| {
        let refusal = whole.call(Meta::default(), CreateLease { id: None, labels: Labels::new() }).await.unwrap_err();
        assert_eq!(refusal.kind, RefusalKind::FailedPrecondition);
        let lease = whole.call(meta(), CreateLease { id: None, labels: labels("a", "1") }).await.unwrap();
        let other = whole.call(meta(), CreateLease { id: None, labels: Labels::new() }).await.unwrap();
        assert_ne!(lease.id, other.id);
        let resource = LeaseResource { kind: "images".to_owned(), id: "app".to_owned() };
        let add = |id: &LeaseId| AddLeaseResource { id: id.clone(), resource: resource.clone() };
        for _ in 0..2 {
            whole.call(meta(), add(&lease.id)).await.unwrap();
        }
        let list = ListLeaseResources { id: lease.id.clone() };
        assert_eq!(whole.call(meta(), list.clone()).await.unwrap().len(), 1);
        let nobody = LeaseId::new("nobody").unwrap();
        assert_eq!(whole.call(meta(), add(&nobody)).await.unwrap_err().kind, RefusalKind::NotFound);
        let remove = DeleteLeaseResource { id: lease.id.clone(), resource: resource.clone() };
        for _ in 0..2 {
            whole.call(meta(), remove.clone()).await.unwrap();
        }
        assert!(whole.call(meta(), list).await.unwrap().is_empty());
        let delete = DeleteLease { id: lease.id, sync: true };
        whole.call(meta(), delete.clone()).await.unwrap();
        assert_eq!(whole.call(meta(), delete).await.unwrap_err().kind, RefusalKind::NotFound);
        assert_eq!(whole.call(meta(), ListLeases::default()).await.unwrap().len(), 1);
    });
}
