//! Shims as processes of this machine.

use super::{
    Bundle, ExitRecord, Launch, Shim, ShimAddress, ShimBinaries, ShimLauncher, TaskId, bootstrap::Environment,
    cgroup_lock, connection::Connection,
};
use async_trait::async_trait;
use nix::{
    sys::signal::{Signal, kill},
    unistd::Pid,
};
use std::{path::PathBuf, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, BufReader},
    net::unix::pipe,
    task::{AbortHandle, spawn_blocking},
};
use wharf_failpoints::{failpoint, try_failpoint};
use wharf_messages::{
    Answer, ExecId, Refusal, RefusalKind, Timestamp,
    task::{EXIT_KILLED, Exit},
};

/// The longest line of a shim's log that is passed on; the rest of it is cut.
const LOG_LINE_MAX_BYTES: u64 = 16 << 10;

/// How long a shim that is to go may take before its own `delete` goes on without it.
const END_LIMIT: Duration = Duration::from_secs(3);

/// How long to rest before a shim that is to go is looked at again, and how often one without the task is.
const END_PAUSE: Duration = Duration::from_millis(5);
const END_LOOKS: u32 = 20;

/// How shims are started.
#[derive(Debug, Clone)]
pub struct ShimSettings {
    /// The folder for state that dies with a boot.
    pub state: PathBuf,
    /// The daemon's socket.
    pub address: String,
    /// Where shims' sockets go.
    pub socket_dir: String,
    /// The daemon's own binary.
    pub publish_binary: String,
    /// Whether shims log in detail.
    pub debug: bool,
    /// Where shim binaries are.
    pub binaries: ShimBinaries,
    /// What shims have in their environment instead of what the daemon has.
    pub env: Vec<(String, String)>,
}

/// Starts shims as processes and talks to them over their sockets.
pub struct ProcessShims {
    state: PathBuf,
    binaries: ShimBinaries,
    environment: Environment,
}

impl ProcessShims {
    /// Made once, for the daemon's life.
    #[must_use]
    pub fn new(settings: ShimSettings) -> Self {
        Self {
            state: settings.state,
            binaries: settings.binaries,
            environment: Environment {
                daemon_address: settings.address,
                publish_binary: settings.publish_binary,
                socket_dir: settings.socket_dir,
                debug: settings.debug,
                env: settings.env,
            },
        }
    }

    fn bundle(&self, task: &TaskId) -> Bundle {
        Bundle::of(&self.state, task)
    }

    /// Ends a shim that may still serve although nobody wants its task; one that is gone already is as well. One that
    /// serves other containers too, or has last events to tell, is left to itself once this task is gone from it.
    async fn end_shim(&self, task: &TaskId, bundle: &Bundle) {
        let Some(address) = bundle.address() else { return };
        let address = ShimAddress { address, version: 3, binary: String::new() };
        let mut process = bundle.shim_pid();
        let ending = async {
            let mut looks = END_LOOKS;
            while looks > 0
                && let Ok(shim) = Connection::open(task, &address).await
            {
                if let Ok(pid) = shim.shim_pid().await {
                    process = i32::try_from(pid).ok().filter(|pid| *pid > 1);
                }
                // A shim takes one word after the other, so a creation that its last daemon asked for ends before the
                // deletion begins. Refused for something that is not there, a word has done its part.
                let killed = shim.kill(None, 9, true).await;
                let deleted = shim.delete(None).await;
                let told = shim.shutdown().await;
                tracing::debug!(%task, ?killed, ?deleted, ?told, "ending a shim");
                if deleted.is_ok() || deleted.is_err_and(|refusal| refusal.is(RefusalKind::NotFound)) {
                    looks -= 1;
                }
                if process.is_some_and(|pid| !bundle.is_shim(pid)) {
                    return;
                }
                tokio::time::sleep(END_PAUSE).await;
            }
        };
        if tokio::time::timeout(END_LIMIT, ending).await.is_ok() {
            return;
        }
        let Some(pid) = process.filter(|pid| bundle.is_shim(*pid)) else { return };
        tracing::warn!(%task, pid, "the shim did not end in time, killing it");
        if let Err(error) = kill(Pid::from_raw(pid), Signal::SIGKILL) {
            tracing::warn!(%task, pid, %error, "the shim could not be killed");
        }
    }

    async fn connect(&self, task: &TaskId, address: &ShimAddress) -> Answer<Arc<dyn Shim>> {
        Ok(Arc::new(Connection::open(task, address).await?))
    }
}

#[async_trait]
impl ShimLauncher for ProcessShims {
    fn bundle_path(&self, task: &TaskId) -> String {
        self.bundle(task).path().to_string_lossy().into_owned()
    }

    fn expect_launch(&self) {
        cgroup_lock::prepare();
    }

