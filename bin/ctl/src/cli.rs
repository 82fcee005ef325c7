//! The tree of commands and the flags that come before them. Each noun's own flags are in `commands/NOUN.rs`.

use crate::commands::{
    backup, containers, content, debug, doctor, events, images, install, leases, namespaces, oci, plugins, pprof, run,
    shim, snapshots, supervision, tasks, version,
};
use crate::output::time::parse_duration;
use clap::{Args, Parser, Subcommand};
use std::time::Duration;
use wharf_messages::{Answer, Namespace, Refusal};

/// Where the daemon listens unless told otherwise.
pub const DEFAULT_ADDRESS: &str = "/run/wharf/wharf.sock";
/// The namespace that is used unless told otherwise.
pub const DEFAULT_NAMESPACE: &str = "default";

/// Runs containers: talks to the wharf daemon
#[derive(Debug, Parser)]
#[command(
    name = "wharf",
    version,
    disable_version_flag = true,
    subcommand_required = true,
    arg_required_else_help = true,
    max_term_width = 120,
    after_help = "Flags stand before arguments; what follows the image and id of `run` belongs to the container."
)]
pub struct Cli {
    /// Flags of every command.
    #[command(flatten)]
    pub globals: Globals,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Flags of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub struct Globals {
    /// Show more: causes of failures, no progress display
    #[arg(long)]
    pub debug: bool,
    /// The daemon's socket [env: WHARF_ADDRESS, CONTAINERD_ADDRESS] [default: /run/wharf/wharf.sock]
    #[arg(long, short, value_name = "SOCKET")]
    pub address: Option<String>,
    /// Give up after this long; 0 means never
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    pub timeout: Duration,
    /// Give up connecting after this long; 0 means 10s
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "0s")]
    pub connect_timeout: Duration,
    /// Where the objects named live [env: WHARF_NAMESPACE, CONTAINERD_NAMESPACE] [default: default]
    #[arg(long, short, value_name = "NAME")]
    pub namespace: Option<String>,
    /// Print the version
    #[arg(long, short = 'v', action = clap::ArgAction::Version)]
    version: Option<bool>,
}

/// The first value that is set and not empty: the flag, wharf's variable, containerd's variable, the default.
fn first_of(flag: Option<&String>, variables: [&str; 2], default: &str) -> String {
    let set = |name: &&str| std::env::var(name).ok().filter(|value| !value.is_empty());
    flag.cloned().filter(|f| !f.is_empty()).or_else(|| variables.iter().find_map(set)).unwrap_or_else(|| default.into())
}

impl Globals {
    /// The daemon's socket.
    #[must_use]
    pub fn socket(&self) -> String {
        let address = first_of(self.address.as_ref(), ["WHARF_ADDRESS", "CONTAINERD_ADDRESS"], DEFAULT_ADDRESS);
        address.strip_prefix("unix://").map(str::to_owned).unwrap_or(address)
    }

    /// The namespace to work in.
    ///
    /// # Errors
    /// `InvalidArgument` for one that no namespace can have.
    pub fn namespace(&self) -> Answer<Namespace> {
        let name = first_of(self.namespace.as_ref(), ["WHARF_NAMESPACE", "CONTAINERD_NAMESPACE"], DEFAULT_NAMESPACE);
        Namespace::new(name).map_err(|refusal: Refusal| refusal.context("namespace validation"))
    }
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Show the parts of the daemon
    #[command(subcommand, visible_alias = "plugin")]
    Plugins(plugins::Plugins),
    /// Print the versions of client and daemon
    Version(version::Version),
    /// Manage containers
    #[command(subcommand, visible_aliases = ["c", "container"])]
    Containers(containers::Containers),
    /// Manage content: blobs and unfinished blobs
    #[command(subcommand)]
    Content(content::Content),
    /// Show what happens, live or from the log
    #[command(visible_alias = "event")]
    Events(events::Events),
    /// Manage images
    #[command(subcommand, visible_aliases = ["image", "i"])]
    Images(images::Images),
    /// Manage leases, which protect what nothing refers to yet
    #[command(subcommand)]
    Leases(leases::Leases),
    /// Manage namespaces
    #[command(subcommand, visible_aliases = ["namespace", "ns"])]
    Namespaces(namespaces::Namespaces),
    /// Say how the daemon is profiled: it has no profiles of Go's
    Pprof(pprof::Pprof),
    /// Run a container from an image or a folder
    Run(Box<run::Run>),
    /// Manage snapshots
    #[command(visible_alias = "snapshot")]
    Snapshots(snapshots::Snapshots),
    /// Manage tasks, the running side of containers
    #[command(subcommand, visible_aliases = ["t", "task"])]
    Tasks(tasks::Tasks),
    /// Install an image's programs on this host
    Install(install::Install),
    /// Show OCI specifications
    #[command(subcommand)]
    Oci(oci::Oci),
    /// Do what a container's shim does, by hand
    Shim(shim::Shim),
    /// Look into the daemon while it runs
    #[command(subcommand)]
    Debug(debug::Debug),
    /// Show the daemon's supervision tree, and restart parts of it
    #[command(subcommand)]
    Supervision(supervision::Supervision),
    /// Look whether this host can run containers, and say what to do if not
    Doctor(doctor::Doctor),
    /// Write a copy of what the daemon knows to a file; wharfd restore puts it back
    Backup(backup::Backup),
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_tree_of_commands_is_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn flags_come_before_variables_and_variables_before_defaults() {
        let flag = Some("flag".to_owned());
        // PATH and HOME stand in for variables that are set; the other is not.
        assert_eq!(first_of(flag.as_ref(), ["PATH", "HOME"], "default"), "flag");
        assert_eq!(first_of(None, ["WHARF_TEST_UNSET", "PATH"], "default"), std::env::var("PATH").unwrap());
        assert_eq!(first_of(Some(&String::new()), ["WHARF_TEST_UNSET"; 2], "default"), "default");
    }

