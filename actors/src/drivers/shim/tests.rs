//! The driver against Debian's `containerd-shim-runc-v2`, with runc behind it: what no command of the client says.

use super::*;
use std::{fs, os::unix::fs::PermissionsExt, path::Path, time::Duration};
use wharf_messages::RefusalKind;

const SHIM: &str = "/usr/bin/containerd-shim-runc-v2";

fn any(name: &str, json: &serde_json::Value) -> Any {
    let type_url = format!("types.containerd.io/opencontainers/runtime-spec/1/{name}");
    Any { type_url, value: json.to_string().into_bytes().into() }
}

/// A root file system with nothing but busybox.
fn root(folder: &Path) -> String {
    let bin = folder.join("root/bin");
    fs::create_dir_all(&bin).unwrap();
    fs::copy("/bin/busybox", bin.join("busybox")).expect("busybox-static is installed: `.setup test`");
    fs::set_permissions(bin.join("busybox"), fs::Permissions::from_mode(0o755)).unwrap();
    folder.join("root").to_str().unwrap().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn every_call_is_understood() {
    let dir = tempfile::tempdir().unwrap();
    let container = ContainerId::new(format!("wst-{}", std::process::id())).unwrap();
    let task = TaskId { namespace: Namespace::new("wharf-shim-test").unwrap(), container };
    let cgroup = format!("/{}", task.container);
    let spec = serde_json::json!({
        "ociVersion": "1.0.2",
        "process": {"args": ["/bin/busybox", "sleep", "1000"], "cwd": "/", "user": {"uid": 0, "gid": 0}},
        "root": {"path": root(dir.path())},
        "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
        "linux": {"cgroupsPath": cgroup, "namespaces": [{"type": "pid"}, {"type": "mount"}]},
    });
    let shims = ProcessShims::new(ShimSettings {
        state: dir.path().join("state"),
        address: dir.path().join("nobody.sock").to_str().unwrap().to_owned(),
        socket_dir: dir.path().join("s").to_str().unwrap().to_owned(),
        publish_binary: "/bin/false".to_owned(),
        debug: false,
        binaries: ShimBinaries::new("/no/such".into(), None, ""),
        env: Vec::new(),
    });
    let runtime = Runtime { name: SHIM.to_owned(), options: None };
    let launch = Launch {
        task: task.clone(),
        runtime,
        runtime_path: String::new(),
        spec_json: spec.to_string().into(),
        checkpoint: None,
    };
    let (address, shim) = shims.launch(launch).await.unwrap();
    assert_eq!((address.version, address.binary.as_str()), (2, SHIM));
    let stdio = Stdio::default();
    let create = CreateProcess {
        bundle: shims.bundle_path(&task),
        rootfs: Vec::new(),
        stdio: stdio.clone(),
        checkpoint: String::new(),
        options: None,
    };
    let pid = shim.create(create).await.unwrap();
    assert_eq!(shim.state(None).await.unwrap().status, TaskStatus::Created);
    assert_eq!(shim.start(None).await.unwrap(), pid);
    // Limits change in the cgroup, whichever version it is of.
    let limits = serde_json::json!({"pids": {"limit": 50}});
    shim.update(&any("LinuxResources", &limits), &Labels::new()).await.unwrap();
    let files = ["/sys/fs/cgroup/pids", "/sys/fs/cgroup"].map(|folder| format!("{folder}{cgroup}/pids.max"));
    let limit = files.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap();
    assert_eq!(limit.trim(), "50");
    let figures = shim.stats().await.unwrap();
    assert!(figures.type_url.starts_with("io.containerd.cgroups.v"), "{}", figures.type_url);
    let exec = ExecId::new("x").unwrap();
    let process = serde_json::json!({"args": ["/bin/busybox", "sleep", "1000"], "cwd": "/"});
    shim.exec(&exec, &stdio, &any("Process", &process)).await.unwrap();
    let added = shim.start(Some(&exec)).await.unwrap();
    let pids: Vec<_> = shim.pids().await.unwrap().into_iter().map(|process| process.pid).collect();
    assert!(pids.contains(&pid) && pids.contains(&added), "{pids:?}");
    shim.kill(Some(&exec), 9, false).await.unwrap();
    assert_eq!(shim.wait(Some(&exec)).await.unwrap().0, 137);
    assert_eq!(shim.delete(Some(&exec)).await.unwrap().1, 137);
    assert_eq!(shim.state(Some(&exec)).await.unwrap_err().kind, RefusalKind::NotFound);
    shim.pause().await.unwrap();
    assert_eq!(shim.state(None).await.unwrap().status, TaskStatus::Paused);
    shim.resume().await.unwrap();
    // Whether CRIU works here or not, the shim answers, in runc's words if it does not.
    let image = dir.path().join("image");
    if let Err(refusal) = shim.checkpoint(image.to_str().unwrap(), None).await {
        assert!(refusal.detail.contains("checkpoint") || refusal.detail.contains("criu"), "{refusal}");
    }
    // Another connection, as a later daemon makes it, finds the same process.
    let again = shims.reattach(&task, &address).await.unwrap();
    assert_eq!(again.state(None).await.unwrap().pid, pid);
    again.kill(None, 9, true).await.unwrap();
    assert_eq!(tokio::time::timeout(Duration::from_secs(30), again.wait(None)).await.unwrap().unwrap().0, 137);
    assert_eq!(again.delete(None).await.unwrap().1, 137);
    again.shutdown().await.unwrap();
    shims.remove_bundle(&task).await.unwrap();
    assert_eq!(shims.bundles().unwrap(), []);
}
