//! The flags that say what a container is like within.

use crate::{
    commands::maps::MapFlags,
    failure::{Failure, Outcome},
    labels,
};
use clap::Args;
use std::path::PathBuf;
use wharf_client::apparmor;
use wharf_client::spec::{JoinNamespace, Rlimit, Seccomp, SpecMount, SpecOptions};
use wharf_messages::Answer;

/// The flags that say what a container is like within.
#[derive(Debug, Args)]
pub struct SpecFlags {
    /// Give it a terminal
    #[arg(long, short, help_heading = "Process options")]
    pub tty: bool,
    /// The folder it starts in
    #[arg(long, value_name = "DIR", help_heading = "Process options")]
    cwd: Option<String>,
    /// An environment variable; may be repeated
    #[arg(long, value_name = "KEY=VALUE", help_heading = "Process options")]
    env: Vec<String>,
    /// A file of environment variables, one a line
    #[arg(long, value_name = "FILE", help_heading = "Process options")]
    env_file: Vec<PathBuf>,
    /// Who it runs as, names or numbers
    #[arg(long, value_name = "USER[:GROUP]", help_heading = "Process options")]
    user: Option<String>,
    /// Its host name
    #[arg(long, value_name = "NAME", help_heading = "Process options")]
    hostname: Option<String>,
    /// An annotation of its spec; may be repeated
    #[arg(long = "annotation", value_name = "KEY=VALUE", help_heading = "Process options")]
    annotations: Vec<String>,
    /// Most open files: SOFT, or SOFT:HARD
    #[arg(long, value_name = "LIMIT", help_heading = "Process options")]
    rlimit_nofile: Option<String>,

    /// A mount: type=bind,src=/a,dst=/b,options=rbind:ro; may be repeated
    #[arg(long = "mount", value_name = "SPEC", value_parser = SpecMount::parse, help_heading = "File system options")]
    mounts: Vec<SpecMount>,
    /// Make its root read-only
    #[arg(long, help_heading = "File system options")]
    read_only: bool,
    /// How mounts below its root propagate: private, slave, shared and the like
    #[arg(long, value_name = "MODE", help_heading = "File system options")]
    rootfs_propagation: Option<String>,
    /// A device of the host, or a folder of them; may be repeated
    #[arg(long = "device", value_name = "PATH", help_heading = "File system options")]
    devices: Vec<PathBuf>,

    /// An NVIDIA device by its number, by way of nvidia-container-cli; may be repeated
    #[arg(long, value_name = "NUMBER", allow_negative_numbers = true, help_heading = "File system options")]
    gpus: Vec<i64>,

    /// Use the host's network
    #[arg(long, help_heading = "Isolation options")]
    pub net_host: bool,
    /// Join a namespace, such as network:/proc/1/ns/net; may be repeated
    #[arg(long = "with-ns", value_name = "KIND:PATH", value_parser = JoinNamespace::parse, help_heading = "Isolation options")]
    namespaces: Vec<JoinNamespace>,
    /// Everything that the daemon may do: all capabilities and devices, nothing hidden
    #[arg(long, help_heading = "Isolation options")]
    privileged: bool,
    /// Let setuid programs gain privileges
    #[arg(long, help_heading = "Isolation options")]
    allow_new_privs: bool,
    /// Add a capability, such as CAP_NET_ADMIN; may be repeated
    #[arg(long, value_name = "CAP", help_heading = "Isolation options")]
    cap_add: Vec<String>,
    /// Drop a capability; may be repeated
    #[arg(long, value_name = "CAP", help_heading = "Isolation options")]
    cap_drop: Vec<String>,
    /// Filter system calls by the default list
    #[arg(long, help_heading = "Isolation options")]
    seccomp: bool,
    /// With --seccomp: by this list instead
    #[arg(long, value_name = "FILE", help_heading = "Isolation options")]
    seccomp_profile: Option<PathBuf>,
    /// Confine it by an AppArmor profile that is loaded
    #[arg(long, value_name = "NAME", help_heading = "Isolation options")]
    apparmor_profile: Option<String>,

    /// Confine it by the default AppArmor profile, loaded by this name if no profile of this name is
    #[arg(long, value_name = "NAME", help_heading = "Isolation options")]
    apparmor_default_profile: Option<String>,
    /// A user namespace of its own.
    #[command(flatten)]
    pub maps: MapFlags,

