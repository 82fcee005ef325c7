//! The daemon's life: folders, actor system, socket, and the way out.

use crate::{
    config::Config,
    frontends::{
        grpc,
        listener::{self, FrontEnds, Limits, SocketFile},
        metrics,
        native::{Service, table},
        peer::Allowed,
        threads::Threads,
    },
    logging, notify, process, signals,
};
use std::{
    error::Error,
    fs::DirBuilder,
    os::unix::fs::DirBuilderExt,
    path::Path,
    sync::{Arc, OnceLock},
    time::Instant,
};
use tokio_util::sync::CancellationToken;
use wharf_actors::{
    Wharf,
    config::SystemConfig,
    root::{self, RunError},
    tasks,
};
use wharf_messages::{Answer, Refusal};

/// Others may pass through root and state, as container roots lie beneath, and see nothing.
const FOLDER_MODE: u32 = 0o711;

/// Runs the daemon until it is told to stop.
///
/// # Errors
/// Why it could not start, or could not go on.
pub fn run(config: &Config) -> Answer<()> {
    let started = Instant::now();
    let (log_control, traces) = logging::start(&config.log)?;
    let allowed = Allowed { uid: config.socket.uid, gid: config.socket.gid()? };
    tracing::info!(
        version = env!("CARGO_PKG_VERSION"),
        pid = std::process::id(),
        root = %config.root.display(),
        state = %config.state.display(),
        address = %config.address.display(),
        "starting"
    );
    process::raise_open_files(config.limits.open_files);
    // Before the root is opened: a daemon that answers there is the better thing to be told of.
    listener::check_address(&config.address)?;
    make_folder(&config.root)?;
    make_folder(&config.state)?;

    let shutdown = CancellationToken::new();
    let failure = Arc::new(OnceLock::new());
    let serving = {
        let (config, shutdown, failure) = (config.clone(), shutdown.clone(), failure.clone());
        |wharf, stopping| async move {
            if let Err(refusal) = serve(&config, allowed, wharf, stopping, shutdown, started).await {
                // The first reason is the one to tell.
                failure.set(refusal).ok();
            }
        }
    };
    let system = SystemConfig { log_control: Some(log_control), ..config.system() };
    let ran = root::run(system, serving, shutdown);
    if let Some(traces) = traces {
        traces.finish();
    }
    if let Some(refusal) = failure.get() {
        return Err(refusal.clone());
    }
    ran.map_err(|error| refusal_of(&error))?;
    tracing::info!("stopped");
    Ok(())
}

/// The front ends: from the moment when every actor takes messages until the daemon stops.
async fn serve(
    config: &Config,
    allowed: Allowed,
    wharf: Wharf,
    stopping: CancellationToken,
    shutdown: CancellationToken,
    started: Instant,
) -> Answer<()> {
    signals::watch(shutdown)?;
    let (listener, file) = listener::bind(&config.address, allowed)?;
    // Shims of an earlier run have kept what they could not tell.
    tasks::serve_shims(wharf.clone(), stopping.clone()).await?;
    if let Some(address) = config.metrics.address()? {
        metrics::start(&address, allowed, wharf.clone(), stopping.clone()).await?;
    }
    let grpc = Some(grpc::Api { wharf: wharf.clone(), stopping: stopping.clone() });
    let native = Service { table: table::TABLE, doer: wharf, calls_max: config.limits.calls_per_connection_max };
    let threads = Threads::start()?;
    let limits = Limits { allowed, connections_max: config.limits.connections_max };
    notify::tell("READY=1");
    tracing::info!(elapsed_ms = started.elapsed().as_millis(), "ready");
    tokio::spawn(withdraw(file, stopping.clone()));
    tokio::spawn(process::give_memory_back(stopping.clone()));
    listener::serve(listener, threads, limits, Arc::new(FrontEnds { native, grpc }), stopping).await
}

/// Takes the socket's name away as soon as the daemon stops, so that clients wait for the next one instead of queueing
/// at this.
async fn withdraw(file: SocketFile, stopping: CancellationToken) {
    stopping.cancelled().await;
    notify::tell("STOPPING=1");
    drop(file);
}

fn make_folder(path: &Path) -> Answer<()> {
    DirBuilder::new()
        .recursive(true)
        .mode(FOLDER_MODE)
        .create(path)
        .map_err(|error| Refusal::io(format!("make folder {}", path.display()), &error))
}

/// One line that names every cause.
fn refusal_of(error: &RunError) -> Refusal {
    let mut detail = error.to_string();
    let mut cause = error.source();
    while let Some(source) = cause {
        let text = source.to_string();
        if !detail.ends_with(&text) {
            detail = format!("{detail}: {text}");
        }
        cause = source.source();
    }
    Refusal::internal(detail)
}
