//! What a container cannot do.

// A test that cannot go on fails, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;

use containerd_shim_protos::api::{Empty, ExecProcessRequest};
use harness::{World, any, set, spec};
use serde_json::json;

/// A container in which `mkdir` fails with EPERM, whoever calls it.
fn without_mkdir(no_new_privileges: bool) -> World {
    let mut world = World::with_spec(|id| {
        let mut spec = spec(id, &["sh", "-c", "mkdir /made; sleep 1000"]);
        let filter = json!({
            "defaultAction": "SCMP_ACT_ALLOW",
            "architectures": ["SCMP_ARCH_X86_64"],
            "syscalls": [{"names": ["mkdir", "mkdirat"], "action": "SCMP_ACT_ERRNO", "errnoRet": 1}],
        });
        set(&mut spec, "/linux", "seccomp", filter);
        if !no_new_privileges {
            spec["process"].as_object_mut().unwrap().remove("noNewPrivileges");
        }
        spec
    });
    world.start_shim(3);
    world.client().create(&world.create_request()).unwrap();
    world.client().start(&world.id, "").unwrap();
    world
}

fn exec(world: &World, name: &str, args: &[&str], no_new_privileges: bool) -> u32 {
    let mut process = json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 1000, "gid": 1000},
        "capabilities": {"bounding": ["CAP_KILL"]}});
    if no_new_privileges {
        process["noNewPrivileges"] = json!(true);
    }
    let request = ExecProcessRequest {
        id: world.id.clone(),
        exec_id: name.into(),
        spec: Some(any("types.containerd.io/opencontainers/runtime-spec/1/Process", process.to_string().into())).into(),
        ..Default::default()
    };
    world.client().call::<_, Empty>("Exec", &request).unwrap();
    world.client().start(&world.id, name).unwrap();
    world.client().wait(&world.id, name).unwrap()
}

#[test]
fn the_seccomp_profile_holds_for_everybody() {
    for no_new_privileges in [true, false] {
        let world = without_mkdir(no_new_privileges);
        assert_eq!(exec(&world, "plain", &["true"], no_new_privileges), 0);
        assert_eq!(exec(&world, "made", &["test", "-e", "/made"], no_new_privileges), 1, "init could not");
        assert_eq!(exec(&world, "make", &["mkdir", "/tmp/x"], no_new_privileges), 1);
        let seccomp = ["grep", "-qE", "Seccomp:[[:space:]]*2", "/proc/self/status"];
        assert_eq!(exec(&world, "has", &seccomp, no_new_privileges), 0, "an exec has the profile too");
    }
}

#[test]
fn devices_that_are_not_allowed_can_be_made_and_not_opened() {
    // /dev/fuse: whoever may open the device needs no other privilege.
    let script = "mknod /tmp/fuse c 10 229 || exit 1; true < /tmp/fuse && exit 2; true < /dev/null || exit 3; exit 0";
    let mut world = World::with_spec(|id| {
        let mut spec = spec(id, &["sh", "-c", script]);
        for kind in ["bounding", "effective", "permitted"] {
            spec["process"]["capabilities"][kind].as_array_mut().unwrap().push(json!("CAP_DAC_OVERRIDE"));
        }
        spec
    });
    world.start_shim(3);
    world.client().create(&world.create_request()).unwrap();
    world.client().start(&world.id, "").unwrap();
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 0);
}

#[test]
fn a_user_namespace_is_entered_by_execs_too() {
    let mut world = World::with_spec(|id| {
        let mut spec = spec(id, &["sleep", "1000"]);
        let mapping = json!([{"containerID": 0, "hostID": 100_000, "size": 65536}]);
        set(&mut spec, "/linux", "uidMappings", mapping.clone());
        set(&mut spec, "/linux", "gidMappings", mapping);
        spec["linux"]["namespaces"].as_array_mut().unwrap().push(json!({"type": "user"}));
        spec
    });
    world.start_shim(3);
    // The root's files belong to the machine's root, which this container's root is not: it only reads them.
    world.client().create(&world.create_request()).unwrap();
    let init = world.client().start(&world.id, "").unwrap();
    let request = |args: &[&str]| {
        let process = json!({"args": args, "cwd": "/", "env": ["PATH=/bin"], "user": {"uid": 5, "gid": 5}});
        any("types.containerd.io/opencontainers/runtime-spec/1/Process", process.to_string().into())
    };
    let exec = ExecProcessRequest {
        id: world.id.clone(),
        exec_id: "x".into(),
        spec: Some(request(&["sleep", "1000"])).into(),
        ..Default::default()
    };
    world.client().call::<_, Empty>("Exec", &exec).unwrap();
    let pid = world.client().start(&world.id, "x").unwrap();
    let namespace = |pid: i32| fs::read_link(format!("/proc/{pid}/ns/user")).unwrap();
    assert_eq!(namespace(init), namespace(pid));
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid = status.lines().find(|line| line.starts_with("Uid:")).unwrap();
    assert_eq!(uid.split_whitespace().nth(1), Some("100005"));
}

#[test]
fn the_container_has_a_keyring_of_its_own() {
    let world = World::run(&["sleep", "1000"]);
    let init: i32 = fs::read_to_string(world.bundle.join("init.pid")).unwrap().parse().unwrap();
    assert!(harness::is_alive(init));
    if let Ok(keys) = fs::read_to_string("/proc/keys") {
        assert!(keys.contains(&format!("_ses.{}", world.id)), "{keys}");
    }
}
