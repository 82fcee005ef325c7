//! `containers`: what tasks are made from.

use crate::{
    commands::{
        checkpoint::{Checkpoint, Restore},
        create::ContainerFlags,
        policy::Plan,
    },
    context::{Context, parse},
    failure::{Failure, Outcome, Several, program},
    labels,
    output::{
        self,
        json::{Object, any, indent},
        table::Table,
        time::rfc3339_nano,
    },
};
use clap::{Args, Subcommand};
use std::io::Write;
use wharf_client::Client;
use wharf_messages::{
    Answer, Any, ContainerId, RefusalKind, Stored,
    container::{Container, DeleteContainer, ListContainers, UpdateContainer},
    health::{GetHealth, HEALTHCHECK_LABEL, HealthRecord},
    restart::{GetRestart, RestartRecord, STATUS_LABEL},
    task::{DeleteTask, GetTask, TaskStatus},
};

/// Manage containers.
#[derive(Debug, Subcommand)]
pub enum Containers {
    /// Make a container from an image or a folder, without running it
    Create(Box<ContainerFlags>),
    /// Delete containers, and tasks of theirs that do not run
    #[command(visible_aliases = ["del", "remove", "rm"])]
    Delete(Delete),
    /// Show all that is known of a container
    Info(Info),
    /// List containers
    #[command(visible_alias = "ls")]
    List(List),
    /// Set labels of a container; an empty value deletes the label
    Label(Label),
    /// Keep a container's state as an image
    Checkpoint(Checkpoint),
    /// Make a container of a checkpoint, and start it
    Restore(Restore),
}

/// Which to delete.
#[derive(Debug, Args)]
pub struct Delete {
    /// Keep the root file system's snapshot
    #[arg(long)]
    keep_snapshot: bool,
    /// Their ids
    #[arg(value_name = "CONTAINER", required = true)]
    containers: Vec<String>,
}

/// Which to show.
#[derive(Debug, Args)]
pub struct Info {
    /// Only its OCI spec
    #[arg(long)]
    spec: bool,
    /// Its id
    #[arg(value_name = "CONTAINER")]
    container: String,
}

/// Which to list, and how.
#[derive(Debug, Args)]
pub struct List {
    /// Print only ids
    #[arg(long, short)]
    quiet: bool,
    /// Only those that pass one of these
    #[arg(value_name = "FILTER")]
    filters: Vec<String>,
}

/// A container and labels.
#[derive(Debug, Args)]
pub struct Label {
    /// Its id
    #[arg(value_name = "CONTAINER")]
    container: String,
    /// KEY alone means KEY=true
    #[arg(value_name = "KEY=VALUE")]
    labels: Vec<String>,
}

impl Containers {
    /// Runs the command.
    ///
    /// # Errors
    /// The daemon's refusal.
    pub async fn run(self, context: &Context) -> Outcome {
        match self {
            Self::Create(flags) => {
                let what = flags.what()?;
                let plan = Plan { started: false, log_uri: None };
                flags.create(&what, plan, context, &context.client().await?).await?;
                Ok(())
            }
            Self::Delete(delete) => delete.run(context).await,
            Self::Info(info) => info.run(context).await,
            Self::List(list) => list.run(context).await,
            Self::Label(label) => label.run(context).await,
            Self::Checkpoint(checkpoint) => checkpoint.run(context).await,
            Self::Restore(restore) => restore.run(context).await,
        }
    }
}

impl Delete {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let mut several = Several::default();
        for text in &self.containers {
            several.note(delete(context, &client, text, !self.keep_snapshot).await);
        }
        several.end()
    }
}

async fn delete(context: &Context, client: &Client, text: &str, with_snapshot: bool) -> Outcome {
    let id: ContainerId = parse(text)?;
    match client.call(GetTask { container_id: id.clone(), exec_id: None }).await {
        Ok(task) if matches!(task.status, TaskStatus::Stopped | TaskStatus::Created) => {
            client.call(DeleteTask { container_id: id.clone(), exec_id: None }).await?;
        }
        Ok(task) => {
            let status = task.status.as_str().to_lowercase();
            return Err(Failure::new(format!("cannot delete a non stopped container: {id} is {status}")));
        }
        Err(refusal) if refusal.is(RefusalKind::NotFound) => {}
        Err(refusal) => return Err(refusal.into()),
    }
    match client.call(DeleteContainer { id: id.clone(), with_snapshot }).await {
        // Says so if another namespace has it.
        Err(refusal) if refusal.is(RefusalKind::NotFound) => context.container(client, &id).await.map(drop),
        other => Ok(other?),
    }
}

