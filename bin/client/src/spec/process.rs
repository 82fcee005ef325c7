//! The process of a container, and processes added to it.

use super::{ImageConfig, Rlimit, Spec, SpecOptions, Users, environment, process_of, rlimits};
use oci_spec::runtime::{Process, User};
use std::path::PathBuf;
use wharf_messages::{Answer, Any, Refusal};

/// What is wanted of a process added to a running container.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ExecOptions {
    /// The command.
    pub args: Vec<String>,
    /// `KEY=VALUE`, over the container's.
    pub env: Vec<String>,
    /// The folder to start in; none means the container's.
    pub cwd: Option<String>,
    /// `USER[:GROUP]`; none means the container's.
    pub user: Option<String>,
    /// Whether it gets a terminal.
    pub tty: bool,
}

impl ExecOptions {
    /// The process as the daemon wants it: the container's own, changed as asked. `users` are the root file system's.
    ///
    /// # Errors
    /// `InvalidArgument` without a command, or for a spec without a process; `NotFound` for the user.
    pub fn process(&self, spec: &Spec, users: &Users) -> Answer<Any> {
        let mut process =
            spec.process().clone().ok_or_else(|| Refusal::invalid("the container's spec has no process"))?;
        if self.args.is_empty() {
            return Err(Refusal::invalid("a command is required"));
        }
        process.set_args(Some(self.args.clone())).set_terminal(self.tty.then_some(true)).set_console_size(None);
        let env = process.env_mut().get_or_insert_default();
        environment::set_all(env, self.env.iter());
        if let Some(cwd) = &self.cwd {
            set_cwd(&mut process, cwd)?;
        }
        if let Some(user) = &self.user {
            process.set_user(users.find(user)?);
        }
        let json = serde_json::to_vec(&process)
            .map_err(|error| Refusal::internal(format!("write the OCI process as JSON: {error}")))?;
        Ok(Any::new(Any::PROCESS, json))
    }
}

/// Command, environment, folder, user, terminal and limits of the container's first process.
pub(super) fn fill(spec: &mut Spec, image: Option<&ImageConfig>, options: &SpecOptions, users: &Users) -> Answer<()> {
    let process = process_of(spec)?;
    let mut env = environment::merge(image.map(|image| &image.env[..]), &options.env_files, &options.env)?;
    let mut args = options.args.clone();
    if let Some(image) = image {
        if args.is_empty() {
            args = image.command();
        }
        if !image.working_dir.is_empty() {
            set_cwd(process, &image.working_dir)?;
        }
        if options.user.is_none() {
            process.set_user(users.find(&image.user)?);
        }
    }
    if args.is_empty() {
        return Err(Refusal::invalid("no command: neither the image nor the caller names one"));
    }
    if let Some(cwd) = &options.cwd {
        set_cwd(process, cwd)?;
    }
    if let Some(user) = &options.user {
        process.set_user(users.find(user)?);
    }
    if options.tty {
        process.set_terminal(Some(true));
        // After what is set by the image, and not over it.
        if !env.iter().any(|variable| variable.starts_with("TERM=")) {
            env.push("TERM=xterm".to_owned());
        }
    }
    if options.host_network {
        environment::set_all(&mut env, [format!("HOSTNAME={}", hostname())].iter());
    }
    process.set_args(Some(args)).set_env((!env.is_empty()).then_some(env));
    merge_rlimits(process, &options.rlimits)
}

fn set_cwd(process: &mut Process, cwd: &str) -> Answer<()> {
    if !cwd.starts_with('/') {
        return Err(Refusal::invalid(format!("working directory {cwd:?} must be an absolute path")));
    }
    process.set_cwd(PathBuf::from(cwd));
    Ok(())
}

fn merge_rlimits(process: &mut Process, wanted: &[Rlimit]) -> Answer<()> {
    let mut limits = process.rlimits().clone().unwrap_or_default();
    limits.retain(|limit| !wanted.iter().any(|wanted| wanted.kind == limit.typ()));
    limits.extend(rlimits(wanted)?);
    process.set_rlimits(Some(limits));
    Ok(())
}

fn hostname() -> String {
    rustix::system::uname().nodename().to_string_lossy().into_owned()
}

/// A user with its groups as the spec has them.
pub(super) fn user(uid: u32, gid: u32, additional_gids: Vec<u32>) -> User {
    let mut user = User::default();
    user.set_uid(uid).set_gid(gid).set_additional_gids((!additional_gids.is_empty()).then_some(additional_gids));
    user
}
