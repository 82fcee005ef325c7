//! The daemon as a whole: its health, what it says of itself, lists that stream, and events that cannot be.

use crate::{
    client::{Daemon, compare, labels, origin, within},
    proto::{
        containerd::services::{
            containers::v1::{Container, CreateContainerRequest, ListContainersRequest, container::Runtime},
            events::v1::{PublishRequest, SubscribeRequest},
            introspection::v1::{PluginInfoRequest, PluginsRequest, introspection_client::IntrospectionClient},
        },
        grpc::health::v1::{HealthCheckRequest, health_client::HealthClient},
    },
};
use std::{fs, os::unix::fs::MetadataExt, time::Duration};
use tokio::time::timeout;
use tonic::{Code, Request, Status, Streaming};

/// The first message of a stream, or how it ended without one.
async fn first<T>(opened: Result<tonic::Response<Streaming<T>>, Status>) -> Result<T, Status> {
    let next = opened?.into_inner().message().await?;
    next.ok_or_else(|| Status::new(Code::Unknown, "the stream ended"))
}

#[tokio::test]
async fn health() {
    compare(&[], async |daemon, answers| {
        let mut client = HealthClient::with_origin(daemon.connect().await, origin());
        for (service, code) in [("", Code::Ok), ("nosuch", Code::NotFound)] {
            let request = || HealthCheckRequest { service: service.to_owned() };
            let checked = client.check(request()).await;
            answers.note(&format!("check {service:?}"), code, checked, |answer| answer.into_inner().status.to_string());
            // A watch of what is not known is told so, and goes on.
            let watched = first(client.watch(request()).await).await;
            answers.note(&format!("watch {service:?}"), Code::Ok, watched, |answer| answer.status.to_string());
        }
    })
    .await;
}

#[tokio::test]
async fn what_the_daemon_says_of_itself() {
    let mut daemon = Daemon::start();
    let client = async |daemon: &Daemon| IntrospectionClient::with_origin(daemon.connect().await, origin());
    let before = client(&daemon).await.server(()).await.unwrap().into_inner();
    assert_eq!(before.pid, u64::try_from(daemon.pid()).unwrap());
    assert_eq!(before.pidns, fs::metadata("/proc/self/ns/pid").unwrap().ino());
    assert!(!before.uuid.is_empty());
    daemon.restart();
    let mut client = client(&daemon).await;
    let after = client.server(()).await.unwrap().into_inner();
    assert_eq!(after.uuid, before.uuid, "it is the root's");
    assert_eq!(after.pid, u64::try_from(daemon.pid()).unwrap());
    let plugins = client.plugins(PluginsRequest::default()).await.unwrap().into_inner().plugins;
    assert!(plugins.len() > 10, "{plugins:?}");
    let ask =
        |r#type: &str, id: &str| PluginInfoRequest { r#type: r#type.to_owned(), id: id.to_owned(), options: None };
    for plugin in &plugins {
        let found = client.plugin_info(ask(&plugin.r#type, &plugin.id)).await.unwrap().into_inner();
        assert_eq!(found.plugin.as_ref(), Some(plugin));
    }
    let refused = client.plugin_info(ask("io.containerd.snapshotter.v1", "nosuch")).await.unwrap_err();
    assert_eq!(refused.code(), Code::NotFound);
    assert!(refused.message().contains("io.containerd.snapshotter.v1.nosuch"), "{}", refused.message());
}

#[tokio::test]
async fn a_list_of_containers_that_streams() {
    let known = [("list \"labels.k=\"", "containerd says the suffix twice")];
    compare(&known, async |daemon, answers| {
        let mut client = daemon.containers().await;
        for (id, label) in [("a", "k=1"), ("b", "k=2"), ("c", "k=1")] {
            let runtime = Some(Runtime { name: "io.containerd.runc.v2".to_owned(), options: None });
            let spec = Some(wharf_grpc::Any { type_url: "spec".to_owned(), value: b"{}".to_vec().into() });
            let container =
                Some(Container { id: id.to_owned(), labels: labels(&[label]), runtime, spec, ..Default::default() });
            client.create(within("n", CreateContainerRequest { container })).await.unwrap();
        }
        for (filter, code) in
            [("", Code::Ok), ("labels.k==1", Code::Ok), ("id==nosuch", Code::Ok), ("labels.k=", Code::InvalidArgument)]
        {
            let filters = if filter.is_empty() { Vec::new() } else { vec![filter.to_owned()] };
            let listed = async {
                let mut stream = client.list_stream(within("n", ListContainersRequest { filters })).await?.into_inner();
                let mut ids = Vec::new();
                while let Some(message) = stream.message().await? {
                    ids.extend(message.container.map(|container| container.id));
                }
                Ok(ids.join(","))
            };
            answers.note(&format!("list {filter:?}"), code, listed.await, |ids| ids);
        }
    })
    .await;
}

#[tokio::test]
async fn events_that_cannot_be() {
    let rule = "ours says what a topic is made of";
    let known = [
        ("publish to \"/a/\"", rule),
        ("publish to \"/a//b\"", rule),
        ("publish to \"/a b\"", rule),
        ("publish without a namespace", "containerd says before it what failed"),
    ];
    compare(&known, async |daemon, answers| {
        let mut client = daemon.events().await;
        let event = || Some(wharf_grpc::Any { type_url: "test".to_owned(), value: Vec::new().into() });
        for topic in ["/a/b", "", "a", "/", "/a/", "/a//b", "/a b"] {
            let code = if topic == "/a/b" { Code::Ok } else { Code::InvalidArgument };
            let request = within("n", PublishRequest { topic: topic.to_owned(), event: event() });
            answers.done(&format!("publish to {topic:?}"), code, client.publish(request).await);
        }
        let nowhere = Request::new(PublishRequest { topic: "/a".to_owned(), event: event() });
        answers.done("publish without a namespace", Code::FailedPrecondition, client.publish(nowhere).await);
    })
    .await;
}

#[tokio::test]
async fn a_subscription_by_a_filter_that_cannot_be_is_refused() {
    let daemon = Daemon::start();
    let subscribed = daemon.events().await.subscribe(SubscribeRequest { filters: vec!["topic=".to_owned()] }).await;
    let told = timeout(Duration::from_secs(10), first(subscribed)).await.expect("it does not wait for an event");
    let refused = told.unwrap_err();
    // containerd has the same words behind others, and no code.
    assert_eq!(refused.code(), Code::InvalidArgument);
    assert!(refused.message().contains("unsupported operator"), "{}", refused.message());
}
