//! The ground the other tests stand on: Debian's containerd and registry work here, and the images are good.

use wharf_tests::{
    Containerd, Registry, images,
    registry::{Demands, USER},
};

#[test]
fn containerd_runs_what_is_imported() {
    let containerd = Containerd::start();
    let name = "docker.io/library/busybox:latest";
    let archive = images::docker_archive(&images::busybox(), name);
    containerd.ok(["images", "import", archive.to_str().unwrap()]);
    containerd.ok(["run", "--rm", name, "hello", "echo", "hello"]).prints("hello");
    assert_eq!(containerd.ctr(["run", "--rm", name, "seven", "sh", "-c", "exit 7"]).code, 7);
}

#[test]
fn containerd_pulls_from_a_registry_with_tls_and_a_password() {
    let containerd = Containerd::start();
    let registry = Registry::with(Demands { tls: true, password: true });
    let reference = registry.push(&images::multi_platform(), "app/platforms:latest");
    let user = format!("{}:{}", USER.0, USER.1);
    // containerd 1.6 takes loopback for plain HTTP unless a hosts.toml says otherwise.
    let hosts = registry.hosts_folder();
    containerd.ok(["images", "pull", "--user", &user, "--hosts-dir", hosts.to_str().unwrap(), &reference]);
    containerd.ok(["run", "--rm", &reference, "platform"]).prints(images::architecture());
}

#[test]
fn containerd_unpacks_every_entry() {
    let containerd = Containerd::start();
    let registry = Registry::start();
    for packing in [images::Packing::Plain, images::Packing::Gzip, images::Packing::Zstd] {
        let reference =
            registry.push(&images::every_entry(packing), &format!("every/{packing:?}:latest").to_lowercase());
        containerd.ok(["images", "pull", "--plain-http", &reference]);
        let target = containerd.dir().folder("mounted");
        containerd.ok(["images", "mount", &reference, target.to_str().unwrap()]);
        let changed = std::fs::read_to_string(target.join("etc/changed")).unwrap();
        assert_eq!(changed, "second");
        assert!(!target.join("etc/old").exists());
        containerd.ok(["images", "unmount", "--rm", target.to_str().unwrap()]);
    }
}
