//! The specs that are built here, held field by field against what Debian's `ctr` builds for the same image and flags.

#![allow(clippy::unwrap_used)]

use serde_json::{Value, json};
use std::{collections::BTreeMap, path::PathBuf};
use wharf_client::{
    messages::{ContainerId, Namespace},
    spec::{self, IdMap, ImageConfig, JoinNamespace, Seccomp, SpecBuilder, SpecMount, SpecOptions, Users},
};
use wharf_tests::{
    Containerd, TestDir,
    images::{Image, Layer, Layout, Packing, mode},
};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/srv/app:/bin/sh\n";
const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nvideo:x:44:app\ndisk:x:6:root\n";
const ID: &str = "t1";

/// An image that says something about everything.
fn configured() -> Value {
    json!({
        "User": "app",
        "Env": ["FOO=bar", "PATH=/bin:/usr/bin"],
        "Entrypoint": ["/bin/sh", "-c"],
        "Cmd": ["echo hi"],
        "WorkingDir": "/srv/app",
        "StopSignal": "SIGQUIT",
    })
}

/// containerd with an image of that configuration.
struct Peer {
    containerd: Containerd,
    image: &'static str,
}

impl Peer {
    fn with(config: &Value) -> Self {
        let dir = TestDir::new();
        let etc = Layer::new()
            .folder("bin", mode(0o755))
            .file("bin/sleep", mode(0o755), std::fs::read("/bin/busybox").unwrap())
            .folder("etc", mode(0o755))
            .file("etc/passwd", mode(0o644), PASSWD)
            .file("etc/group", mode(0o644), GROUP)
            .folder("srv", mode(0o755))
            .folder("srv/app", mode(0o755));
        let image = Image::new().layer(etc, Packing::Gzip);
        let keys = config.as_object().unwrap();
        let image = keys.iter().fold(image, |image, (key, value)| image.config(key, value.clone()));
        let layout = Layout::create(&dir.join("layout"));
        let _ = layout.add("latest", &image);
        let archive = dir.join("image.tar");
        layout.archive(&archive);
        let containerd = Containerd::start();
        let _ = containerd.ok(["images", "import", "--base-name", "x", archive.to_str().unwrap()]);
        Self { containerd, image: "x:latest" }
    }

    /// What `ctr containers create` (or `run`, for flags that only it has) makes of these flags.
    fn spec(&self, verb: &[&str], flags: &[&str], command: &[&str]) -> Value {
        let mut line = verb.to_vec();
        line.extend(flags);
        line.extend([self.image, ID]);
        line.extend(command);
        let _ = self.containerd.ok(line.as_slice());
        let spec = self.containerd.ok(["containers", "info", "--spec", ID]).stdout;
        if verb == RUN {
            let _ = self.containerd.ok(["tasks", "rm", "-f", ID]);
        }
        let _ = self.containerd.ok(["containers", "rm", ID]);
        serde_json::from_str(&spec).unwrap()
    }

    fn ours(&self, image: &Value, options: SpecOptions) -> Value {
        let namespace = Namespace::new(self.containerd.namespace()).unwrap();
        let config = ImageConfig::parse(&serde_json::to_vec(&json!({ "config": image })).unwrap()).unwrap();
        let builder = SpecBuilder::new(&namespace, &ContainerId::new(ID).unwrap()).image(config).options(options);
        let spec = builder.build(&Users::parse(PASSWD, GROUP)).unwrap();
        serde_json::from_slice(&spec::to_any(&spec).unwrap().value).unwrap()
    }
}

const CREATE: &[&str] = &["containers", "create"];
const RUN: &[&str] = &["run", "-d", "--null-io"];

/// Brings both to one form: what differs in meaning stays different.
fn normal(mut spec: Value) -> Value {
    // Written by a Go library's development version.
    spec.as_object_mut().unwrap().remove("ociVersion");
    for set in spec["process"]["capabilities"].as_object_mut().unwrap().values_mut() {
        set.as_array_mut().unwrap().sort_by_key(|name| name.as_str().unwrap().to_owned());
    }
    // Later versions of containerd hide this as well.
    if let Some(masked) = spec["linux"].get_mut("maskedPaths") {
        masked.as_array_mut().unwrap().retain(|path| path != "/sys/devices/virtual/powercap");
    }
    if let Some(readonly) = spec.pointer("/root/readonly").cloned()
        && readonly == json!(false)
    {
        spec["root"].as_object_mut().unwrap().remove("readonly");
    }
    // A quota without a period has the kernel's, however that is written.
    if spec.pointer("/linux/resources/cpu/period") == Some(&json!(0)) {
        spec["linux"]["resources"]["cpu"].as_object_mut().unwrap().remove("period");
    }
    if let Some(seccomp) = spec["linux"].get_mut("seccomp") {
        *seccomp = normal_seccomp(seccomp);
    }
    spec
}

