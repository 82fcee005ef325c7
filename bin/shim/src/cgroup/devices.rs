//! Which devices a container may open, on version 2: there is no file for it, only a program that the kernel asks.
//!
//! libcontainer leaves it out there, and with it a container with CAP_MKNOD could make and open the machine's disks.
//! The program tries the rules from the last to the first, as version 1 lets the last word count, and refuses what
//! none allows.

use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd};

use serde::Deserialize;
use wharf_messages::{Answer, Refusal};

use super::{Cgroup, Version};

/// A rule of the OCI specification.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Rule {
    allow: bool,
    /// `a` for all, `b`, `c`, or nothing, which is all.
    #[serde(rename = "type")]
    kind: String,
    /// Absent or negative for all.
    major: Option<i64>,
    minor: Option<i64>,
    /// Of `r`, `w` and `m`; nothing is all.
    access: String,
}

// The kernel's numbers, from `linux/bpf.h`.
const TYPE_BLOCK: i32 = 1;
const TYPE_CHAR: i32 = 2;
const ACCESS_MKNOD: i32 = 1;
const ACCESS_READ: i32 = 2;
const ACCESS_WRITE: i32 = 4;
const ACCESS_ALL: i32 = ACCESS_MKNOD | ACCESS_READ | ACCESS_WRITE;
const BPF_PROG_LOAD: libc::c_long = 5;
const BPF_PROG_ATTACH: libc::c_long = 8;
const PROGRAM_CGROUP_DEVICE: u32 = 15;
const ATTACH_CGROUP_DEVICE: u32 = 6;
const ATTACH_ALLOW_MULTI: u32 = 2;

/// No specification has more rules; the kernel's verifier would take long over more.
const RULES_MAX: usize = 4096;

/// Devices that every container may use, whatever its rules say: it cannot run without them.
fn default_rules() -> Vec<Rule> {
    let character = |major: Option<i64>, minor: Option<i64>| Rule {
        allow: true,
        kind: "c".into(),
        major,
        minor,
        access: "rwm".into(),
    };
    let make = |kind: &str| Rule { allow: true, kind: kind.into(), access: "m".into(), ..Rule::default() };
    let memory = [3, 5, 7, 8, 9].map(|minor| character(Some(1), Some(minor)));
    let terminals = [0, 1, 2].map(|minor| character(Some(5), Some(minor)));
    let mut rules = vec![make("c"), make("b"), character(Some(136), None)];
    rules.extend(memory.into_iter().chain(terminals));
    rules
}

/// An instruction of the kernel's machine.
fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> u64 {
    let [o0, o1] = offset.to_le_bytes();
    let [v0, v1, v2, v3] = value.to_le_bytes();
    u64::from_ne_bytes([code, source << 4 | target, o0, o1, v0, v1, v2, v3])
}

// Registers: what the kernel asks about, taken apart.
const RESULT: u8 = 0;
const CONTEXT: u8 = 1;
const KIND: u8 = 2;
const ACCESS: u8 = 3;
const MAJOR: u8 = 4;
const MINOR: u8 = 5;
const SCRATCH: u8 = 6;

// Operations: a word is loaded from the context, and all else is done on whole registers.
const LOAD_WORD: u8 = 0x61;
const MOVE_REGISTER: u8 = 0xbf;
const MOVE_VALUE: u8 = 0xb7;
const AND_VALUE: u8 = 0x57;
const SHIFT_RIGHT_VALUE: u8 = 0x77;
const JUMP_EQUAL_VALUE: u8 = 0x15;
const JUMP_UNEQUAL_VALUE: u8 = 0x55;
const JUMP_UNEQUAL_REGISTER: u8 = 0x5d;
const EXIT: u8 = 0x95;

/// The program for these rules.
fn program(rules: &[Rule]) -> Answer<Vec<u64>> {
    let mut code = vec![
        instruction(LOAD_WORD, KIND, CONTEXT, 0, 0),
        instruction(MOVE_REGISTER, ACCESS, KIND, 0, 0),
        instruction(SHIFT_RIGHT_VALUE, ACCESS, 0, 0, 16),
        instruction(AND_VALUE, KIND, 0, 0, 0xffff),
        instruction(LOAD_WORD, MAJOR, CONTEXT, 4, 0),
        instruction(LOAD_WORD, MINOR, CONTEXT, 8, 0),
    ];
    for rule in rules.iter().rev() {
        let block = block(rule)?;
        // A rule for everything has the last word; the kernel takes no code that is never reached.
        let is_last = block.len() == DECISION_LEN;
        code.extend(block);
        if is_last {
            return Ok(code);
        }
    }
    code.extend([instruction(MOVE_VALUE, RESULT, 0, 0, 0), instruction(EXIT, 0, 0, 0, 0)]);
    Ok(code)
}

