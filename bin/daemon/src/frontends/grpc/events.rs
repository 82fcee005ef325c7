//! `containerd.services.events.v1.Events`: containerd's view of the log, from now on and over all namespaces.

use super::{
    api::{Api, Reply, Streamed, context},
    convert::{any_in, mounts, required, time},
    proto::containerd::{
        events as wire,
        services::{
            events::v1::{Envelope, ForwardRequest, PublishRequest, SubscribeRequest, events_server::Events},
            images::v1 as images,
        },
    },
    status::status,
};
use prost::Message;
use std::time::Duration;
use tonic::{Request, Response, async_trait};
use wharf_messages::{
    Namespace, Refusal,
    event::{Delivery, Event, EventRecord, PublishEvent, Seq, Since, WatchEvents},
    task::Stdio,
};

/// A payload under its bare name, as containerd's are.
fn payload(name: &str, message: &impl Message) -> wharf_grpc::Any {
    wharf_grpc::Any { type_url: name.to_owned(), value: message.encode_to_vec().into() }
}

/// The envelope of an event; none for what clients of containerd do not know.
fn envelope(record: EventRecord) -> Option<Envelope> {
    let topic = record.event.topic().to_owned();
    let event = Some(event(record.event)?);
    let namespace = record.namespace.map(String::from).unwrap_or_default();
    Some(Envelope { timestamp: time(record.at), namespace, topic, event })
}

fn event(event: Event) -> Option<wharf_grpc::Any> {
    Some(match event {
        Event::NamespaceCreated { name, labels } => {
            payload("containerd.events.NamespaceCreate", &wire::NamespaceCreate { name: name.into(), labels })
        }
        Event::NamespaceUpdated { name, labels } => {
            payload("containerd.events.NamespaceUpdate", &wire::NamespaceUpdate { name: name.into(), labels })
        }
        Event::NamespaceDeleted { name } => {
            payload("containerd.events.NamespaceDelete", &wire::NamespaceDelete { name: name.into() })
        }
        Event::ImageCreated { name, labels } => {
            payload("containerd.services.images.v1.ImageCreate", &images::ImageCreate { name: name.into(), labels })
        }
        Event::ImageUpdated { name, labels } => {
            payload("containerd.services.images.v1.ImageUpdate", &images::ImageUpdate { name: name.into(), labels })
        }
        Event::ImageDeleted { name } => {
            payload("containerd.services.images.v1.ImageDelete", &images::ImageDelete { name: name.into() })
        }
        Event::ContentDeleted { digest } => {
            payload("containerd.events.ContentDelete", &wire::ContentDelete { digest: digest.into() })
        }
        Event::SnapshotPrepared { snapshotter, key, parent } => payload(
            "containerd.events.SnapshotPrepare",
            &wire::SnapshotPrepare {
                key: key.into(),
                parent: parent.map(String::from).unwrap_or_default(),
                snapshotter: snapshotter.into(),
            },
        ),
        Event::SnapshotCommitted { snapshotter, key, name } => payload(
            "containerd.events.SnapshotCommit",
            &wire::SnapshotCommit { key: key.into(), name: name.into(), snapshotter: snapshotter.into() },
        ),
        Event::SnapshotRemoved { snapshotter, key } => payload(
            "containerd.events.SnapshotRemove",
            &wire::SnapshotRemove { key: key.into(), snapshotter: snapshotter.into() },
        ),
        Event::ContainerCreated { id, image, runtime } => payload(
            "containerd.events.ContainerCreate",
            &wire::ContainerCreate {
                id: id.into(),
                image,
                runtime: Some(wire::container_create::Runtime {
                    name: runtime.name,
                    options: runtime.options.map(super::convert::any),
                }),
            },
        ),
        Event::ContainerUpdated { id, image, labels, snapshot_key } => payload(
            "containerd.events.ContainerUpdate",
            &wire::ContainerUpdate {
                id: id.into(),
                image,
                labels,
                snapshot_key: snapshot_key.map(String::from).unwrap_or_default(),
            },
        ),
        Event::ContainerDeleted { id } => {
            payload("containerd.events.ContainerDelete", &wire::ContainerDelete { id: id.into() })
        }
        Event::TaskCreated { container_id, bundle, rootfs, stdio, checkpoint, pid } => {
            let Stdio { stdin, stdout, stderr, terminal } = stdio;
            payload(
                "containerd.events.TaskCreate",
                &wire::TaskCreate {
                    container_id: container_id.into(),
                    bundle,
                    rootfs: mounts(rootfs),
                    io: Some(wire::TaskIo { stdin, stdout, stderr, terminal }),
                    checkpoint,
                    pid,
                },
            )
        }
        Event::TaskStarted { container_id, pid } => {
            payload("containerd.events.TaskStart", &wire::TaskStart { container_id: container_id.into(), pid })
        }
        Event::TaskExited { container_id, exec_id, pid, exit } => payload(
            "containerd.events.TaskExit",
            &wire::TaskExit {
                id: exec_id.map_or_else(|| container_id.to_string(), String::from),
                container_id: container_id.into(),
                pid,
                exit_status: exit.code,
                exited_at: time(exit.exited_at),
            },
        ),
        // containerd tells of the task's deletion alone, and clients take any for that.
        Event::TaskDeleted { exec_id: Some(_), .. } => return None,
        Event::TaskDeleted { container_id, exec_id: None, pid, exit } => payload(
            "containerd.events.TaskDelete",
            &wire::TaskDelete {
                id: String::new(),
                container_id: container_id.into(),
                pid,
                exit_status: exit.code,
                exited_at: time(exit.exited_at),
            },
        ),
        Event::TaskOomKilled { container_id } => {
            payload("containerd.events.TaskOOM", &wire::TaskOom { container_id: container_id.into() })
        }
        Event::TaskExecAdded { container_id, exec_id } => payload(
            "containerd.events.TaskExecAdded",
            &wire::TaskExecAdded { container_id: container_id.into(), exec_id: exec_id.into() },
        ),
        Event::TaskExecStarted { container_id, exec_id, pid } => payload(
            "containerd.events.TaskExecStarted",
            &wire::TaskExecStarted { container_id: container_id.into(), exec_id: exec_id.into(), pid },
        ),
        Event::TaskPaused { container_id } => {
            payload("containerd.events.TaskPaused", &wire::TaskPaused { container_id: container_id.into() })
        }
        Event::TaskResumed { container_id } => {
            payload("containerd.events.TaskResumed", &wire::TaskResumed { container_id: container_id.into() })
        }
        Event::TaskCheckpointed { container_id, checkpoint } => payload(
            "containerd.events.TaskCheckpointed",
            &wire::TaskCheckpointed { container_id: container_id.into(), checkpoint },
        ),
        Event::Published { payload, .. } => super::convert::any(payload),
        // Clients of 1.6 complain of a payload that they cannot decode.
        Event::ContentCreated { .. }
        | Event::LeaseCreated { .. }
        | Event::LeaseDeleted { .. }
        | Event::ChildRestarted { .. }
        | Event::ImagePulled { .. }
        | Event::RestartScheduled { .. }
        | Event::RestartGivenUp { .. }
        | Event::HealthChanged { .. } => return None,
    })
}

