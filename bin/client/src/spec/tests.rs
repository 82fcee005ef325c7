use super::*;
use serde_json::{Value, json};

const PASSWD: &str = "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001:app:/srv/app:/bin/sh\nbroken\nalso:x:y:z\n";
const GROUP: &str = "root:x:0:\nwheel:x:10:root,app\napp:x:1001:\nvideo:x:44:app\ndisk:x:6:root\n";

fn builder() -> SpecBuilder {
    SpecBuilder::new(&Namespace::new("default").unwrap(), &ContainerId::new("t1").unwrap())
}

fn with(options: SpecOptions) -> Answer<Value> {
    let options = SpecOptions { args: vec!["cmd".to_owned()], ..options };
    let spec = builder().options(options).build(&Users::default())?;
    Ok(serde_json::from_slice(&to_any(&spec)?.value).unwrap())
}

#[test]
fn users_are_found_as_containerd_finds_them() {
    // What `ctr` 1.6.20 makes of the same files.
    let users = Users::parse(PASSWD, GROUP);
    for (text, uid, gid, gids) in [
        ("", 0, 0, vec![0, 10, 6]),
        ("root", 0, 0, vec![0, 10, 6]),
        ("0", 0, 0, vec![0, 10, 6]),
        ("1000", 1000, 1001, vec![1001, 10, 44]),
        ("app", 1000, 1001, vec![1001, 10, 44]),
        ("1000:10", 1000, 10, vec![10, 44]),
        ("app:wheel", 1000, 10, vec![10, 44]),
        ("app:5000", 1000, 5000, vec![5000, 10, 44]),
        ("2000", 2000, 0, vec![0]),
        ("root:wheel", 0, 10, vec![10, 6]),
        (":10", 0, 10, vec![10, 6]),
        ("1000:", 1000, 0, vec![0, 10, 44]),
        ("7:8", 7, 8, vec![8]),
    ] {
        let user = users.find(text).unwrap();
        assert_eq!((user.uid(), user.gid(), user.additional_gids().clone().unwrap()), (uid, gid, gids), "{text}");
    }
    for text in ["nosuch", "app:nogroup", "-1", "4294967296"] {
        assert!(users.find(text).unwrap_err().is(wharf_messages::RefusalKind::NotFound), "{text}");
    }
    assert_eq!(Users::default().find("5").unwrap().uid(), 5);
}

