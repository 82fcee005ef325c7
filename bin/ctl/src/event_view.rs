//! Events as containerd's clients see them: the JSON of containerd's payloads, field for field.
//!
//! Protobuf's rule for JSON holds: empty strings, zeros and absent messages are left out.

use crate::output::{
    json::{Object, any, array, string},
    time::rfc3339_nano,
};
use wharf_messages::{
    Mount,
    event::Event,
    task::{Exit, Stdio},
};

/// The JSON of an event's payload.
///
/// # Spec
/// containerd `api/events/*.proto`; events that only wharf has follow its style.
#[must_use]
pub fn payload(event: &Event) -> String {
    let object = Object::new();
    match event {
        Event::NamespaceCreated { name, labels } | Event::NamespaceUpdated { name, labels } => {
            object.string("name", name.as_str()).map_if("labels", labels)
        }
        Event::NamespaceDeleted { name } => object.string("name", name.as_str()),
        Event::ImageCreated { name, labels } | Event::ImageUpdated { name, labels } => {
            object.string("name", name.as_str()).map_if("labels", labels)
        }
        Event::ImageDeleted { name } => object.string("name", name.as_str()),
        Event::ImagePulled { name, target } => object
            .string("name", name.as_str())
            .string("digest", target.digest.as_str())
            .string("media_type", &target.media_type)
            .number_if("size", target.size_bytes),
        Event::ContentCreated { digest, size_bytes } => {
            object.string("digest", digest.as_str()).number_if("size", *size_bytes)
        }
        Event::ContentDeleted { digest } => object.string("digest", digest.as_str()),
        Event::SnapshotPrepared { snapshotter, key, parent } => object
            .string("key", key.as_str())
            .string_if("parent", parent.as_ref().map_or("", |parent| parent.as_str()))
            .string("snapshotter", snapshotter.as_str()),
        Event::SnapshotCommitted { snapshotter, key, name } => {
            object.string("key", key.as_str()).string("name", name.as_str()).string("snapshotter", snapshotter.as_str())
        }
        Event::SnapshotRemoved { snapshotter, key } => {
            object.string("key", key.as_str()).string("snapshotter", snapshotter.as_str())
        }
        Event::ContainerCreated { id, image, runtime } => {
            let runtime = Object::new()
                .string_if("name", &runtime.name)
                .raw_if("options", runtime.options.as_ref().map(any))
                .finish();
            object.string("id", id.as_str()).string_if("image", image).raw("runtime", &runtime)
        }
        Event::ContainerUpdated { id, image, labels, snapshot_key } => object
            .string("id", id.as_str())
            .string_if("image", image)
            .map_if("labels", labels)
            .string_if("snapshot_key", snapshot_key.as_ref().map_or("", |key| key.as_str())),
        Event::ContainerDeleted { id } => object.string("id", id.as_str()),
        Event::TaskCreated { container_id, bundle, rootfs, stdio: streams, checkpoint, pid } => object
            .string("container_id", container_id.as_str())
            .string_if("bundle", bundle)
            .raw_if("rootfs", (!rootfs.is_empty()).then(|| array(rootfs.iter().map(mount))))
            .raw("io", &stdio(streams))
            .string_if("checkpoint", checkpoint)
            .number_if("pid", u64::from(*pid)),
        Event::TaskStarted { container_id, pid } => {
            object.string("container_id", container_id.as_str()).number_if("pid", u64::from(*pid))
        }
        Event::TaskExited { container_id, exec_id, pid, exit: how } => {
            // containerd calls the first process by its container's name.
            let id = exec_id.as_ref().map_or(container_id.as_str(), |id| id.as_str());
            exit(object.string("container_id", container_id.as_str()).string("id", id), *pid, how)
        }
        Event::TaskDeleted { container_id, exec_id, pid, exit: how } => {
            let id = exec_id.as_ref().map_or("", |id| id.as_str());
            let object = object.string("container_id", container_id.as_str());
            exit(object, *pid, how).string_if("id", id)
        }
        Event::TaskExecAdded { container_id, exec_id } => {
            object.string("container_id", container_id.as_str()).string("exec_id", exec_id.as_str())
        }
        Event::TaskExecStarted { container_id, exec_id, pid } => object
            .string("container_id", container_id.as_str())
            .string("exec_id", exec_id.as_str())
            .number_if("pid", u64::from(*pid)),
        Event::TaskOomKilled { container_id }
        | Event::TaskPaused { container_id }
        | Event::TaskResumed { container_id } => object.string("container_id", container_id.as_str()),
        Event::TaskCheckpointed { container_id, checkpoint } => {
            object.string("container_id", container_id.as_str()).string_if("checkpoint", checkpoint)
        }
        Event::LeaseCreated { id } | Event::LeaseDeleted { id } => object.string("id", id.as_str()),
        Event::ChildRestarted { path, reason, restarts } => {
            object.string("path", path).string_if("reason", reason).number_if("restarts", u64::from(*restarts))
        }
        Event::RestartScheduled { container_id, restarts, due_at, reason } => object
            .string("container_id", container_id.as_str())
            .number_if("restarts", u64::from(*restarts))
            .string("due_at", &rfc3339_nano(*due_at))
            .string_if("reason", reason),
        Event::RestartGivenUp { container_id, restarts, reason } => object
            .string("container_id", container_id.as_str())
            .number_if("restarts", u64::from(*restarts))
            .string_if("reason", reason),
        Event::HealthChanged { container_id, status, failing } => object
            .string("container_id", container_id.as_str())
            .string("status", status.as_str())
            .number_if("failing", u64::from(*failing)),
        Event::Published { payload, .. } => return any(payload),
    }
    .finish()
}

