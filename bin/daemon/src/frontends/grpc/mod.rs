//! The gRPC front end: containerd's API. It only translates, one file a service, and keeps nothing beyond a connection.
//!
//! An RPC becomes the call of the vocabulary that `table.rs` says, by the same trait that the native front end uses. Bounds,
//! so that a client harms only itself:
//! - streams open on a connection, and the size of their headers and messages;
//! - the time until the whole preface is there: then the connection is closed;
//! - the time until a ping is answered: a client that hangs does not hold its connection for ever.
//!
//! A stream that the client drops drops its call, which cancels it.
//!
//! # Spec
//! containerd 1.6 `api/services`, with what later releases have added to these messages; API reference, section 3.

mod api;
mod begun;
mod containers;
mod content;
mod cork;
mod diff;
mod events;
mod health;
mod images;
mod inline;
mod introspection;
mod leases;
mod lent;
mod namespaces;
mod snapshots;
#[cfg(test)]
mod table;
mod tasks;
mod version;
mod write;

pub use api::Api;

use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use inline::{Inline, Streams};
use proto::{
    containerd::services::{
        containers::v1::containers_server::{self, ContainersServer},
        content::v1::content_server::{self, ContentServer},
        diff::v1::diff_server::{self, DiffServer},
        events::v1::events_server::{self, EventsServer},
        images::v1::images_server::{self, ImagesServer},
        introspection::v1::introspection_server::{self, IntrospectionServer},
        leases::v1::leases_server::{self, LeasesServer},
        namespaces::v1::namespaces_server::{self, NamespacesServer},
        snapshots::v1::snapshots_server::{self, SnapshotsServer},
        tasks::v1::tasks_server::{self, TasksServer},
        version::v1::version_server::{self, VersionServer},
    },
    grpc::health::v1::health_server::{self, HealthServer},
};
use std::{convert::Infallible, error::Error, io, time::Duration};
use tokio::{net::UnixStream, time::timeout};
use tokio_util::sync::CancellationToken;
use tonic::{
    Status,
    body::Body,
    codegen::{BoxFuture, Service, http},
};
use wharf_grpc::{self as proto, convert, status};
use wharf_messages::meta::Peer;

/// The largest message, each way: what containerd's clients are set to.
const MESSAGE_MAX_BYTES: usize = 16 << 20;
/// The largest set of headers.
const HEADERS_MAX_BYTES: u32 = 16 << 10;
/// How long a connection may be silent before its client is asked whether it is there.
const PING_INTERVAL: Duration = Duration::from_secs(120);
/// How long the client has to say so.
const PING_TIMEOUT: Duration = Duration::from_secs(60);
/// Bytes of a stream that may be on their way to a call: a message of a blob's bytes, so that it does not wait halfway.
const STREAM_WINDOW_BYTES: u32 = 1 << 20;
/// Bytes of all streams of a connection.
const CONNECTION_WINDOW_BYTES: u32 = 4 << 20;
/// How long commands in flight may take to be answered when the daemon stops.
const STOP_GRACE: Duration = Duration::from_secs(3);

/// Serves a connection, whose preface is there, to its end.
///
/// # Errors
/// How the peer broke the protocol; what the event loop says.
pub async fn serve(
    api: Api,
    streams_max: u32,
    stream: UnixStream,
    peer: Peer,
    stopping: CancellationToken,
) -> Result<(), String> {
    let service = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(peer);
        let answer = route(&api, request);
        async move { Ok::<_, Infallible>(begun::begin(answer.await?).await) }
    });
    let (corked, cork) = cork::cork(stream).map_err(|error| error.to_string())?;
    let streams = Streams::default();
    let connection = http2::Builder::new(streams.clone())
        .timer(TokioTimer::new())
        .max_concurrent_streams(streams_max)
        .max_header_list_size(HEADERS_MAX_BYTES)
        .initial_stream_window_size(STREAM_WINDOW_BYTES)
        .initial_connection_window_size(CONNECTION_WINDOW_BYTES)
        .keep_alive_interval(PING_INTERVAL)
        .keep_alive_timeout(PING_TIMEOUT)
        .serve_connection(TokioIo::new(corked), service);
    let mut serving = Inline::new(connection, streams, cork);
    let end = tokio::select! {
        end = &mut serving => end,
        () = stopping.cancelled() => {
            serving.connection.as_mut().graceful_shutdown();
            // What has not ended by then is left, and dropped with the connection.
            timeout(STOP_GRACE, serving).await.unwrap_or(Ok(()))
        }
    };
    end.or_else(|error| breach(&error).map_or(Ok(()), Err))
}

/// How a connection's end broke the protocol; none for a client that just left, which is how most of them say goodbye.
fn breach(error: &hyper::Error) -> Option<String> {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        if source.is::<io::Error>() {
            return None;
        }
        text = format!("{text}: {source}");
        cause = source.source();
    }
    Some(text)
}

/// The services by name. A name that is none gets the answer that gRPC has for it.
macro_rules! services {
    ($($module:ident: $server:ident;)+) => {
        fn route(
            api: &Api,
            request: http::Request<Incoming>,
        ) -> BoxFuture<http::Response<Body>, Infallible> {
            match request.uri().path().split('/').nth(1).unwrap_or_default() {
                $($module::SERVICE_NAME => $server::new(api.clone())
                    .max_decoding_message_size(MESSAGE_MAX_BYTES)
                    .max_encoding_message_size(MESSAGE_MAX_BYTES)
                    .call(request),)+
                name => {
                    let status = Status::unimplemented(format!("unknown service {}", name.escape_debug()));
                    Box::pin(std::future::ready(Ok(status.into_http())))
                }
            }
        }

        /// The services that are served, for the test of the table.
        #[cfg(test)]
        const SERVED: &[&str] = &[$($module::SERVICE_NAME,)+];
    };
}

services! {
    containers_server: ContainersServer;
    content_server: ContentServer;
    diff_server: DiffServer;
    events_server: EventsServer;
    health_server: HealthServer;
    images_server: ImagesServer;
    introspection_server: IntrospectionServer;
    leases_server: LeasesServer;
    namespaces_server: NamespacesServer;
    snapshots_server: SnapshotsServer;
    tasks_server: TasksServer;
    version_server: VersionServer;
}