impl Info {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let container = context.container(&client, &parse(&self.container)?).await?;
        if self.spec {
            return Ok(output::line(spec_json(&container)?)?);
        }
        let state = if program() == "ctr" { State::default() } else { State::of(&client, &container).await? };
        Ok(output::line(info_json(&container, &state)?)?)
    }
}

fn spec_json(container: &Container) -> Answer<String> {
    match &container.spec {
        Some(spec) => indent(&spec.value, "    "),
        None => Ok("null".to_owned()),
    }
}

/// What a container's policy and its health check have come to.
#[derive(Debug, Default)]
struct State {
    restart: Option<RestartRecord>,
    health: Option<HealthRecord>,
}

impl State {
    async fn of(client: &Client, container: &Container) -> Answer<Self> {
        let mut state = Self::default();
        let container_id = || container.id.clone();
        if container.labels.contains_key(STATUS_LABEL) {
            state.restart = client.call(GetRestart { container_id: container_id() }).await?;
        }
        if container.labels.contains_key(HEALTHCHECK_LABEL) {
            state.health = client.call(GetHealth { container_id: container_id() }).await?;
        }
        Ok(state)
    }
}

fn restart_json(restart: &RestartRecord) -> String {
    Object::new()
        .string("Phase", restart.phase.as_str())
        .string("Reason", &restart.reason)
        .raw("Restarts", &restart.restarts.to_string())
        .string("DueAt", &rfc3339_nano(restart.due_at))
        .string("Since", &rfc3339_nano(restart.since))
        .finish()
}

fn health_json(health: &HealthRecord) -> String {
    Object::new()
        .string("Status", health.status.as_str())
        .raw("Failing", &health.failing.to_string())
        .string("Since", &rfc3339_nano(health.since))
        .string("LastFailure", &health.last_failure)
        .finish()
}

/// The record as Go's encoder writes containerd's structure: its field names are the JSON's. What wharf knows besides
/// comes last.
fn info_json(container: &Container, state: &State) -> Answer<String> {
    let text = |of: Option<&str>| of.unwrap_or("").to_owned();
    let runtime = Object::new()
        .string("Name", &container.runtime.name)
        .raw("Options", &container.runtime.options.as_ref().map_or("null".to_owned(), any));
    let labels = container.labels.iter().fold(Object::new(), |object, (key, value)| object.string(key, value));
    let extensions = match container.extensions.is_empty() {
        true => "null".to_owned(),
        false => container.extensions.iter().fold(Object::new(), |o, (key, value)| o.raw(key, &any(value))).finish(),
    };
    let object = Object::new()
        .string("ID", container.id.as_str())
        .raw("Labels", &labels.finish())
        .string("Image", &container.image)
        .raw("Runtime", &runtime.finish())
        .string("SnapshotKey", &text(container.snapshot_key.as_ref().map(|key| key.as_str())))
        .string("Snapshotter", &text(container.snapshotter.as_ref().map(|name| name.as_str())))
        .string("CreatedAt", &rfc3339_nano(container.created_at))
        .string("UpdatedAt", &rfc3339_nano(container.updated_at))
        .raw("Extensions", &extensions)
        .raw_if("Spec", container.spec.as_ref().map(spec_value).transpose()?)
        .raw_if("Restart", state.restart.as_ref().map(restart_json))
        .raw_if("Health", state.health.as_ref().map(health_json));
    indent(object.finish().as_bytes(), "    ")
}

fn spec_value(spec: &Any) -> Answer<String> {
    if spec.type_url == Any::SPEC {
        // Proves that it is JSON; what is no spec is shown in its envelope.
        if indent(&spec.value, "").is_ok() {
            return Ok(String::from_utf8_lossy(&spec.value).into_owned());
        }
    }
    Ok(any(spec))
}

