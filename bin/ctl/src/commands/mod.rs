//! The commands, a noun a file.

pub mod backup;
pub mod checkpoint;
pub mod checkpoint_index;
pub mod containers;
pub mod content;
pub mod convert;
pub mod create;
pub mod debug;
pub mod doctor;
pub mod events;
pub mod exec;
pub mod images;
pub mod install;
pub mod leases;
pub mod maps;
pub mod mount;
pub mod namespaces;
pub mod objects;
pub mod oci;
pub mod plugins;
pub mod policy;
pub mod pprof;
pub mod prune;
pub mod pull;
pub mod push;
pub mod run;
pub mod shim;
pub mod snapshots;
pub mod spec_flags;
pub mod supervision;
pub mod tasks;
pub mod transfer;
pub mod version;

use crate::{cli::Command, context::Context, failure::Outcome};

/// Runs a command to its end.
///
/// # Errors
/// What went wrong, and the exit code.
pub async fn run(command: Command, context: &Context) -> Outcome {
    match command {
        Command::Plugins(plugins) => plugins.run(context).await,
        Command::Version(version) => version.run(context).await,
        Command::Containers(containers) => containers.run(context).await,
        Command::Content(content) => content.run(context).await,
        Command::Events(events) => events.run(context).await,
        Command::Images(images) => images.run(context).await,
        Command::Leases(leases) => leases.run(context).await,
        Command::Namespaces(namespaces) => namespaces.run(context).await,
        Command::Pprof(pprof) => pprof.run(),
        Command::Run(run) => run.run(context).await,
        Command::Snapshots(snapshots) => snapshots.run(context).await,
        Command::Tasks(tasks) => tasks.run(context).await,
        Command::Install(install) => install.run(context).await,
        Command::Oci(oci) => oci.run(),
        Command::Shim(shim) => shim.run(context).await,
        Command::Debug(debug) => debug.run(context).await,
        Command::Supervision(supervision) => supervision.run(context).await,
        Command::Doctor(doctor) => doctor.run(context).await,
        Command::Backup(backup) => backup.run(context).await,
    }
}
