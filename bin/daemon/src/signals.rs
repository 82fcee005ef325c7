//! Signals: the first of SIGTERM and SIGINT stops gracefully, another one at once. SIGHUP means nothing: there is no file
//! to reopen, and a terminal that closes does not end a daemon.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use wharf_messages::{Answer, Refusal};

/// Watches from now on.
///
/// # Errors
/// What the kernel says of a handler.
pub fn watch(shutdown: CancellationToken) -> Answer<()> {
    let on = |kind: SignalKind| signal(kind).map_err(|error| Refusal::io("watch signals", &error));
    let (terminate, interrupt, hang_up) =
        (on(SignalKind::terminate())?, on(SignalKind::interrupt())?, on(SignalKind::hangup())?);
    tokio::spawn(handle(terminate, interrupt, hang_up, shutdown));
    Ok(())
}

async fn handle(mut terminate: Signal, mut interrupt: Signal, mut hang_up: Signal, shutdown: CancellationToken) {
    loop {
        // A stream of signals ends only with the runtime.
        let name = tokio::select! {
            Some(()) = terminate.recv() => "SIGTERM",
            Some(()) = interrupt.recv() => "SIGINT",
            Some(()) = hang_up.recv() => continue,
            else => return,
        };
        if shutdown.is_cancelled() {
            tracing::warn!(name, "signal while stopping: ending at once");
            std::process::exit(1);
        }
        tracing::info!(name, "signal: stopping");
        shutdown.cancel();
    }
}