fn exit(object: Object, pid: u32, exit: &Exit) -> Object {
    object
        .number_if("pid", u64::from(pid))
        .number_if("exit_status", u64::from(exit.code))
        .string("exited_at", &rfc3339_nano(exit.exited_at))
}

fn mount(mount: &Mount) -> String {
    Object::new()
        .string_if("type", &mount.kind)
        .string_if("source", &mount.source)
        .string_if("target", &mount.target)
        .raw_if("options", (!mount.options.is_empty()).then(|| array(mount.options.iter().map(|o| string(o)))))
        .finish()
}

fn stdio(stdio: &Stdio) -> String {
    Object::new()
        .string_if("stdin", &stdio.stdin)
        .string_if("stdout", &stdio.stdout)
        .string_if("stderr", &stdio.stderr)
        .flag_if("terminal", stdio.terminal)
        .finish()
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::{Any, ContainerId, ExecId, Timestamp, container::Runtime};

    fn id() -> ContainerId {
        ContainerId::new("d1").unwrap()
    }

    fn how(code: u32) -> Exit {
        Exit { code, exited_at: Timestamp::from_parts(1_795_469_076, 917_888_170), oom: false }
    }

    /// Each line was printed by `ctr events` 1.6.20.
    #[test]
    fn payloads_are_those_of_containerd() {
        let exec = || ExecId::new("e2").unwrap();
        let stdio = Stdio {
            stdin: "/fifo/d1-stdin".into(),
            stdout: "/fifo/d1-stdout".into(),
            stderr: "/fifo/d1-stderr".into(),
            terminal: false,
        };
        let rootfs = vec![Mount {
            kind: "overlay".into(),
            source: "overlay".into(),
            target: String::new(),
            options: vec!["index=off".into(), "lowerdir=/1/fs".into()],
        }];
        let created = Event::ContainerCreated {
            id: id(),
            image: "docker.io/library/busybox:latest".into(),
            runtime: Runtime { options: Some(Any::new("containerd.runc.v1.Options", [])), ..Runtime::default() },
        };
        let lines = [
            (
                created,
                r#"{"id":"d1","image":"docker.io/library/busybox:latest","runtime":{"name":"io.containerd.runc.v2","options":{"type_url":"containerd.runc.v1.Options"}}}"#,
            ),
            (
                Event::TaskCreated {
                    container_id: id(),
                    bundle: "/bundle/d1".into(),
                    rootfs,
                    stdio,
                    checkpoint: String::new(),
                    pid: 22430,
                },
                r#"{"container_id":"d1","bundle":"/bundle/d1","rootfs":[{"type":"overlay","source":"overlay","options":["index=off","lowerdir=/1/fs"]}],"io":{"stdin":"/fifo/d1-stdin","stdout":"/fifo/d1-stdout","stderr":"/fifo/d1-stderr"},"pid":22430}"#,
            ),
            (Event::TaskStarted { container_id: id(), pid: 22430 }, r#"{"container_id":"d1","pid":22430}"#),
            (
                Event::TaskExited { container_id: id(), exec_id: Some(exec()), pid: 22533, exit: how(137) },
                r#"{"container_id":"d1","id":"e2","pid":22533,"exit_status":137,"exited_at":"2026-11-23T21:24:36.91788817Z"}"#,
            ),
            (
                Event::TaskExited { container_id: id(), exec_id: None, pid: 1, exit: how(0) },
                r#"{"container_id":"d1","id":"d1","pid":1,"exited_at":"2026-11-23T21:24:36.91788817Z"}"#,
            ),
            (
                Event::TaskDeleted { container_id: id(), exec_id: None, pid: 22430, exit: how(137) },
                r#"{"container_id":"d1","pid":22430,"exit_status":137,"exited_at":"2026-11-23T21:24:36.91788817Z"}"#,
            ),
            (Event::TaskExecAdded { container_id: id(), exec_id: exec() }, r#"{"container_id":"d1","exec_id":"e2"}"#),
            (Event::TaskPaused { container_id: id() }, r#"{"container_id":"d1"}"#),
            (Event::ContainerDeleted { id: id() }, r#"{"id":"d1"}"#),
        ];
        for (event, json) in lines {
            assert_eq!(payload(&event), json);
        }
    }

    #[test]
    fn a_payload_nobody_knows_is_shown_as_it_came() {
        let event = Event::Published { topic: "/x/y".into(), payload: Any::new("some.Type", [1, 2, 3, 4]) };
        assert_eq!(payload(&event), r#"{"type_url":"some.Type","value":"AQIDBA=="}"#);
    }
}