    async fn launch(&self, launch: Launch) -> Answer<(ShimAddress, Arc<dyn Shim>)> {
        let wanted = if launch.runtime_path.is_empty() { &launch.runtime.name } else { &launch.runtime_path };
        let binary = self.binaries.find(wanted)?;
        cgroup_lock::prepare();
        let task = launch.task;
        let bundle = self.bundle(&task);
        let making = bundle.clone();
        let noted = binary.clone();
        let make = move || {
            making.create(&launch.spec_json)?;
            if let Some(checkpoint) = &launch.checkpoint {
                making.take_checkpoint(checkpoint)?;
            }
            making.note_binary(&noted)
        };
        spawn_blocking(make).await.map_err(joined)??;
        let log = follow_log(&task, &bundle);
        let started = async {
            try_failpoint!("shim/launch");
            let address =
                self.environment.start(&binary, &task, bundle.path(), launch.runtime.options.as_ref()).await?;
            try_failpoint!("shim/launched");
            let shim = self.connect(&task, &address).await?;
            Ok((address, shim))
        };
        match started.await {
            Ok(started) => Ok(started),
            Err(refusal) => {
                if let Some(log) = log {
                    log.abort();
                }
                // A shim that started and did not answer must not stay behind its removed bundle.
                self.end_shim(&task, &bundle).await;
                if let Err(error) = self.environment.delete(&binary, &task, bundle.path()).await {
                    tracing::debug!(%task, %error, "nothing to clean up after the failed start of a shim");
                }
                self.remove_bundle(&task).await?;
                Err(refusal)
            }
        }
    }

    async fn reattach(&self, task: &TaskId, address: &ShimAddress) -> Answer<Arc<dyn Shim>> {
        let shim = self.connect(task, address).await?;
        // Connecting proves a listener, not a shim that works.
        shim.state(None).await.map_err(|r| r.context(format!("reattach to the shim of {task}"))).map(|_| ()).or_else(
            |refusal| {
                // A shim whose task was never made or is deleted already says so; it answers all the same.
                if refusal.is(RefusalKind::NotFound) { Ok(()) } else { Err(refusal) }
            },
        )?;
        follow_log(task, &self.bundle(task));
        Ok(shim)
    }

    async fn clean_up(&self, task: &TaskId, address: Option<&ShimAddress>) -> Answer<Exit> {
        let bundle = self.bundle(task);
        // The shim's own record is the truth; its cleanup only knows that it had to kill.
        let recorded = bundle.exit_record(None);
        let mut exit = Exit { code: EXIT_KILLED, exited_at: Timestamp::ZERO, oom: false };
        // Without a row's word (a crash between launch and commit) the bundle knows its shim.
        let binary = address.map(|address| PathBuf::from(&address.binary)).or_else(|| bundle.binary());
        if let Some(binary) = binary
            && bundle.path().exists()
        {
            failpoint!("shim/clean");
            self.end_shim(task, &bundle).await;
            failpoint!("shim/ended");
            match self.environment.delete(&binary, task, bundle.path()).await {
                Ok((_, code, exited_at)) => exit = Exit { code, exited_at, oom: false },
                Err(error) => tracing::warn!(%task, %error, "the shim's own cleanup failed"),
            }
            if let Err(error) = bundle.remove_dead_socket() {
                tracing::warn!(%task, %error, "the shim's socket stays");
            }
        }
        self.remove_bundle(task).await?;
        Ok(recorded.map_or(exit, Exit::from))
    }

    fn recorded_exit(&self, task: &TaskId, exec: Option<&ExecId>) -> Option<ExitRecord> {
        self.bundle(task).exit_record(exec)
    }

    async fn remove_bundle(&self, task: &TaskId) -> Answer<()> {
        let bundle = self.bundle(task);
        try_failpoint!("shim/remove");
        spawn_blocking(move || bundle.remove()).await.map_err(joined)?
    }

    fn bundles(&self) -> Answer<Vec<TaskId>> {
        Bundle::all(&self.state)
    }
}

fn joined(error: tokio::task::JoinError) -> Refusal {
    Refusal::internal(format!("a blocking step did not end: {error}"))
}

/// Passes a shim's log on into the daemon's, until the shim closes it.
fn follow_log(task: &TaskId, bundle: &Bundle) -> Option<AbortHandle> {
    let path = bundle.path().join("log");
    let open = pipe::OpenOptions::new().open_receiver(&path);
    let pipe = match open {
        Ok(pipe) => pipe,
        Err(error) => {
            tracing::debug!(%task, %error, "the shim's log cannot be followed");
            return None;
        }
    };
    let task = task.clone();
    let follow = async move {
        let mut lines = BufReader::with_capacity(1024, pipe);
        let mut line = Vec::new();
        loop {
            // Before the shim opens its end the pipe reads as ended, so what counts is readiness: it comes with a writer.
            if lines.get_ref().readable().await.is_err() {
                return;
            }
            line.clear();
            match (&mut lines).take(LOG_LINE_MAX_BYTES).read_until(b'\n', &mut line).await {
                Ok(0) | Err(_) => return,
                Ok(_) => {
                    let text = String::from_utf8_lossy(&line);
                    tracing::info!(target: "wharf::shim", %task, "{}", text.trim_end());
                }
            }
        }
    };
    Some(tokio::spawn(follow).abort_handle())
}