/// A filter as what it does to each system call.
fn normal_seccomp(seccomp: &Value) -> Value {
    let mut calls: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for rule in seccomp["syscalls"].as_array().unwrap() {
        let effect = json!([rule["action"], rule.get("errnoRet"), rule.get("args")]).to_string();
        for name in rule["names"].as_array().unwrap() {
            let name = name.as_str().unwrap();
            // Left out, or narrowed, as in later versions of containerd.
            if !name.starts_with("io_uring") && name != "socket" {
                calls.entry(name.to_owned()).or_default().push(effect.clone());
            }
        }
    }
    for effects in calls.values_mut() {
        effects.sort();
        effects.dedup();
    }
    json!([seccomp["defaultAction"], seccomp["architectures"], calls])
}

#[track_caller]
fn assert_same(what: &str, ours: Value, theirs: Value) {
    let (ours, theirs) = (normal(ours), normal(theirs));
    let mut differences = Vec::new();
    differ("", &ours, &theirs, &mut differences);
    assert!(differences.is_empty(), "{what}:\n{}", differences.join("\n"));
}

fn differ(path: &str, ours: &Value, theirs: &Value, differences: &mut Vec<String>) {
    match (ours, theirs) {
        (Value::Object(a), Value::Object(b)) => {
            for key in a.keys().chain(b.keys().filter(|key| !a.contains_key(*key))) {
                let null = Value::Null;
                let (a, b) = (a.get(key).unwrap_or(&null), b.get(key).unwrap_or(&null));
                differ(&format!("{path}/{key}"), a, b, differences);
            }
        }
        _ if ours == theirs => {}
        _ => differences.push(format!("{path}: ours {ours}, ctr's {theirs}")),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(ToString::to_string).collect()
}

#[test]
fn images_and_flags_make_the_spec_that_ctr_makes() {
    let config = configured();
    let peer = Peer::with(&config);
    let none = SpecOptions::default;
    let command = || SpecOptions { args: words(&["cmd"]), ..none() };
    let profile = peer.containerd.dir().file("seccomp.json", r#"{"defaultAction":"SCMP_ACT_ALLOW"}"#);
    let env = peer.containerd.dir().file("env", "B=2\n#c\n\nC=3\nHOME\nFOO=x=y\n  D=4\n");
    let env_text = env.to_str().unwrap().to_owned();
    let profile_text = profile.to_str().unwrap().to_owned();
    let cases: Vec<(&str, &[&str], SpecOptions)> = vec![
        ("--cwd /x", &["cmd"], SpecOptions { cwd: Some("/x".into()), ..command() }),
        ("--net-host", &["cmd"], SpecOptions { host_network: true, ..command() }),
        ("-t", &["cmd"], SpecOptions { tty: true, ..command() }),
        ("-t --net-host", &["cmd"], SpecOptions { tty: true, host_network: true, ..command() }),
        ("--read-only", &["cmd"], SpecOptions { read_only: true, ..command() }),
        ("--privileged", &["cmd"], SpecOptions { privileged: true, ..command() }),
        ("--allow-new-privs", &["cmd"], SpecOptions { new_privileges: true, ..command() }),
        ("--memory-limit 1000000", &["cmd"], SpecOptions { memory_limit_bytes: Some(1_000_000), ..command() }),
        (
            "--cpu-quota 5000 --cpu-period 10000",
            &["cmd"],
            SpecOptions { cpu_quota_us: Some(5000), cpu_period_us: Some(10_000), ..command() },
        ),
        ("--cpu-quota 5000", &["cmd"], SpecOptions { cpu_quota_us: Some(5000), ..command() }),
        (
            "--cap-add CAP_SYS_ADMIN --cap-drop CAP_CHOWN",
            &["cmd"],
            SpecOptions { cap_add: words(&["CAP_SYS_ADMIN"]), cap_drop: words(&["CAP_CHOWN"]), ..command() },
        ),
        (
            "--env A=1 --env FOO=over --env FOO --env C=3",
            &["cmd"],
            SpecOptions { env: words(&["A=1", "FOO=over", "FOO", "C=3"]), ..command() },
        ),
        (
            "--annotation a=b --annotation c=d=e",
            &["cmd"],
            SpecOptions {
                annotations: BTreeMap::from([("a".into(), "b".into()), ("c".into(), "d=e".into())]),
                ..command()
            },
        ),
        (
            "--mount type=bind,src=/tmp,dst=/mnt,options=rbind:ro --mount type=tmpfs,dst=/x",
            &["cmd"],
            SpecOptions {
                mounts: vec![
                    SpecMount::parse("type=bind,src=/tmp,dst=/mnt,options=rbind:ro").unwrap(),
                    SpecMount::parse("type=tmpfs,dst=/x").unwrap(),
                ],
                ..command()
            },
        ),
        (
            "--with-ns ipc:/proc/1/ns/ipc --with-ns cgroup:/proc/1/ns/cgroup",
            &["cmd"],
            SpecOptions {
                namespaces: ["ipc:/proc/1/ns/ipc", "cgroup:/proc/1/ns/cgroup"]
                    .map(|text| JoinNamespace::parse(text).unwrap())
                    .to_vec(),
                ..command()
            },
        ),
        (
            "--device /dev/null --device /dev/full",
            &["cmd"],
            SpecOptions { devices: vec!["/dev/null".into(), "/dev/full".into()], ..command() },
        ),
        (
            "--rootfs-propagation rshared",
            &["cmd"],
            SpecOptions { rootfs_propagation: Some("rshared".into()), ..command() },
        ),
        ("--rdt-class gold", &["cmd"], SpecOptions { rdt_class: Some("gold".into()), ..command() }),
        ("--seccomp", &["cmd"], SpecOptions { seccomp: Seccomp::Default, ..command() }),
        ("--seccomp --privileged", &["cmd"], SpecOptions { seccomp: Seccomp::Default, privileged: true, ..command() }),
        (
            "--seccomp --cap-add CAP_SYS_ADMIN --cap-drop CAP_SYS_CHROOT",
            &["cmd"],
            SpecOptions {
                seccomp: Seccomp::Default,
                cap_add: words(&["CAP_SYS_ADMIN"]),
                cap_drop: words(&["CAP_SYS_CHROOT"]),
                ..command()
            },
        ),
        ("", &[], none()),
    ];
    for (flags, args, options) in cases {
        let flags: Vec<_> = flags.split_whitespace().collect();
        let theirs = peer.spec(CREATE, &flags, args);
        assert_same(&format!("{flags:?}"), peer.ours(&config, options), theirs);
    }
    let options = SpecOptions { env_files: vec![PathBuf::from(&env_text)], env: words(&["B=9"]), ..command() };
    let theirs = peer.spec(CREATE, &["--env-file", &env_text, "--env", "B=9"], &["cmd"]);
    assert_same("--env-file", peer.ours(&config, options), theirs);
    let ours = peer.ours(&config, SpecOptions { seccomp: Seccomp::Profile(profile), ..command() });
    let theirs = peer.spec(CREATE, &["--seccomp", "--seccomp-profile", &profile_text], &["cmd"]);
    assert_eq!(ours["linux"]["seccomp"]["defaultAction"], theirs["linux"]["seccomp"]["defaultAction"]);
}

#[test]
fn flags_that_only_run_has_make_the_same_spec_too() {
    let config = configured();
    let peer = Peer::with(&config);
    let sleep = &["/bin/sleep", "100"];
    let command = || SpecOptions { args: words(sleep), cpu_shares: Some(1024), ..SpecOptions::default() };
    let map = IdMap::parse("0:0:4000").unwrap();
    for (flags, options) in [
        ("", command()),
        ("--cpus 0.5 --cpu-shares 512", SpecOptions { cpus: Some(0.5), cpu_shares: Some(512), ..command() }),
        ("--uidmap 0:0:4000 --gidmap 0:0:4000", SpecOptions { uid_maps: vec![map], gid_maps: vec![map], ..command() }),
    ] {
        let words: Vec<_> = flags.split_whitespace().collect();
        assert_same(flags, peer.ours(&config, options), peer.spec(RUN, &words, sleep));
    }
    for cgroup in [format!("/{}/other", peer.containerd.namespace()), String::new()] {
        let options = SpecOptions { cgroup: Some(cgroup.clone()), ..command() };
        let theirs = peer.spec(RUN, &["--cgroup", &cgroup], sleep);
        assert_same(&format!("--cgroup {cgroup:?}"), peer.ours(&config, options), theirs);
    }
}

#[test]
fn an_image_that_says_little_gets_the_same_defaults() {
    let config = json!({ "Cmd": ["echo hi"] });
    let peer = Peer::with(&config);
    let theirs = peer.spec(CREATE, &[], &[]);
    assert_same("a bare image", peer.ours(&config, SpecOptions::default()), theirs);
}