/// How many instructions a decision has.
const DECISION_LEN: usize = 2;

/// The part that decides by one rule, or goes on to the next.
fn block(rule: &Rule) -> Answer<Vec<u64>> {
    let kind = match rule.kind.as_str() {
        "" | "a" => None,
        "b" => Some(TYPE_BLOCK),
        "c" | "u" => Some(TYPE_CHAR),
        other => return Err(Refusal::invalid(format!("device rule of type {other:?}"))),
    };
    let access = access(&rule.access)?;
    let number = |number: Option<i64>| match number {
        None | Some(..0) => Ok(None),
        Some(number) => i32::try_from(number)
            .map(Some)
            .map_err(|_| Refusal::invalid(format!("device number {number} in a device rule"))),
    };
    // Each test, by how many instructions it has and what it must not be; the jumps lead behind the decision.
    let mut tests: Vec<(Vec<u64>, u8, u8, u8, i32)> = Vec::new();
    tests.extend(kind.map(|kind| (Vec::new(), JUMP_UNEQUAL_VALUE, KIND, 0, kind)));
    if access != ACCESS_ALL {
        let masked =
            vec![instruction(MOVE_REGISTER, SCRATCH, ACCESS, 0, 0), instruction(AND_VALUE, SCRATCH, 0, 0, access)];
        // All that is asked for must be allowed; of what is denied, any part denies all.
        tests.push(match rule.allow {
            true => (masked, JUMP_UNEQUAL_REGISTER, SCRATCH, ACCESS, 0),
            false => (masked, JUMP_EQUAL_VALUE, SCRATCH, 0, 0),
        });
    }
    tests.extend(number(rule.major)?.map(|major| (Vec::new(), JUMP_UNEQUAL_VALUE, MAJOR, 0, major)));
    tests.extend(number(rule.minor)?.map(|minor| (Vec::new(), JUMP_UNEQUAL_VALUE, MINOR, 0, minor)));
    let decision: [u64; DECISION_LEN] =
        [instruction(MOVE_VALUE, RESULT, 0, 0, i32::from(rule.allow)), instruction(EXIT, 0, 0, 0, 0)];
    let length = tests.iter().map(|(before, ..)| before.len() + 1).sum::<usize>() + decision.len();
    let mut code = Vec::with_capacity(length);
    for (before, jump, target, source, value) in tests {
        code.extend(before);
        // At most seven instructions are skipped.
        let skip = i16::try_from(length - code.len() - 1).unwrap_or(0);
        code.push(instruction(jump, target, source, skip, value));
    }
    code.extend(decision);
    Ok(code)
}

fn access(letters: &str) -> Answer<i32> {
    if letters.is_empty() {
        return Ok(ACCESS_ALL);
    }
    letters.chars().try_fold(0, |access, letter| match letter {
        'r' => Ok(access | ACCESS_READ),
        'w' => Ok(access | ACCESS_WRITE),
        'm' => Ok(access | ACCESS_MKNOD),
        _ => Err(Refusal::invalid(format!("device access {letters:?}"))),
    })
}

impl Cgroup {
    /// Lets the container open the devices that its rules allow, and no others. On version 1 the runtime has done it.
    ///
    /// # Errors
    /// Invalid argument for rules that make no sense, otherwise whatever the kernel answers.
    pub fn restrict_devices(&self, rules: &[Rule]) -> Answer<()> {
        let Some(folder) = self.own_folder("").filter(|_| self.version == Version::V2 && !rules.is_empty()) else {
            return Ok(());
        };
        if rules.len() > RULES_MAX {
            return Err(Refusal::invalid(format!("{} device rules", rules.len())));
        }
        let program = program(&[rules, &default_rules()].concat())?;
        File::open(folder)
            .and_then(|folder| attach(load(&program)?.as_fd(), folder.as_fd()))
            .map_err(|error| Refusal::io(format!("restrict the devices of {}", folder.display()), &error))
    }
}

/// What `bpf(2)` takes to load a program: the first fields; the kernel takes the rest for zero.
#[repr(C)]
struct Load {
    kind: u32,
    instructions_len: u32,
    instructions: u64,
    license: u64,
    log_level: u32,
    log_size: u32,
    log: u64,
    kernel_version: u32,
    flags: u32,
}

/// What it takes to attach one.
#[repr(C)]
struct Attach {
    target: u32,
    program: u32,
    kind: u32,
    flags: u32,
}

