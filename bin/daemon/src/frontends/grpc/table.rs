//! The RPCs of the wire and the calls they become. Nothing runs by it: it is what a reader wants to know first, and a
//! test holds it against the descriptors, the vocabulary and the services that are served.

/// `service / method => calls`, services by the name below `containerd.services`.
const TABLE: &[(&str, &str, &[&str])] = &[
    ("containers.v1.Containers", "Get", &["containers.get"]),
    ("containers.v1.Containers", "List", &["containers.list"]),
    ("containers.v1.Containers", "ListStream", &["containers.list"]),
    ("containers.v1.Containers", "Create", &["containers.create"]),
    ("containers.v1.Containers", "Update", &["containers.update"]),
    ("containers.v1.Containers", "Delete", &["containers.delete"]),
    ("content.v1.Content", "Info", &["content.get"]),
    ("content.v1.Content", "Update", &["content.update"]),
    ("content.v1.Content", "List", &["content.list"]),
    ("content.v1.Content", "Delete", &["content.delete"]),
    ("content.v1.Content", "Read", &["content.read"]),
    ("content.v1.Content", "Status", &["content.ingest"]),
    ("content.v1.Content", "ListStatuses", &["content.ingests"]),
    // A conversation with the ingest's writer, of which the call is the short form.
    ("content.v1.Content", "Write", &["content.write", "content.ingest", "content.get", "content.abort"]),
    ("content.v1.Content", "Abort", &["content.abort"]),
    ("diff.v1.Diff", "Apply", &["diff.apply"]),
    ("diff.v1.Diff", "Diff", &["diff.make"]),
    ("events.v1.Events", "Publish", &["events.publish"]),
    ("events.v1.Events", "Forward", &["events.publish"]),
    ("events.v1.Events", "Subscribe", &["events.watch"]),
    ("images.v1.Images", "Get", &["images.get"]),
    ("images.v1.Images", "List", &["images.list"]),
    ("images.v1.Images", "Create", &["images.create"]),
    ("images.v1.Images", "Update", &["images.update"]),
    ("images.v1.Images", "Delete", &["images.delete"]),
    ("introspection.v1.Introspection", "Plugins", &["system.plugins"]),
    ("introspection.v1.Introspection", "Server", &["system.info"]),
    ("introspection.v1.Introspection", "PluginInfo", &["system.plugins"]),
    ("leases.v1.Leases", "Create", &["leases.create"]),
    ("leases.v1.Leases", "Delete", &["leases.delete"]),
    ("leases.v1.Leases", "List", &["leases.list"]),
    ("leases.v1.Leases", "AddResource", &["leases.add"]),
    ("leases.v1.Leases", "DeleteResource", &["leases.remove"]),
    ("leases.v1.Leases", "ListResources", &["leases.resources"]),
    ("namespaces.v1.Namespaces", "Get", &["namespaces.get"]),
    ("namespaces.v1.Namespaces", "List", &["namespaces.list"]),
    ("namespaces.v1.Namespaces", "Create", &["namespaces.create"]),
    ("namespaces.v1.Namespaces", "Update", &["namespaces.update"]),
    ("namespaces.v1.Namespaces", "Delete", &["namespaces.delete"]),
    ("snapshots.v1.Snapshots", "Prepare", &["snapshots.prepare"]),
    ("snapshots.v1.Snapshots", "View", &["snapshots.view"]),
    ("snapshots.v1.Snapshots", "Mounts", &["snapshots.mounts"]),
    ("snapshots.v1.Snapshots", "Commit", &["snapshots.commit"]),
    ("snapshots.v1.Snapshots", "Remove", &["snapshots.remove"]),
    ("snapshots.v1.Snapshots", "Stat", &["snapshots.stat"]),
    ("snapshots.v1.Snapshots", "Update", &["snapshots.update"]),
    ("snapshots.v1.Snapshots", "List", &["snapshots.list"]),
    ("snapshots.v1.Snapshots", "Usage", &["snapshots.usage"]),
    ("snapshots.v1.Snapshots", "Cleanup", &["snapshots.cleanup"]),
    ("tasks.v1.Tasks", "Create", &["tasks.create"]),
    ("tasks.v1.Tasks", "Start", &["tasks.start"]),
    ("tasks.v1.Tasks", "Delete", &["tasks.delete"]),
    ("tasks.v1.Tasks", "DeleteProcess", &["tasks.delete"]),
    ("tasks.v1.Tasks", "Get", &["tasks.get"]),
    ("tasks.v1.Tasks", "List", &["tasks.list"]),
    ("tasks.v1.Tasks", "Kill", &["tasks.kill"]),
    ("tasks.v1.Tasks", "Exec", &["tasks.exec"]),
    ("tasks.v1.Tasks", "ResizePty", &["tasks.resize"]),
    ("tasks.v1.Tasks", "CloseIO", &["tasks.closeio"]),
    ("tasks.v1.Tasks", "Pause", &["tasks.pause"]),
    ("tasks.v1.Tasks", "Resume", &["tasks.resume"]),
    ("tasks.v1.Tasks", "ListPids", &["tasks.pids"]),
    ("tasks.v1.Tasks", "Checkpoint", &["tasks.checkpoint"]),
    ("tasks.v1.Tasks", "Update", &["tasks.update"]),
    ("tasks.v1.Tasks", "Metrics", &["tasks.metrics"]),
    ("tasks.v1.Tasks", "Wait", &["tasks.wait"]),
    ("version.v1.Version", "Version", &["system.info"]),
    // Answered by the front end itself: whoever answers is well.
    ("grpc.health.v1.Health", "Check", &[]),
    ("grpc.health.v1.Health", "Watch", &[]),
];

#[test]
fn every_rpc_of_the_wire_has_its_row() {
    use prost::Message;
    use prost_types::FileDescriptorSet;
    use std::collections::BTreeSet;
    use wharf_messages::call::CALLS;

    let short = |name: &str| name.trim_start_matches("containerd.services.").to_owned();
    let set = FileDescriptorSet::decode(super::proto::DESCRIPTORS).unwrap();
    let mut defined = BTreeSet::new();
    for file in &set.file {
        for service in &file.service {
            let name = short(&format!("{}.{}", file.package(), service.name()));
            defined.extend(service.method.iter().map(|method| (name.clone(), method.name().to_owned())));
        }
    }
    let rows: BTreeSet<_> =
        TABLE.iter().map(|(service, method, _)| ((*service).to_owned(), (*method).to_owned())).collect();
    assert_eq!(rows, defined);
    assert_eq!(rows.len(), TABLE.len(), "a row stands twice");
    let served: BTreeSet<_> = super::SERVED.iter().map(|name| short(name)).collect();
    // Told as a plugin each.
    let plugins: BTreeSet<_> = served
        .iter()
        .map(|name| if name == "grpc.health.v1.Health" { "healthcheck" } else { name.split('.').next().unwrap() })
        .collect();
    assert_eq!(plugins, wharf_actors::serve::SERVICES.iter().copied().collect());
    assert_eq!(served, rows.into_iter().map(|(service, _)| service).collect());
    for (service, method, calls) in TABLE {
        for call in *calls {
            assert!(CALLS.iter().any(|row| row.name == *call), "{service}/{method}: there is no call {call:?}");
        }
    }
}
