//! The default AppArmor profile of containers, loaded where it is not.
//!
//! Everything here blocks; from async code, call it by `spawn_blocking`.

use std::{
    fs,
    io::{self, Write},
    path::Path,
    process::{Command, Stdio},
};
use wharf_messages::{Answer, Refusal};

/// The profiles that the kernel has.
const LOADED: &str = "/sys/kernel/security/apparmor/profiles";
/// Where profiles find what they include.
const INCLUDES: &str = "/etc/apparmor.d";
/// The program that reads profiles.
const PARSER: &str = "apparmor_parser";
/// How this process is confined.
const OWN: [&str; 2] = ["/proc/self/attr/apparmor/current", "/proc/self/attr/current"];

/// Sees to it that a profile of this name is loaded: if there is none, the default one.
///
/// # Errors
/// `NotFound` if the kernel has no AppArmor, or there is no `apparmor_parser`; `InvalidArgument` for a name that no profile
/// can have; what the parser says.
///
/// # Spec
/// containerd 1.6 `contrib/apparmor.LoadDefaultProfile`.
pub fn load_default(name: &str) -> Answer<()> {
    let loaded = fs::read_to_string(LOADED).map_err(|error| Refusal::io(format!("open {LOADED}"), &error))?;
    if is_loaded(&loaded, name) {
        return Ok(());
    }
    let includes = |file: &str| Path::new(INCLUDES).join(file).exists();
    let own = OWN.iter().find_map(|file| fs::read_to_string(file).ok()).unwrap_or_default();
    let text = text(name, own_profile(&own), includes("tunables/global"), includes("abstractions/base"))?;
    let refused = |error: &io::Error| Refusal::io(format!("load apparmor profile {name}: run {PARSER}"), error);
    // It replaces, should somebody else load it at this moment; it reads standard input, and leaves its cache alone.
    let mut parser = Command::new(PARSER);
    let parser = parser.args(["--skip-cache", "--replace"]).stdin(Stdio::piped()).stdout(Stdio::piped());
    let mut child = parser.stderr(Stdio::piped()).spawn().map_err(|error| refused(&error))?;
    // What it cannot read it tells of itself.
    child.stdin.take().map(|mut stdin| stdin.write_all(text.as_bytes()));
    let output = child.wait_with_output().map_err(|error| refused(&error))?;
    if output.status.success() {
        return Ok(());
    }
    let said = [output.stdout, output.stderr].concat();
    let said = String::from_utf8_lossy(&said).trim().to_owned();
    Err(Refusal::unknown(format!("load apparmor profile {name}: parser error({said:?}): {}", output.status)))
}

/// Whether the kernel's list has a profile: its lines are `NAME (MODE)`.
fn is_loaded(list: &str, name: &str) -> bool {
    list.lines().any(|line| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(' ')))
}

/// The name in `NAME (MODE)`.
fn own_profile(confined: &str) -> &str {
    match confined.trim_end_matches(['\n', '\0']).split(' ').next() {
        None | Some("") => "unconfined",
        Some(name) => name,
    }
}

/// The default profile: everything that capabilities, permissions and namespaces let through, but for what would change
/// the machine instead of the container.
fn text(name: &str, own: &str, has_tunables: bool, has_base: bool) -> Answer<String> {
    let is_plain = |name: &str| {
        let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"_.:/+@-".contains(&byte);
        name.starts_with(|first: char| first.is_ascii_alphanumeric() || first == '/') && name.bytes().all(plain)
    };
    if !is_plain(name) {
        return Err(Refusal::invalid(format!("apparmor profile {name:?}: letters, digits and _.:/+@- make a name")));
    }
    // One that is named otherwise cannot be spoken of, and is no peer then.
    let own = if is_plain(own) { own } else { "unconfined" };
    let tunables = if has_tunables { "#include <tunables/global>" } else { "@{PROC}=/proc/" };
    let base = if has_base { "#include <abstractions/base>" } else { "" };
    Ok(format!(
        r#"{tunables}

profile "{name}" flags=(attach_disconnected, mediate_deleted) {{
  {base}

  network,
  capability,
  file,
  umount,

  # Mounts are made before, by the runtime.
  deny mount,

  # Who started the container may end it, and its processes may each other.
  signal (receive) peer=unconfined,
  signal (receive) peer="{own}",
  signal (send, receive) peer="{name}",
  ptrace (trace, read, tracedby, readby) peer="{name}",

  # The machine's memory and switches. Processes' own folders are left, and what is a namespace's: the network's and
  # shared memory's.
  deny @{{PROC}}/* w,
  deny @{{PROC}}/{{acpi,asound,bus,driver,fs,irq,scsi,tty}}/** wklx,
  deny @{{PROC}}/{{kcore,kmem,mem,sysrq-trigger}} rwklx,
  deny @{{PROC}}/sys/[^kn]** wklx,
  deny @{{PROC}}/sys/kernel/{{[^s],s[^h],sh[^m]}}** wklx,

  # Devices and drivers; cgroups are left.
  deny /sys/{{[^f],f[^s]}}** wklx,
  deny /sys/fs/{{[^c],c[^g]}}** wklx,
  deny /sys/{{firmware,kernel/security}}/** rwklx,
  deny /sys/devices/virtual/powercap/** rwklx,
}}
"#
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn profiles_are_found_by_their_whole_name() {
        let list = "docker-default (enforce)\n/usr/bin/man (enforce)\n";
        for (name, is_there) in [("docker-default", true), ("docker", false), ("/usr/bin/man", true), ("x", false)] {
            assert_eq!(is_loaded(list, name), is_there, "{name}");
        }
        let confined = ["", "unconfined\n", "docker-default (enforce)\n", "\0"];
        assert_eq!(confined.map(own_profile), ["unconfined", "unconfined", "docker-default", "unconfined"]);
    }

    #[test]
    fn names_that_are_none_are_refused() {
        for name in ["", " x", "a b", "a\"b", "a{b", "-x", "a,b", "a\nb"] {
            assert!(text(name, "unconfined", true, true).is_err(), "{name:?}");
        }
        let text = text("some", "un\"named", true, true).unwrap();
        assert!(text.contains("profile \"some\"") && !text.contains("un\"named"));
    }

    /// AppArmor's own parser takes the text, and compiles it; whether it protects is the kernel's to show.
    #[test]
    fn the_parser_takes_the_profile() {
        let dir = tempfile::tempdir().unwrap();
        for (has_tunables, has_base) in [(true, true), (false, false)] {
            let file = dir.path().join("profile");
            fs::write(&file, text("wharf-default", "/usr/sbin/wharfd", has_tunables, has_base).unwrap()).unwrap();
            let compile = |file: &Path| {
                let mut parser = Command::new(PARSER);
                parser.args(["--skip-kernel-load", "--skip-cache", "--skip-read-cache", "--ofile"]);
                parser
                    .arg(dir.path().join("compiled"))
                    .arg(file)
                    .output()
                    .expect("apparmor is installed: `.setup test`")
            };
            let output = compile(&file);
            assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
            assert!(fs::metadata(dir.path().join("compiled")).unwrap().len() > 0);
            // And it is a test that can fail.
            fs::write(&file, "profile x { deny nonsense }").unwrap();
            assert!(!compile(&file).status.success());
        }
    }
}