    /// Its cgroup; "" means none of its own
    #[arg(long, value_name = "PATH", help_heading = "Resource options")]
    pub cgroup: Option<String>,
    /// Most memory; 0 means no limit
    #[arg(long, value_name = "BYTES", default_value_t = 0, help_heading = "Resource options")]
    memory_limit: u64,
    /// Most processors' worth of time, such as 1.5; 0 means no limit
    #[arg(long, value_name = "NUMBER", default_value_t = 0.0, help_heading = "Resource options")]
    cpus: f64,
    /// Weight against others
    #[arg(long, value_name = "NUMBER", default_value_t = 1024, help_heading = "Resource options")]
    cpu_shares: u64,
    /// Most processor time a period; -1 means no limit
    #[arg(long, value_name = "MICROSECONDS", default_value_t = -1, allow_negative_numbers = true, help_heading = "Resource options")]
    cpu_quota: i64,
    /// The period
    #[arg(long, value_name = "MICROSECONDS", default_value_t = 0, help_heading = "Resource options")]
    cpu_period: u64,
    /// On which processors, such as 0-3,7
    #[arg(long, value_name = "LIST", help_heading = "Resource options")]
    cpuset_cpus: Option<String>,
    /// From which memory nodes
    #[arg(long, value_name = "LIST", help_heading = "Resource options")]
    cpuset_mems: Option<String>,
    /// Its class of Intel's resource director
    #[arg(long, value_name = "NAME", help_heading = "Resource options")]
    rdt_class: Option<String>,

    // What ctr has and wharf has not: known, so that it is refused by name and never passed over.
    #[arg(long, hide = true)]
    checkpoint: Option<String>,
}

impl SpecFlags {
    /// Refuses the flag of `ctr` whose function is another command's.
    ///
    /// # Errors
    /// Names the flag, and the command.
    pub fn check(&self) -> Outcome {
        match self.checkpoint {
            Some(_) => Err(Failure::new("flag --checkpoint is not supported by wharf: not implemented")),
            None => Ok(()),
        }
    }

    /// Loads the AppArmor profile that is to be there.
    ///
    /// # Errors
    /// If there is none and it cannot be loaded, or another is asked for as well.
    pub fn load_profile(&self) -> Outcome {
        match (given(&self.apparmor_default_profile), given(&self.apparmor_profile)) {
            (None, _) => Ok(()),
            (Some(_), Some(_)) => Err(Failure::new("apparmor-profile conflicts with apparmor-default-profile")),
            (Some(name), None) => Ok(apparmor::load_default(&name)?),
        }
    }

    /// The options for the spec.
    ///
    /// # Errors
    /// For values that contradict each other.
    pub fn options(&self, rootfs: Option<PathBuf>, args: Vec<String>) -> Outcome<SpecOptions> {
        let seccomp = match (self.seccomp, &self.seccomp_profile) {
            (false, None) => Seccomp::Unconfined,
            (false, Some(_)) => {
                return Err(Failure::new("seccomp must be set to true, if using a custom seccomp-profile"));
            }
            (true, None) => Seccomp::Default,
            (true, Some(file)) => Seccomp::Profile(file.clone()),
        };
        if let Some(capability) = self.cap_add.iter().chain(&self.cap_drop).find(|name| !name.starts_with("CAP_")) {
            return Err(Failure::new(format!("capabilities must be specified with 'CAP_' prefix: {capability}")));
        }
        Ok(SpecOptions {
            args,
            env: self.env.clone(),
            env_files: self.env_file.clone(),
            cwd: given(&self.cwd),
            user: given(&self.user),
            hostname: given(&self.hostname),
            tty: self.tty,
            rootfs,
            read_only: self.read_only,
            rootfs_propagation: given(&self.rootfs_propagation),
            mounts: self.mounts.clone(),
            host_network: self.net_host,
            privileged: self.privileged,
            new_privileges: self.allow_new_privs,
            cap_add: self.cap_add.clone(),
            cap_drop: self.cap_drop.clone(),
            seccomp,
            apparmor_profile: given(&self.apparmor_default_profile).or_else(|| given(&self.apparmor_profile)),
            gpus: self.gpus.clone(),
            devices: self.devices.clone(),
            annotations: labels::read_strictly(&self.annotations)?,
            rlimits: self.rlimits()?,
            namespaces: self.namespaces.clone(),
            cgroup: self.cgroup.clone(),
            uid_maps: Vec::new(),
            gid_maps: Vec::new(),
            memory_limit_bytes: (self.memory_limit != 0).then_some(self.memory_limit),
            pids_limit: None,
            cpus: (self.cpus != 0.0).then_some(self.cpus),
            cpu_quota_us: (self.cpu_quota != -1).then_some(self.cpu_quota),
            cpu_period_us: (self.cpu_period != 0).then_some(self.cpu_period),
            cpu_shares: (self.cpu_shares != 0).then_some(self.cpu_shares),
            cpuset_cpus: given(&self.cpuset_cpus),
            cpuset_mems: given(&self.cpuset_mems),
            rdt_class: given(&self.rdt_class),
        })
    }