fn load(program: &[u64]) -> io::Result<OwnedFd> {
    let invalid = |_| io::Error::from(io::ErrorKind::InvalidInput);
    let license = c"Apache-2.0";
    let attributes = Load {
        kind: PROGRAM_CGROUP_DEVICE,
        instructions_len: u32::try_from(program.len()).map_err(invalid)?,
        instructions: program.as_ptr() as u64,
        license: license.as_ptr() as u64,
        log_level: 0,
        log_size: 0,
        log: 0,
        kernel_version: 0,
        flags: 0,
    };
    // SAFETY: the attributes and what they point to outlive the call, and their sizes are given; the descriptor is
    // new and ours.
    unsafe {
        let fd = libc::syscall(libc::SYS_bpf, BPF_PROG_LOAD, &raw const attributes, size_of::<Load>());
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        Ok(OwnedFd::from_raw_fd(i32::try_from(fd).map_err(invalid)?))
    }
}

fn attach(program: BorrowedFd<'_>, cgroup: BorrowedFd<'_>) -> io::Result<()> {
    // Open descriptors are not negative.
    let number = |fd: BorrowedFd<'_>| fd.as_raw_fd().unsigned_abs();
    let attributes = Attach {
        target: number(cgroup),
        program: number(program),
        kind: ATTACH_CGROUP_DEVICE,
        // Whoever is above in the tree has a say as well.
        flags: ATTACH_ALLOW_MULTI,
    };
    // SAFETY: the attributes outlive the call, and their size is given.
    let done = unsafe { libc::syscall(libc::SYS_bpf, BPF_PROG_ATTACH, &raw const attributes, size_of::<Attach>()) };
    if done < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cgroup::Node;
    use std::path::{Path, PathBuf};
    use std::process::Command;

    fn rules(json: &str) -> Vec<Rule> {
        serde_json::from_str(json).unwrap()
    }

    /// A cgroup of version 2 that goes with the test, wherever the machine has that version mounted.
    struct Folder(PathBuf);

    impl Folder {
        fn new(name: &str) -> Option<Self> {
            let mounts = ["/sys/fs/cgroup", "/sys/fs/cgroup/unified"].map(Path::new);
            let root = mounts.into_iter().find(|root| root.join("cgroup.controllers").exists())?;
            let folder = root.join(format!("wharf-shim-{name}-{}", std::process::id()));
            std::fs::create_dir(&folder).unwrap();
            Some(Self(folder))
        }

        /// Whether a shell script succeeds in the cgroup.
        fn can(&self, script: &str) -> bool {
            let _children = crate::sys::testing::children();
            let script = format!("echo $$ > {}/cgroup.procs && {script} 2>/dev/null", self.0.display());
            Command::new("sh").args(["-c", &script]).status().unwrap().success()
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            while std::fs::remove_dir(&self.0).is_err_and(|error| error.raw_os_error() == Some(libc::EBUSY)) {
                std::thread::yield_now();
            }
        }
    }

    #[test]
    fn the_kernel_asks_the_program() {
        if !rustix::process::geteuid().is_root() {
            return;
        }
        let Some(folder) = Folder::new("devices") else { return };
        let cgroup = Cgroup {
            version: Version::V2,
            nodes: vec![Node { controllers: String::new(), folder: folder.0.clone(), own: true }],
        };
        let made = std::env::temp_dir().join(format!("wharf-shim-device-{}", std::process::id()));
        let made = made.display();
        // 1:11 is /dev/kmsg, 1:4 the ports; neither is a default.
        let given = r#"[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":1,"minor":11,"access":"r"}]"#;
        assert!(folder.can("head -c 1 /dev/zero"));
        cgroup.restrict_devices(&rules(given)).unwrap();
        assert!(folder.can("head -c 1 /dev/zero"), "a default");
        assert!(folder.can("true < /dev/kmsg"), "allowed by a rule");
        assert!(!folder.can("true >> /dev/kmsg"), "only for reading");
        assert!(folder.can(&format!("mknod {made} c 1 4 && ! head -c 1 {made}")), "made, and not opened");
        std::fs::remove_file(made.to_string()).unwrap();
    }

    #[test]
    fn rules_that_make_no_sense_are_refused() {
        for json in [
            r#"[{"allow":true,"type":"x"}]"#,
            r#"[{"allow":true,"access":"rx"}]"#,
            r#"[{"allow":true,"type":"c","major":99999999999}]"#,
        ] {
            assert!(program(&rules(json)).is_err(), "{json}");
        }
    }

    #[test]
    fn an_instruction_is_as_the_kernel_reads_it() {
        assert_eq!(instruction(0x55, 4, 6, 3, 0x0102_0304).to_ne_bytes(), [0x55, 0x64, 3, 0, 4, 3, 2, 1]);
    }
}
