//! Freezing, limits, memory that runs out, metrics.

// A test that cannot go on fails, and so do its helpers.
#![allow(clippy::unwrap_used)]

mod harness;

use std::fs;

use containerd_shim_protos::api::{
    CheckpointTaskRequest, Empty, PauseRequest, ResumeRequest, StatsRequest, StatsResponse, Status, UpdateTaskRequest,
};
use containerd_shim_protos::cgroups::metrics::Metrics;
use containerd_shim_protos::events::task::TaskOOM;
use containerd_shim_protos::ttrpc::Code;
use harness::client::Refused;
use harness::{World, any, eventually, set, spec};
use protobuf::Message;
use serde_json::json;

fn pause(world: &World) -> Result<(), Refused> {
    world.client().call::<_, Empty>("Pause", &PauseRequest { id: world.id.clone(), ..Default::default() }).map(drop)
}

fn resume(world: &World) -> Result<(), Refused> {
    world.client().call::<_, Empty>("Resume", &ResumeRequest { id: world.id.clone(), ..Default::default() }).map(drop)
}

/// Whether the machine has the memory controller where this can use it.
fn has_memory_limits() -> bool {
    fs::exists("/sys/fs/cgroup/memory/memory.limit_in_bytes").unwrap()
        || fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").is_ok_and(|list| list.contains("memory"))
}

#[test]
fn a_frozen_container_stands_still_and_goes_on() {
    let world = World::run(&["sh", "-c", "while :; do echo >> /count; sleep 0.005; done"]);
    let count = || fs::metadata(world.bundle.join("upper/count")).map_or(0, |file| file.len());
    eventually("the first line", || (count() > 0).then_some(()));
    assert_eq!(resume(&world).unwrap_err().code, Code::UNKNOWN);
    pause(&world).unwrap();
    assert_eq!(world.client().status(&world.id), Status::PAUSED);
    let frozen = count();
    std::thread::sleep(std::time::Duration::from_millis(60));
    assert_eq!(count(), frozen);
    assert_eq!(pause(&world).unwrap_err().code, Code::UNKNOWN);
    assert_eq!(world.client().delete(&world.id, "").unwrap_err().code, Code::UNKNOWN);
    resume(&world).unwrap();
    assert_eq!(world.client().status(&world.id), Status::RUNNING);
    eventually("the next line", || (count() > frozen).then_some(()));
    world.events.wait_for("/tasks/paused");
    world.events.wait_for("/tasks/resumed");
}

#[test]
fn a_frozen_container_can_be_killed() {
    let world = World::run(&["sleep", "1000"]);
    pause(&world).unwrap();
    world.client().kill(&world.id, "", libc::SIGKILL, false).unwrap();
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 137);
    world.client().delete(&world.id, "").unwrap();
    world.assert_gone();
}

#[test]
fn memory_that_runs_out_is_told_and_recorded() {
    if !has_memory_limits() {
        return;
    }
    let mut world = World::with_spec(|id| {
        // The shell itself grows until the kernel ends it.
        let mut spec = spec(id, &["sh", "-c", "x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done"]);
        let memory = json!({"limit": 16 << 20, "swap": 16 << 20});
        set(&mut spec, "/linux/resources", "memory", memory);
        spec
    });
    world.start_shim(3);
    world.client().create(&world.create_request()).unwrap();
    world.client().start(&world.id, "").unwrap();
    assert_eq!(world.client().wait(&world.id, "").unwrap(), 137);
    let record = world.exit_record("init").unwrap();
    assert_eq!((&record["oom_killed"], &record["signal"]), (&json!(true), &json!(9)));
    world.events.wait_for("/tasks/exit");
    let topics = world.events.topics();
    let place = |topic: &str| topics.iter().position(|found| found == topic);
    assert!(place("/tasks/oom").is_some() && place("/tasks/oom") < place("/tasks/exit"), "{topics:?}");
    assert_eq!(world.events.wait_for("/tasks/oom").decode::<TaskOOM>().container_id, world.id);
}

#[test]
fn memory_that_runs_out_for_a_child_is_told_while_init_goes_on() {
    if !has_memory_limits() {
        return;
    }
    let mut world = World::with_spec(|id| {
        let eat = "sh -c 'x=xxxxxxxxxxxxxxxx; while :; do x=$x$x; done'; echo > /survived; sleep 1000";
        let mut spec = spec(id, &["sh", "-c", eat]);
        set(&mut spec, "/linux/resources", "memory", json!({"limit": 16 << 20, "swap": 16 << 20}));
        spec
    });
    world.start_shim(3);
    world.client().create(&world.create_request()).unwrap();
    world.client().start(&world.id, "").unwrap();
    world.events.wait_for("/tasks/oom");
    eventually("init's survival", || world.bundle.join("upper/survived").exists().then_some(()));
    assert_eq!(world.client().status(&world.id), Status::RUNNING);
}

#[test]
fn limits_change_and_metrics_show_it() {
    if !has_memory_limits() {
        return;
    }
    let world = World::run(&["sleep", "1000"]);
    let stats = || {
        let request = StatsRequest { id: world.id.clone(), ..Default::default() };
        let response: StatsResponse = world.client().call("Stats", &request).unwrap();
        response.stats.clone().unwrap()
    };
    let update = |json: &str| {
        let resources = any("types.containerd.io/opencontainers/runtime-spec/1/LinuxResources", json.into());
        let request =
            UpdateTaskRequest { id: world.id.clone(), resources: Some(resources).into(), ..Default::default() };
        world.client().call::<_, Empty>("Update", &request).map(drop)
    };
    update(r#"{"memory":{"limit":67108864},"pids":{"limit":33}}"#).unwrap();
    let found = stats();
    if found.type_url == "io.containerd.cgroups.v1.Metrics" {
        let metrics = Metrics::parse_from_bytes(&found.value).unwrap();
        assert_eq!((metrics.memory.usage.limit, metrics.pids.limit, metrics.pids.current), (64 << 20, 33, 1));
        assert!(metrics.cpu.usage.total > 0 && metrics.memory.usage.usage > 0);
    } else {
        assert_eq!(found.type_url, "io.containerd.cgroups.v2.Metrics");
    }
    assert_eq!(update("nonsense").unwrap_err().code, Code::UNKNOWN);
    update(r#"{"memory":{"limit":33554432,"swap":33554432}}"#).unwrap();
    update(r#"{"memory":{"limit":134217728,"swap":134217728}}"#).unwrap();
}

#[test]
fn what_the_embedded_runtime_cannot_do_is_said() {
    let world = World::run(&["sleep", "1000"]);
    let request = CheckpointTaskRequest { id: world.id.clone(), path: "/tmp/x".into(), ..Default::default() };
    let refused = world.client().call::<_, Empty>("Checkpoint", &request).unwrap_err();
    assert_eq!(refused.code, Code::UNIMPLEMENTED);
    assert!(refused.message.contains("runc"), "{}", refused.message);
    let refused = world.client().call::<_, Empty>("NoSuchMethod", &request).unwrap_err();
    assert_eq!(refused.code, Code::UNIMPLEMENTED);
}
