//! A part of the tree that has a thread of its own instead of a mailbox: what blocks by nature, such as the journal.
//!
//! The same life as an actor's ([`super::supervisor`]), but a failure goes to the parent at once: nothing short of
//! restarting those who wait for it makes up for the loss of the one writer.

use super::{
    child::ChildSpec,
    group::Group,
    job::panic_message,
    supervisor::{BY_HAND, Notice, Parent},
    tree::{Node, Order, Phase},
};
use std::{
    future::poll_fn,
    io,
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
    task::Poll,
};
use tokio::sync::oneshot;

/// Work that has a thread.
pub(crate) trait ThreadPart: Send + 'static {
    /// Works until the stop was asked for and what waited before is done.
    fn run(&mut self);

    /// Makes good what a failure may have left, before it runs again.
    fn reset(&mut self);
}

/// What comes back from a thread: the part, and the words of its panic if it ended with one.
type Ended<P> = (P, Option<String>);

impl Group {
    /// Makes a place for a part with a thread.
    pub(crate) fn seat_thread(&self, spec: &'static ChildSpec) -> Arc<Node> {
        self.tree().plant(spec.name.to_owned(), spec)
    }

    /// Starts the part as the next member. `stop` asks [`ThreadPart::run`] to end.
    ///
    /// # Errors
    /// If the system has no thread to give.
    pub(crate) fn start_thread<P: ThreadPart>(
        &mut self,
        node: Arc<Node>,
        part: P,
        stop: impl Fn() + 'static,
    ) -> io::Result<()> {
        let parent = self.join(&node);
        let ended = spawn(&node, part)?;
        tokio::task::spawn_local(supervise(node, parent, ended, stop));
        Ok(())
    }
}

/// Runs the part on a new thread.
fn spawn<P: ThreadPart>(node: &Node, mut part: P) -> io::Result<oneshot::Receiver<Ended<P>>> {
    node.set_phase(Phase::Starting);
    let (ending, ended) = oneshot::channel();
    std::thread::Builder::new().name(node.spec.name.to_owned()).spawn(move || {
        let panic = catch_unwind(AssertUnwindSafe(|| part.run())).err();
        // Nobody listens any more only if the process is being taken down around this thread.
        let _ = ending.send((part, panic.map(|panic| panic_message(&*panic).to_owned())));
    })?;
    node.set_phase(Phase::Running);
    Ok(ended)
}

async fn supervise<P: ThreadPart>(
    node: Arc<Node>,
    parent: Parent,
    mut ended: oneshot::Receiver<Ended<P>>,
    stop: impl Fn(),
) {
    loop {
        let order = tokio::select! {
            biased;
            end = &mut ended => Err(end),
            order = order(&node) => Ok(order),
        };
        let (mut part, failure) = match order {
            Ok(Order::Kill) => break,
            Ok(Order::Drain) => {
                node.set_phase(Phase::Draining);
                stop();
                tokio::select! {
                    _ = &mut ended => break,
                    () = killed(&node) => break,
                }
            }
            Ok(order @ (Order::Hold | Order::Restart)) => {
                stop();
                let why = if order == Order::Hold { Failure::Sibling } else { Failure::ByHand };
                match ended.await {
                    Ok((part, panic)) => (part, panic.map_or(why, Failure::Own)),
                    Err(_) => break,
                }
            }
            Ok(Order::None | Order::Resume) => continue,
            Err(Ok((part, panic))) => (part, Failure::Own(panic.unwrap_or_else(|| "ended by itself".to_owned()))),
            Err(Err(_)) => break,
        };
        let reason = failure.reason();
        node.failed(reason);
        node.restarted(reason);
        node.set_phase(Phase::Held);
        if let Failure::Own(reason) = &failure {
            tracing::error!(path = %node.path, reason, "failed, its parent decides");
            parent(Notice::Failed(reason.clone()));
        }
        if !matches!(failure, Failure::ByHand) {
            match resumed(&node).await {
                Order::Resume => {}
                _ => break,
            }
        }
        part.reset();
        match spawn(&node, part) {
            Ok(next) => ended = next,
            Err(error) => {
                // The part went down with the attempt: there is nothing left to go on with.
                parent(Notice::Failed(format!("no thread: {error}")));
                break;
            }
        }
    }
    node.end();
    parent(Notice::Ended);
}

/// Why a part does not run.
enum Failure {
    Own(String),
    Sibling,
    ByHand,
}

impl Failure {
    fn reason(&self) -> &str {
        match self {
            Self::Own(reason) => reason,
            Self::Sibling => "a sibling failed",
            Self::ByHand => BY_HAND,
        }
    }
}

/// Waits for the next order.
async fn order(node: &Node) -> Order {
    poll_fn(|cx| match node.take_order(cx.waker()) {
        Order::None => Poll::Pending,
        order => Poll::Ready(order),
    })
    .await
}

/// Waits for an order that ends a hold.
async fn resumed(node: &Node) -> Order {
    loop {
        match order(node).await {
            Order::None | Order::Hold | Order::Restart => {}
            order => return order,
        }
    }
}

/// Waits for the order that does not wait for the thread.
async fn killed(node: &Node) {
    while order(node).await != Order::Kill {}
}