    /// The whole tree of `ctr` 1.6.20 that is here, by its names and its aliases.
    #[test]
    fn every_name_and_alias_of_ctr_leads_to_its_command() {
        const REMOVE: &[&str] = &["delete", "del", "remove", "rm"];
        const LIST: &[&str] = &["list", "ls"];
        #[rustfmt::skip]
        let tree: &[(&[&str], &[&str], &str, &str)] = &[
            (&["plugins", "plugin"], LIST, "", "Plugins(List("),
            (&["version"], &[""], "", "Version("),
            (&["containers", "c", "container"], &["create"], "I x", "Containers(Create("),
            (&["containers", "c", "container"], REMOVE, "x y", "Containers(Delete("),
            (&["containers"], &["info"], "--spec x", "Containers(Info("),
            (&["containers"], LIST, "-q id==x", "Containers(List("),
            (&["containers"], &["label"], "x a=b", "Containers(Label("),
            (&["content"], &["active"], "", "Content(Active("),
            (&["containers"], &["checkpoint"], "--rw --image --task x REF", "Containers(Checkpoint("),
            (&["containers"], &["restore"], "--rw --live x REF", "Containers(Restore("),
            (&["content"], REMOVE, "sha256:0", "Content(Delete("),
            (&["content"], &["edit"], "--editor vi sha256:0", "Content(Edit("),
            (&["content"], &["fetch"], "--metadata-only REF", "Content(Fetch("),
            (&["content"], &["fetch-object"], "-k REF", "Content(FetchObject("),
            (&["content"], &["get"], "sha256:0", "Content(Get("),
            (&["content"], &["ingest"], "--expected-size 3 key", "Content(Ingest("),
            (&["content"], LIST, "-q", "Content(List("),
            (&["content"], &["push-object"], "-k REF sha256:0 x/y", "Content(PushObject("),
            (&["content"], &["label"], "sha256:0 a=b", "Content(Label("),
            (&["events", "event"], &[""], "topic==/x", "Events(Events"),
            (&["images", "image", "i"], &["check"], "-q", "Images(Check("),
            (&["images"], &["export"], "--all-platforms out.tar REF", "Images(Export("),
            (&["images"], &["import"], "--base-name a/b --no-unpack -", "Images(Import("),
            (&["images"], LIST, "-q name~=x", "Images(List("),
            (&["images"], &["mount"], "--rw REF /mnt", "Images(Mount("),
            (&["images"], &["unmount"], "--rm /mnt", "Images(Unmount("),
            (&["images"], &["pull"], "-k -u a:b --platform linux/arm64 REF", "Images(Pull("),
            (&["images"], &["push"], "-k --platform linux/arm64 REF LOCAL", "Images(Push("),
            (&["images"], REMOVE, "--sync REF REF", "Images(Delete("),
            (&["images"], &["tag"], "--force REF REF", "Images(Tag("),
            (&["images"], &["label"], "-r REF a=b", "Images(Label("),
            (&["images"], &["convert"], "--oci --uncompress --platform linux/arm64 REF REF", "Images(Convert("),
            (&["install"], &[""], "-l -r --path /x REF", "Install(Install"),
            (&["leases"], LIST, "-q", "Leases(List("),
            (&["leases"], &["create"], "--id x -x 1h a=b", "Leases(Create("),
            (&["leases"], REMOVE, "--sync x", "Leases(Delete("),
            (&["namespaces", "namespace", "ns"], &["create", "c"], "x a=b", "Namespaces(Create("),
            (&["namespaces"], LIST, "-q", "Namespaces(List("),
            (&["namespaces"], &["remove", "rm"], "-c x", "Namespaces(Remove("),
            (&["namespaces"], &["label"], "x a=b", "Namespaces(Label("),
            (&["pprof"], &["profile"], "-s 5s", "Pprof(Pprof"),
            (&["run"], &[""], "--rm -t I x sh", "Run(Run"),
            (&["shim --id x"], &["state"], "", "Shim(Shim"),
            (&["snapshots", "snapshot"], &["commit"], "a b", "Snapshots(Snapshots { snapshotter: None, verb: Commit"),
            (&["snapshots"], &["diff"], "--keep a", "Snapshots(Snapshots { snapshotter: None, verb: Diff"),
            (&["snapshots"], &["info"], "a", "Snapshots(Snapshots { snapshotter: None, verb: Info"),
            (&["snapshots"], LIST, "", "Snapshots(Snapshots { snapshotter: None, verb: List"),
            (&["snapshots"], &["mounts", "m", "mount"], "/mnt a", "Snapshots(Snapshots { snapshotter: None, verb: Mounts"),
            (&["snapshots"], &["prepare"], "-t /mnt a b", "Snapshots(Snapshots { snapshotter: None, verb: Prepare"),
            (&["snapshots"], REMOVE, "a b", "Snapshots(Snapshots { snapshotter: None, verb: Delete"),
            (&["snapshots"], &["label"], "a b=c", "Snapshots(Snapshots { snapshotter: None, verb: Label"),
            (&["snapshots"], &["tree"], "", "Snapshots(Snapshots { snapshotter: None, verb: Tree"),
            (&["snapshots"], &["unpack"], "sha256:0", "Snapshots(Snapshots { snapshotter: None, verb: Unpack"),
            (&["snapshots"], &["usage"], "-b a", "Snapshots(Snapshots { snapshotter: None, verb: Usage"),
            (&["snapshots"], &["view"], "--mounts a b", "Snapshots(Snapshots { snapshotter: None, verb: View"),
            (&["snapshots --snapshotter native"], LIST, "", "Snapshots(Snapshots { snapshotter: Some(\"native\")"),
            (&["tasks", "t", "task"], &["attach"], "x", "Tasks(Attach("),
            (&["tasks"], &["checkpoint"], "--exit --image-path /a x", "Tasks(Checkpoint("),
            (&["tasks"], REMOVE, "-f x y", "Tasks(Delete("),
            (&["tasks"], &["exec"], "-t --exec-id e --user a x sh -c y", "Tasks(Exec("),
            (&["tasks"], LIST, "-q", "Tasks(List("),
            (&["tasks"], &["kill"], "-s 9 -a x", "Tasks(Kill("),
            (&["tasks"], &["pause"], "x", "Tasks(Pause("),
            (&["tasks"], &["ps"], "x", "Tasks(Ps("),
            (&["tasks"], &["resume"], "x", "Tasks(Resume("),
            (&["tasks"], &["start"], "-d --pid-file p x", "Tasks(Start("),
            (&["tasks"], &["metrics", "metric"], "--format json x", "Tasks(Metrics("),
            (&["oci"], &["spec"], "", "Oci(Spec"),
            (&["supervision"], &["tree"], "", "Supervision(Tree"),
            (&["backup"], &[""], "-", "Backup(Backup"),
            (&["doctor"], &[""], "--root /srv", "Doctor(Doctor"),
        ];
        for (nouns, verbs, rest, expected) in tree {
            for (noun, verb) in nouns.iter().flat_map(|noun| verbs.iter().map(move |verb| (noun, verb))) {
                let line = format!("{noun} {verb} {rest}");
                let words = line.split_whitespace().map(Into::into).collect();
                let words = crate::argv::rewrite(&Cli::command(), words);
                let cli = Cli::try_parse_from(std::iter::once("wharf".into()).chain(words));
                let command = format!("{:?}", cli.unwrap_or_else(|error| panic!("{line}: {error}")).command);
                assert!(command.starts_with(expected), "{line}: {command}");
            }
        }
    }

    #[test]
    fn addresses_may_be_urls() {
        let globals = Cli::try_parse_from(["wharf", "-a", "unix:///run/x.sock", "version"]).unwrap().globals;
        assert_eq!(globals.socket(), "/run/x.sock");
    }

    #[test]
    fn namespaces_are_checked() {
        let globals = Cli::try_parse_from(["wharf", "-n", "nope!", "version"]).unwrap().globals;
        assert!(globals.namespace().unwrap_err().to_string().starts_with("namespace validation: identifier \"nope!\""));
    }
}