    fn rlimits(&self) -> Answer<Vec<Rlimit>> {
        self.rlimit_nofile.iter().map(|limit| Rlimit::parse(&format!("nofile={limit}"))).collect()
    }
}

/// An empty text is none.
fn given(text: &Option<String>) -> Option<String> {
    text.clone().filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        flags: SpecFlags,
    }

    fn options(line: &str) -> Outcome<SpecOptions> {
        let flags = Line::try_parse_from(std::iter::once("run").chain(line.split_whitespace())).unwrap().flags;
        flags.check()?;
        flags.options(None, Vec::new())
    }

    /// Without any flag only the weight is set, as by `ctr`.
    #[test]
    fn no_flags_want_nothing_but_the_usual_weight() {
        assert_eq!(options("").unwrap(), SpecOptions { cpu_shares: Some(1024), ..SpecOptions::default() });
    }

    #[test]
    fn flags_become_options() {
        let base = || SpecOptions { cpu_shares: Some(1024), ..SpecOptions::default() };
        let table: [(&str, SpecOptions); 14] = [
            ("-t --cwd /srv", SpecOptions { tty: true, cwd: Some("/srv".into()), ..base() }),
            ("--env A=1 --env B=2", SpecOptions { env: vec!["A=1".into(), "B=2".into()], ..base() }),
            ("--net-host --privileged", SpecOptions { host_network: true, privileged: true, ..base() }),
            ("--memory-limit 1048576", SpecOptions { memory_limit_bytes: Some(1 << 20), ..base() }),
            ("--cpus 1.5 --cpu-shares 0", SpecOptions { cpus: Some(1.5), cpu_shares: None, ..base() }),
            ("--cpu-quota=50000", SpecOptions { cpu_quota_us: Some(50_000), ..base() }),
            ("--cap-add CAP_SYS_ADMIN", SpecOptions { cap_add: vec!["CAP_SYS_ADMIN".into()], ..base() }),
            ("--seccomp", SpecOptions { seccomp: Seccomp::Default, ..base() }),
            (
                "--seccomp --seccomp-profile p.json",
                SpecOptions { seccomp: Seccomp::Profile("p.json".into()), ..base() },
            ),
            ("--gpus 0 --gpus 2", SpecOptions { gpus: vec![0, 2], ..base() }),
            ("--apparmor-default-profile a", SpecOptions { apparmor_profile: Some("a".into()), ..base() }),
            ("--cgroup=", SpecOptions { cgroup: Some(String::new()), ..base() }),
            ("--allow-new-privs --read-only", SpecOptions { new_privileges: true, read_only: true, ..base() }),
            (
                "--user web:web --hostname h",
                SpecOptions { user: Some("web:web".into()), hostname: Some("h".into()), ..base() },
            ),
        ];
        for (line, expected) in table {
            assert_eq!(options(line).unwrap(), expected, "{line}");
        }
    }

    #[test]
    fn what_makes_no_sense_is_refused_by_name() {
        assert!(options("--checkpoint x").unwrap_err().text.unwrap().contains("--checkpoint"));
        assert!(options("--seccomp-profile p.json").is_err());
        assert!(options("--cap-add SYS_ADMIN").is_err());
        assert!(options("--annotation a").is_err());
        let both = Line::try_parse_from(["run", "--apparmor-profile=a", "--apparmor-default-profile=b"]).unwrap().flags;
        assert!(both.load_profile().unwrap_err().text.unwrap().contains("conflicts"));
        assert!(Line::try_parse_from(["run", "--gpus", "all"]).is_err());
    }
}
