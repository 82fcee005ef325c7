//! What runc does for a container and libcontainer leaves to others: mounts without a source, a working folder that the
//! image lacks, and a loopback device that is up.

use std::ffi::OsStr;
use std::fs::{self, File};
use std::io;
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::path::{Component, Path};

use rustix::fs::{Mode, OFlags, ResolveFlags};
use rustix::io::Errno;
use serde_json::Value;

use crate::sys;

const LOOPBACK: &[u8] = b"lo";

/// Completes a bundle before its container is made.
///
/// # Errors
/// Whatever the file system answers.
pub fn complete(bundle: &Path) -> io::Result<()> {
    let path = bundle.join("config.json");
    let mut spec: Value = serde_json::from_slice(&fs::read(&path)?)?;
    if name_sources(&mut spec) {
        fs::write(&path, serde_json::to_vec(&spec)?)?;
    }
    let root = spec.pointer("/root/path").and_then(Value::as_str).unwrap_or("rootfs");
    let cwd = spec.pointer("/process/cwd").and_then(Value::as_str).unwrap_or("/");
    make_folder(&bundle.join(root), Path::new(cwd))
}

/// Gives each mount without a source an empty one, which is what the kernel gets from runc. Whether there was any.
fn name_sources(spec: &mut Value) -> bool {
    let mut changed = false;
    for mount in spec.get_mut("mounts").and_then(Value::as_array_mut).into_iter().flatten() {
        let kind = mount.get("type").and_then(Value::as_str);
        if kind.is_some_and(|kind| kind != "bind") && mount.get("source").is_none() {
            mount["source"] = "".into();
            changed = true;
        }
    }
    changed
}

/// Makes a folder with its parents in a container's root, whose links do not lead out of it. A root that cannot be
/// written to is left as it is: the container fails then by its missing folder.
fn make_folder(root: &Path, path: &Path) -> io::Result<()> {
    let root = rustix::fs::open(root, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    let find = |path: &Path| -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        rustix::fs::openat2(&root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)
    };
    if find(path).is_ok() {
        return Ok(());
    }
    let names: Vec<&OsStr> = path.components().filter_map(name).collect();
    let mut parent = find(Path::new("/"))?;
    let mut reached = std::path::PathBuf::from("/");
    for name in names {
        reached.push(name);
        parent = match find(&reached) {
            Ok(folder) => folder,
            Err(Errno::NOENT) => match rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755)) {
                Ok(()) => find(&reached)?,
                // A link that leads nowhere is in the way: for the container to find out.
                Err(Errno::EXIST) => match find(&reached) {
                    Err(Errno::NOENT) => return Ok(()),
                    found => found?,
                },
                Err(Errno::ROFS | Errno::ACCESS) => return Ok(()),
                Err(errno) => return Err(errno.into()),
            },
            // A file is in the way: for the container to find out.
            Err(_) => return Ok(()),
        };
    }
    Ok(())
}

fn name(component: Component<'_>) -> Option<&OsStr> {
    match component {
        Component::Normal(name) => Some(name),
        _ => None,
    }
}

/// Brings the loopback device of a container's own network up. This process is in that network afterwards.
///
/// # Errors
/// Whatever the kernel answers.
pub fn raise_loopback(bundle: &Path, init_pid: i32) -> io::Result<()> {
    let spec: Value = serde_json::from_slice(&fs::read(bundle.join("config.json"))?)?;
    let namespaces = spec.pointer("/linux/namespaces").and_then(Value::as_array);
    let own = |namespace: &Value| {
        let path = namespace.get("path").and_then(Value::as_str).unwrap_or_default();
        namespace.get("type").and_then(Value::as_str) == Some("network") && path.is_empty()
    };
    if !namespaces.into_iter().flatten().any(own) {
        return Ok(());
    }
    sys::enter_namespaces(File::open(format!("/proc/{init_pid}/ns/net"))?.as_fd(), libc::CLONE_NEWNET)?;
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: an all-zero ifreq is one.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    for (to, from) in request.ifr_name.iter_mut().zip(LOOPBACK) {
        *to = *from as libc::c_char;
    }
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_LOOPBACK | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: the socket is open, and the request outlives the call.
    let done = unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &raw const request) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::os::unix::fs::symlink;

    #[test]
    fn only_mounts_without_a_source_get_one() {
        let mut spec = json!({"mounts": [
            {"destination": "/a", "type": "tmpfs"},
            {"destination": "/c", "type": "proc", "source": "own"},
            {"destination": "/d", "type": "bind"},
            {"destination": "/e"},
        ]});
        assert!(name_sources(&mut spec));
        let sources: Vec<_> = spec["mounts"].as_array().unwrap().iter().map(|m| m["source"].as_str()).collect();
        assert_eq!(sources, [Some(""), Some("own"), None, None]);
        assert!(!name_sources(&mut spec));
        assert!(!name_sources(&mut json!({})));
    }

    #[test]
    fn a_missing_folder_is_made_inside_the_root() {
        let scratch = std::env::temp_dir().join(format!("wharf-as-runc-{}", std::process::id()));
        let root = scratch.join("root");
        fs::create_dir_all(root.join("real")).unwrap();
        fs::create_dir(scratch.join("outside")).unwrap();
        symlink("/real", root.join("link")).unwrap();
        symlink("../../outside", root.join("out")).unwrap();
        fs::write(root.join("file"), "").unwrap();
        for cwd in ["/", "/a/b/c", "/link/below", "/out/x", "/file/x", "/../y", "/a/b/c"] {
            make_folder(&root, Path::new(cwd)).unwrap();
        }
        assert!(root.join("a/b/c").is_dir());
        assert!(root.join("real/below").is_dir());
        assert!(root.join("y").is_dir());
        assert!(fs::read_dir(scratch.join("outside")).unwrap().next().is_none(), "a link does not lead out");
        fs::remove_dir_all(scratch).unwrap();
    }
}