#[test]
fn users_of_a_hostile_root_stay_within_it() {
    let root = tempfile::tempdir().unwrap();
    let etc = root.path().join("etc");
    std::fs::create_dir(&etc).unwrap();
    std::os::unix::fs::symlink("/etc/../../../../../secret", etc.join("passwd")).unwrap();
    std::fs::write(root.path().join("secret"), "inside:x:5:6:::\n").unwrap();
    // Links resolve within the root.
    assert_eq!(Users::of_path(root.path()).unwrap().find("inside").unwrap().uid(), 5);
    // A FIFO would make a careless reader wait for ever, a device could give bytes for ever.
    rustix::fs::mknodat(rustix::fs::CWD, etc.join("group"), rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert!(Users::of_path(root.path()).unwrap_err().detail.contains("not a plain file"));
    std::fs::remove_file(etc.join("group")).unwrap();
    std::fs::File::create(etc.join("group")).unwrap().set_len(5 << 20).unwrap();
    assert!(Users::of_path(root.path()).unwrap_err().detail.contains("larger"));
}

#[test]
fn an_images_config_may_have_nulls_and_what_nobody_knows() {
    let json = br#"{"architecture":"amd64","config":{"User":null,"Env":null,"Cmd":["sh"],"Healthcheck":{}},"x":1}"#;
    let cmd = ImageConfig { cmd: vec!["sh".into()], healthcheck: serde_json::json!({}), ..ImageConfig::default() };
    assert_eq!(ImageConfig::parse(json).unwrap(), cmd);
    assert_eq!(ImageConfig::parse(b"{}").unwrap(), ImageConfig::default());
    assert_eq!(ImageConfig::parse(br#"{"config":null}"#).unwrap(), ImageConfig::default());
    assert!(ImageConfig::parse(b"[").is_err());
}

#[test]
fn environments_merge_as_in_ctr() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("env");
    std::fs::write(&file, "B=2\n#c\n\nC=3\nHOME\nFOO=x=y\n  D=4\n").unwrap();
    let image = ["FOO=bar".to_owned(), "PATH=/bin".to_owned()];
    let wanted = ["B=9".to_owned(), "NOVALUE".to_owned()];
    let env = environment::merge(Some(&image), &[&file], &wanted).unwrap();
    assert_eq!(env, ["FOO=x=y", "PATH=/bin", "B=9", "C=3", "  D=4"]);
    assert_eq!(
        environment::merge(Some(&[]), &[] as &[&str], &[]).unwrap(),
        ["PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"]
    );
    assert!(environment::merge(None, &["/nonexistent"], &[]).unwrap_err().is(wharf_messages::RefusalKind::NotFound));
}

#[test]
fn wrong_options_are_refused_by_name() {
    let options = SpecOptions::default;
    let text = |list: &[&str]| list.iter().map(ToString::to_string).collect::<Vec<_>>();
    for (options, words) in [
        (SpecOptions { cap_add: text(&["SYS_ADMIN"]), ..options() }, "'CAP_' prefix"),
        (SpecOptions { cap_drop: text(&["CAP_NOPE"]), ..options() }, "CAP_NOPE"),
        (SpecOptions { cpus: Some(1.0), cpu_quota_us: Some(5), ..options() }, "used separately"),
        (SpecOptions { cpus: Some(f64::NAN), ..options() }, "above 0"),
        (SpecOptions { cwd: Some("relative".into()), ..options() }, "absolute"),
        (SpecOptions { devices: vec!["/dev/nope".into()], ..options() }, "/dev/nope"),
        (SpecOptions { devices: vec!["/etc/passwd".into()], ..options() }, "not a device"),
        (SpecOptions { seccomp: Seccomp::Profile("/nonexistent".into()), ..options() }, "/nonexistent"),
        (SpecOptions { memory_limit_bytes: Some(u64::MAX), ..options() }, "memory limit"),
        (SpecOptions { user: Some("nosuch".into()), ..options() }, "nosuch"),
    ] {
        let refusal = with(options).unwrap_err();
        assert!(refusal.detail.contains(words), "{refusal}");
    }
    assert!(builder().build(&Users::default()).unwrap_err().detail.contains("no command"));
}

#[test]
fn command_line_forms_are_parsed() {
    let mount = SpecMount::parse("type=bind,src=/tmp,dst=/mnt,options=rbind:ro").unwrap();
    assert_eq!(
        mount,
        SpecMount {
            kind: "bind".into(),
            source: "/tmp".into(),
            destination: "/mnt".into(),
            options: vec!["rbind".into(), "ro".into()],
        }
    );
    assert!(SpecMount::parse("target=/x").unwrap_err().detail.contains("mount option \"target\" not supported"));
    assert!(SpecMount::parse("bind").is_err());
    assert_eq!(JoinNamespace::parse("network:/run/netns/x").unwrap().path, PathBuf::from("/run/netns/x"));
    assert!(JoinNamespace::parse("foo:/x").is_err() && JoinNamespace::parse("network").is_err());
    assert_eq!(IdMap::parse("0:1000:10").unwrap(), IdMap { container_id: 0, host_id: 1000, size: 10 });
    assert_eq!(IdMap::parse("0x0:0x10:010").unwrap(), IdMap { container_id: 0, host_id: 16, size: 8 });
    assert!(
        ["0:1", "a:b:c", "0:1:0", "0:1:2:3", "0:+1:2", "0:-1:2", "0:4294967296:2"]
            .iter()
            .all(|text| IdMap::parse(text).is_err())
    );
    let limit = Rlimit::parse("nofile=1024:unlimited").unwrap();
    assert_eq!((limit.soft, limit.hard), (1024, u64::MAX));
    assert!(["nofile", "nope=1", "nofile=x", "nofile=2:1"].iter().all(|text| Rlimit::parse(text).is_err()));
}

#[test]
fn resources_go_where_they_belong() {
    let spec = with(SpecOptions {
        memory_limit_bytes: Some(1 << 20),
        cpus: Some(0.5),
        cpu_shares: Some(512),
        cpuset_cpus: Some("0".into()),
        pids_limit: Some(9),
        rlimits: vec![Rlimit::parse("nofile=7").unwrap(), Rlimit::parse("core=0").unwrap()],
        cgroup: Some("/a/b".into()),
        hostname: Some("h".into()),
        ..SpecOptions::default()
    })
    .unwrap();
    let resources = &spec["linux"]["resources"];
    assert_eq!(resources["memory"], json!({"limit": 1 << 20}));
    assert_eq!(resources["cpu"], json!({"quota": 50_000, "period": 100_000, "shares": 512, "cpus": "0"}));
    assert_eq!(resources["pids"], json!({"limit": 9}));
    assert_eq!((&spec["linux"]["cgroupsPath"], &spec["hostname"]), (&json!("/a/b"), &json!("h")));
    assert_eq!(
        spec["process"]["rlimits"],
        json!([
            {"type": "RLIMIT_NOFILE", "soft": 7, "hard": 7},
            {"type": "RLIMIT_CORE", "soft": 0, "hard": 0},
        ])
    );
    let none = with(SpecOptions { cgroup: Some(String::new()), ..SpecOptions::default() }).unwrap();
    assert!(none["linux"].get("cgroupsPath").is_none());
}

#[test]
fn an_added_process_is_the_containers_but_for_what_was_asked() {
    let options = SpecOptions { args: vec!["init".into()], env: vec!["A=1".into()], ..SpecOptions::default() };
    let spec = builder().options(options).build(&Users::default()).unwrap();
    let exec = ExecOptions { args: vec!["sh".into()], tty: true, user: Some("7:8".into()), ..ExecOptions::default() };
    let any = exec.process(&spec, &Users::default()).unwrap();
    let process: Value = serde_json::from_slice(&any.value).unwrap();
    assert_eq!((any.type_url.as_str(), &process["args"]), (Any::PROCESS, &json!(["sh"])));
    assert_eq!((&process["terminal"], &process["env"]), (&json!(true), &json!(["A=1"])));
    assert_eq!(process["user"], json!({"uid": 7, "gid": 8, "additionalGids": [8]}));
    assert!(ExecOptions::default().process(&spec, &Users::default()).is_err());
}

#[test]
fn a_record_holds_the_spec_and_gives_it_back() {
    let spec = builder().options(SpecOptions { args: vec!["x".into()], ..SpecOptions::default() });
    let spec = spec.build(&Users::default()).unwrap();
    let any = to_any(&spec).unwrap();
    assert_eq!(any, to_any(&spec.clone()).unwrap());
    assert_eq!(from_any(&any).unwrap(), spec);
    // The fields come as the specification's types have them, not by their names.
    let text = String::from_utf8(any.value.to_vec()).unwrap();
    let at = |field: &str| text.find(&format!("\"{field}\":")).unwrap();
    for fields in
        [["ociVersion", "root", "mounts", "process", "linux"], ["user", "args", "cwd", "capabilities", "rlimits"]]
    {
        assert!(fields.windows(2).all(|pair| at(pair[0]) < at(pair[1])), "{text}");
    }
    assert!(text.contains(r#""capabilities":{"bounding":["CAP_AUDIT_WRITE","CAP_CHOWN","#), "{text}");
    assert!(from_any(&Any::new("other", any.value.clone())).is_err());
    assert!(from_any(&Any::new(Any::SPEC, "[")).is_err());
}

#[test]
fn runc_options_are_protobuf() {
    let options =
        RuncOptions { no_new_keyring: true, binary_name: "crun".into(), io_uid: 300, ..RuncOptions::default() };
    assert_eq!(options.to_any(), Any::new("containerd.runc.v1.Options", *b"\x10\x01\x20\xac\x02\x32\x04crun"));
}