impl List {
    async fn run(self, context: &Context) -> Outcome {
        let listed = context.client().await?.call(ListContainers { filters: self.filters }).await?;
        let containers = listed.iter().map(Stored::get).collect::<Answer<Vec<_>>>()?;
        let mut out = output::stdout();
        if self.quiet {
            containers.iter().try_for_each(|container| writeln!(out, "{}", container.id))?;
        } else {
            rows(&containers).write(&mut out)?;
        }
        Ok(out.flush()?)
    }
}

fn rows(containers: &[Container]) -> Table {
    let mut table = Table::wide();
    table.row(["CONTAINER", "IMAGE", "RUNTIME"]);
    for container in containers {
        let image = if container.image.is_empty() { "-" } else { &container.image };
        table.row([container.id.as_str(), image, &container.runtime.name]);
    }
    table
}

impl Label {
    async fn run(self, context: &Context) -> Outcome {
        let client = context.client().await?;
        let change = labels::Change::read(&self.labels);
        let mut container = context.container(&client, &parse(&self.container)?).await?;
        if !change.is_empty() {
            container.labels = change.labels;
            container = client.call(UpdateContainer { container, mask: change.mask }).await?;
        }
        Ok(output::line(output::labels(&container.labels))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use wharf_messages::{
        SnapshotKey, SnapshotterName, Timestamp, container::Runtime, health::HealthStatus, restart::RestartPhase,
    };

    fn container(labels: &[&str]) -> Container {
        let at = Timestamp::from_parts(1_795_469_076, 14_522_253);
        Container {
            id: ContainerId::new("d1").unwrap(),
            labels: labels::read(&labels.iter().map(|label| (*label).to_owned()).collect::<Vec<_>>()),
            image: "docker.io/library/busybox:latest".into(),
            runtime: Runtime { options: Some(Any::new("containerd.runc.v1.Options", [])), ..Runtime::default() },
            spec: Some(Any::new(Any::SPEC, *br#"{"ociVersion":"1.0.2-dev","process":{"user":{"uid":0}}}"#)),
            snapshotter: Some(SnapshotterName::new("overlayfs").unwrap()),
            snapshot_key: Some(SnapshotKey::new("d1").unwrap()),
            created_at: at,
            updated_at: at,
            extensions: BTreeMap::new(),
            sandbox: String::new(),
        }
    }

    #[test]
    fn list_and_info_are_those_of_ctr() {
        let mut out = Vec::new();
        rows(&[container(&[])]).write(&mut out).unwrap();
        assert_eq!(String::from_utf8(out).unwrap(), include_str!("../../tests/golden/containers.txt"));
        let json = info_json(&container(&["a=b", "io.containerd.image.config.stop-signal=SIGTERM"]), &State::default())
            .unwrap();
        assert_eq!(format!("{json}\n"), include_str!("../../tests/golden/container.json"));
    }

    #[test]
    fn info_says_what_policy_and_check_have_come_to() {
        let at = Timestamp::from_parts(1_795_469_076, 0);
        let state = State {
            restart: Some(RestartRecord {
                container_id: ContainerId::new("d1").unwrap(),
                phase: RestartPhase::Waiting,
                restarts: 2,
                due_at: at,
                since: at,
                reason: "it ended with 1".into(),
            }),
            health: Some(HealthRecord {
                container_id: ContainerId::new("d1").unwrap(),
                status: HealthStatus::Unhealthy,
                failing: 3,
                since: at,
                last_failure: "it ended with 7".into(),
            }),
        };
        let json: serde_json::Value = serde_json::from_str(&info_json(&container(&[]), &state).unwrap()).unwrap();
        assert_eq!(json["Restart"]["Phase"], "waiting");
        assert_eq!(
            (&json["Restart"]["Restarts"], &json["Restart"]["DueAt"]),
            (&2.into(), &"2026-11-23T21:24:36Z".into())
        );
        assert_eq!((&json["Health"]["Status"], &json["Health"]["Failing"]), (&"unhealthy".into(), &3.into()));
    }

    #[test]
    fn info_without_labels_or_spec_is_json_too() {
        let bare = Container { spec: None, ..container(&[]) };
        let json: serde_json::Value = serde_json::from_str(&info_json(&bare, &State::default()).unwrap()).unwrap();
        assert_eq!(json["Labels"], serde_json::json!({}));
        assert!(json.get("Spec").is_none());
        assert_eq!(spec_json(&bare).unwrap(), "null");
    }
}