/// How long after its start the daemon counts with clients of its life before that have not come back yet. Theirs wait at
/// most 3 s between attempts to connect; containerd's shims repeat what nobody took for 15 s.
const COMING_BACK: Duration = Duration::from_secs(60);

impl Api {
    /// Where a subscription begins: now. But a client whose subscription ended with the daemon before is told what has
    /// come to light since this one started: containers that ended while there was nobody to see it.
    fn since(&self) -> Since {
        let wharf = &self.wharf;
        let lately = wharf.clock.now().since(wharf.started_at) < COMING_BACK;
        // A new root has had no clients.
        if lately && wharf.started_after > Seq(0) { Since::Seq(wharf.started_after) } else { Since::Now }
    }
}

#[async_trait]
impl Events for Api {
    async fn publish(&self, request: Request<PublishRequest>) -> Reply<()> {
        self.unary(
            request,
            |wire| Ok(PublishEvent { topic: wire.topic, payload: any_in(required("event", wire.event)?) }),
            |_| (),
        )
        .await
    }

    async fn forward(&self, request: Request<ForwardRequest>) -> Reply<()> {
        let forward = async {
            let mut meta = context(request.metadata(), request.extensions())?;
            let envelope = required("envelope", request.into_inner().envelope)?;
            meta.namespace = Some(Namespace::new(envelope.namespace)?);
            required("timestamp", envelope.timestamp)?;
            let payload = any_in(required("event", envelope.event)?);
            self.call(meta, PublishEvent { topic: envelope.topic, payload }).await
        };
        let forwarded: Result<_, Refusal> = forward.await;
        forwarded.map(|_| Response::new(())).map_err(|refusal| status(&refusal))
    }

    type SubscribeStream = Streamed<Envelope>;

    async fn subscribe(&self, request: Request<SubscribeRequest>) -> Reply<Self::SubscribeStream> {
        self.items(
            request,
            |wire| {
                Ok(WatchEvents { since: self.since(), until: None, follow: true, filters: wire.filters, cursor: None })
            },
            |deliveries| {
                deliveries.into_iter().filter_map(|delivery| match delivery {
                    Delivery::Event(record) => envelope(*record),
                    // containerd has no word for these.
                    Delivery::Subscribed { .. } | Delivery::Gap(..) | Delivery::Behind(_) => None,
                })
            },
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use wharf_messages::{ContainerId, ExecId, Timestamp, task::Exit};

    #[test]
    fn only_the_deletion_of_a_task_is_told_as_one() {
        let deleted = |exec: Option<&str>| Event::TaskDeleted {
            container_id: ContainerId::new("web").unwrap(),
            exec_id: exec.map(|id| ExecId::new(id).unwrap()),
            pid: 7,
            exit: Exit { code: 3, exited_at: Timestamp::ZERO, oom: false },
        };
        assert_eq!(event(deleted(Some("shell"))), None);
        let told = event(deleted(None)).unwrap();
        assert_eq!(told.type_url, "containerd.events.TaskDelete");
        let told = wire::TaskDelete::decode(&told.value[..]).unwrap();
        assert_eq!((told.container_id.as_str(), told.id.as_str(), told.exit_status), ("web", "", 3));
    }
}
