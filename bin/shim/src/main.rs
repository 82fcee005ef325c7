//! wharf-shim: the process between a daemon and its containers.
//!
//! One process for each container, or for each group of containers (a pod): it makes them, holds their standard
//! streams, reaps them, records how they ended, and outlives the daemon. It serves containerd's task service
//! (`containerd.task.v2.Task` and `containerd.task.v3.Task`) by ttrpc on a Unix socket, and is started as containerd
//! starts its shims (see [`bootstrap`]), so it also works under containerd itself, installed as
//! `containerd-shim-wharf-v2`.
//!
//! # Memory
//! There is one of it for each container, so its size is a feature. One thread; no runtime, no reflection, no buffers
//! while nothing happens. A static executable at a fixed address has the fewest pages of its own:
//!
//! ```sh
//! LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH=/usr/lib/x86_64-linux-gnu \
//!     RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static" \
//!     cargo build --release -p wharf-shim --target x86_64-unknown-linux-gnu
//! ```
//!
//! **Architecture invariants:** this crate knows neither the store nor the actors, and nobody in it waits but the event
//! loop. No process that enters a container runs from a file that the container could write (see [`runtime::sealed`]).
//! An exit is on disk before anybody hears of it (see [`exit_record`]).

mod bootstrap;
mod cgroup;
mod events;
mod exit_record;
mod io;
mod jobs;
mod log;
mod mount;
mod reactor;
mod runtime;
mod service;
mod shim;
mod sys;
mod task;
mod ttrpc;

use std::process::ExitCode;

use bootstrap::arguments::Arguments;
use wharf_messages::{Answer, Refusal};

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1).map(|arg| arg.to_string_lossy().into_owned()).peekable();
    if arguments.peek().is_some_and(|first| first == runtime::verb::ARGUMENT) {
        std::process::exit(runtime::verb::main(&arguments.nth(1).unwrap_or_default()));
    }
    let result = Arguments::parse(arguments).map_err(Refusal::invalid).and_then(|arguments| run(&arguments));
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(refusal) => {
            eprintln!("wharf-shim: {refusal}");
            ExitCode::FAILURE
        }
    }
}

fn run(arguments: &Arguments) -> Answer<()> {
    if arguments.version {
        bootstrap::info::version();
        return Ok(());
    }
    if arguments.info {
        return bootstrap::info::info();
    }
    for (flag, value) in [("namespace", &arguments.namespace), ("id", &arguments.id)] {
        service::check_name(flag, value)?;
    }
    match arguments.action.as_str() {
        "start" => bootstrap::start::run(arguments),
        "delete" => bootstrap::delete::run(arguments),
        other => Err(Refusal::invalid(format!("action {other:?}: start or delete is meant"))),
    }
}
