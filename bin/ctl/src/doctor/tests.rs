use super::*;
use std::fs;
use tempfile::TempDir;

/// A host whose files the test has written.
struct Made {
    dir: TempDir,
    host: Host,
}

impl Made {
    /// One on which nothing is wrong.
    fn well() -> Self {
        let dir = tempfile::tempdir().unwrap();
        let root = dir.path().to_owned();
        let made = Self {
            host: Host {
                wharf_root: root.join("lib"),
                wharf_state: root.join("run"),
                path: root.join("bin").display().to_string(),
                now_seconds: 1_795_000_000,
                root,
            },
            dir,
        };
        for (path, text) in [
            ("proc/self/status", "Name:\twharf\nUid:\t0\t0\t0\t0\nCapEff:\t000001ffffffffff\n"),
            ("proc/sys/kernel/osrelease", "6.1.0-28-amd64\n"),
            ("proc/filesystems", "nodev\tsysfs\nnodev\toverlay\n\text4\n"),
            ("proc/sys/user/max_user_namespaces", "15000\n"),
            ("proc/sys/kernel/seccomp/actions_avail", "kill_process errno allow\n"),
            ("sys/fs/cgroup/cgroup.controllers", "cpuset cpu io memory pids\n"),
            ("sys/module/apparmor/parameters/enabled", "Y\n"),
            (
                "proc/self/limits",
                "Limit  Soft Limit  Hard Limit  Units\nMax open files            1024                 1048576              files\n",
            ),
            ("proc/sys/kernel/pid_max", "4194304\n"),
            ("proc/sys/kernel/threads-max", "190000\n"),
            ("proc/sys/fs/inotify/max_user_instances", "128\n"),
            ("bin/wharf-shim", ""),
            ("bin/runc", ""),
            ("bin/criu", ""),
        ] {
            made.write(path, text);
        }
        for name in ["mnt", "pid", "net", "ipc", "uts", "cgroup"] {
            let link = made.dir.path().join("proc/self/ns").join(name);
            fs::create_dir_all(link.parent().unwrap()).unwrap();
            std::os::unix::fs::symlink(format!("{name}:[1]"), link).unwrap();
        }
        made
    }

    fn write(&self, path: &str, text: &str) {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn without(self, path: &str) -> Self {
        fs::remove_file(self.dir.path().join(path)).unwrap();
        self
    }

    fn finding(&self, part: &str) -> Finding {
        self.host.examine().into_iter().find(|finding| finding.part == part).unwrap()
    }
}

#[test]
fn a_host_that_is_well_has_nothing_to_be_told() {
    let made = Made::well();
    // The test's own folder may be anybody's and anywhere: that is another test's.
    let told: Vec<_> = made
        .host
        .examine()
        .into_iter()
        .filter(|finding| finding.grade != Grade::Fine && !["disk space", "file system"].contains(&finding.part))
        .collect();
    assert_eq!(told, []);
}

#[test]
fn what_is_missing_is_named_with_what_to_do() {
    let v1 = |controllers: &str| {
        let made = Made::well().without("sys/fs/cgroup/cgroup.controllers");
        made.write("proc/self/mounts", &format!("cgroup /sys/fs/cgroup/x cgroup rw,{controllers} 0 0\n"));
        made
    };
    let with = |path: &str, text: &str| {
        let made = Made::well();
        made.write(path, text);
        made
    };
    let status =
        |uid: &str, caps: &str| with("proc/self/status", &format!("Uid:\t{uid}\t{uid}\t0\t0\nCapEff:\t{caps}\n"));
    let mut early = Made::well();
    early.host.now_seconds = 1_000_000_000;
    let mut writable = Made::well();
    writable.host.wharf_root = writable.dir.path().join("open");
    fs::create_dir(&writable.host.wharf_root).unwrap();
    fs::set_permissions(&writable.host.wharf_root, std::os::unix::fs::PermissionsExt::from_mode(0o777)).unwrap();
    let back = Made::well();
    back.write("lib/wharf.redb", "");
    #[rustfmt::skip]
    let table = [
        (status("1000", "0"),                                          "user",             Grade::Bad,  "user 1000"),
        (status("0", "00000000a80425fb"),                              "user",             Grade::Bad,  "without CAP_SYS_ADMIN"),
        (status("0", "000001fffeffffff"),                              "CAP_SYS_RESOURCE", Grade::Weak, "not held"),
        (with("proc/sys/kernel/osrelease", "5.4.0\n"),                 "kernel",           Grade::Bad,  "5.4.0"),
        (Made::well().without("proc/sys/kernel/osrelease"),            "kernel",           Grade::Bad,  "unknown"),
        (with("proc/filesystems", "\text4\n"),                         "overlayfs",        Grade::Bad,  "not known"),
        (Made::well().without("proc/self/ns/pid"),                     "namespaces",       Grade::Bad,  "without pid"),
        (with("proc/sys/user/max_user_namespaces", "0\n"),             "user namespaces",  Grade::Weak, "none"),
        (Made::well().without("proc/sys/kernel/seccomp/actions_avail"), "seccomp",         Grade::Bad,  "no filters"),
        (with("sys/fs/cgroup/cgroup.controllers", "cpu pids\n"),       "cgroups",          Grade::Weak, "v2 without memory"),
        (v1("cpu,memory,pids,devices,freezer"),                        "cgroups",          Grade::Fine, "v1"),
        (v1("cpu,memory,pids"),                                        "cgroups",          Grade::Bad,  "without devices freezer"),
        (Made::well().without("sys/fs/cgroup/cgroup.controllers"),     "cgroups",          Grade::Bad,  "none mounted"),
        (Made::well().without("sys/module/apparmor/parameters/enabled"), "security module", Grade::Weak, "none"),
        (early,                                                        "clock",            Grade::Bad,  "before"),
        (back,                                                         "clock",            Grade::Weak, "last write"),
        (with("proc/self/limits", "Max open files  1024  4096  files\n"), "open files",    Grade::Weak, "4096"),
        (with("proc/sys/kernel/pid_max", "4096\n"),                    "processes",        Grade::Weak, "4096"),
        (with("proc/sys/fs/inotify/max_user_instances", "8\n"),        "inotify",          Grade::Weak, "8"),
        (Made::well().without("bin/wharf-shim"),                       "wharf-shim",       Grade::Bad,  "not found"),
        (Made::well().without("bin/criu"),                             "criu",             Grade::Weak, "not found"),
        (writable,                                                     "root folder",      Grade::Bad,  "0777"),
    ];
    for (made, part, grade, word) in table {
        let mut made = made;
        if part == "clock" && grade == Grade::Weak {
            // The file was written by the machine's clock.
            made.host.now_seconds = std::time::UNIX_EPOCH.elapsed().unwrap().as_secs() - 3600;
        }
        let finding = made.finding(part);
        assert_eq!(finding.grade, grade, "{finding:?}");
        assert!(finding.found.contains(word), "{finding:?}");
        assert_eq!(finding.advice.is_empty(), grade == Grade::Fine, "{finding:?}");
    }
}
