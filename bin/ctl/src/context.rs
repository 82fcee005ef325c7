//! What a command runs in: the daemon's address and the namespace, and how to reach objects with good errors.

use crate::cli::Globals;
use crate::failure::{Failure, Outcome};
use std::time::Duration;
use wharf_client::{Client, Dial};
use wharf_messages::{
    Answer, Call, ContainerId, ImageName, Namespace, Refusal, RefusalKind,
    container::{Container, GetContainer},
    image::{GetImage, Image},
    meta::TraceContext,
    namespace::ListNamespaces,
    task::{GetTask, Process},
};

/// What a command runs in.
#[derive(Debug, Clone)]
pub struct Context {
    /// Where the objects named live.
    pub namespace: Namespace,
    /// Whether to show more.
    pub debug: bool,
    socket: String,
    connect_timeout: Duration,
}

impl Context {
    /// The context that flags and environment describe.
    ///
    /// # Errors
    /// For a namespace that cannot be one.
    pub fn new(globals: &Globals) -> Outcome<Self> {
        Ok(Self {
            namespace: globals.namespace()?,
            debug: globals.debug,
            socket: globals.socket(),
            connect_timeout: globals.connect_timeout,
        })
    }

    /// Connects to the daemon, for calls in the namespace.
    ///
    /// # Errors
    /// If it cannot be reached.
    pub async fn client(&self) -> Outcome<Client> {
        let mut dial = Dial::new(&self.socket);
        if !self.connect_timeout.is_zero() {
            dial.timeout = self.connect_timeout;
        }
        // As OpenTelemetry's specification has programs hand their trace to what they run.
        let words = |name: &str| std::env::var(name).ok();
        let trace = TraceContext::new(words("TRACEPARENT").as_deref(), words("TRACESTATE").as_deref());
        Ok(Client::dial(dial).await?.namespace(self.namespace.clone()).traced(trace))
    }

    /// The container of that name.
    ///
    /// # Errors
    /// If there is none; says so if another namespace has one.
    pub async fn container(&self, client: &Client, id: &ContainerId) -> Outcome<Container> {
        let get = || GetContainer { id: id.clone() };
        match client.call(get()).await {
            Ok(container) => Ok(container),
            Err(refusal) => Err(self.elsewhere(client, refusal, get).await),
        }
    }

    /// The image of that name.
    ///
    /// # Errors
    /// If there is none; says so if another namespace has one.
    pub async fn image(&self, client: &Client, name: &ImageName) -> Outcome<Image> {
        let get = || GetImage { name: name.clone() };
        match client.call(get()).await {
            Ok(image) => Ok(image),
            Err(refusal) => Err(self.elsewhere(client, refusal, get).await),
        }
    }

    /// A container's task.
    ///
    /// # Errors
    /// If there is no such container or it has no task.
    pub async fn task(&self, client: &Client, id: &ContainerId) -> Outcome<Process> {
        let get = || GetTask { container_id: id.clone(), exec_id: None };
        match client.call(get()).await {
            Ok(process) => Ok(process),
            // Which of the two is missing is worth a second question, asked only on the way to an error.
            Err(refusal) if refusal.is(RefusalKind::NotFound) => {
                self.container(client, id).await?;
                let missing = Refusal::not_found(format!("no running task found: task {id} not found"));
                Err(missing.into())
            }
            Err(refusal) => Err(refusal.into()),
        }
    }

    /// Adds to "not found" where the object does exist: people forget `-n`.
    pub async fn elsewhere<C: Call>(&self, client: &Client, refusal: Refusal, get: impl Fn() -> C) -> Failure {
        let failure = Failure::from(refusal.clone());
        if !refusal.is(RefusalKind::NotFound) {
            return failure;
        }
        let Ok(namespaces) = client.call(ListNamespaces::default()).await else { return failure };
        let others = namespaces.into_iter().map(|record| record.name).filter(|name| *name != self.namespace);
        for namespace in others.take(64) {
            if client.namespace(namespace.clone()).call(get()).await.is_ok() {
                return Failure::new(format!(
                    "{refusal} (it exists in namespace {:?}: try -n {namespace})",
                    namespace.as_str()
                ));
            }
        }
        failure
    }
}

/// Parses an id or name from the command line.
///
/// # Errors
/// The rule it breaks.
pub fn parse<T: std::str::FromStr<Err = Refusal>>(text: &str) -> Answer<T> {
    text.parse()
}
