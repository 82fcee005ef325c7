//! Which system calls a container may make: the default list, or a file's.
//!
//! # Spec
//! containerd `contrib/seccomp`: an allow-list that answers EPERM for the rest and widens with capabilities. As in its
//! later versions, io_uring and sockets to the hypervisor are left out: both have been ways out of containers.

use super::{Seccomp, default::made, read_limited};
use oci_spec::runtime::{
    Arch, Capability, LinuxSeccomp, LinuxSeccompAction, LinuxSeccompArg, LinuxSeccompArgBuilder, LinuxSeccompBuilder,
    LinuxSeccompOperator, LinuxSyscall, LinuxSyscallBuilder,
};
use wharf_messages::{Answer, Refusal};

/// The largest profile that is read.
const PROFILE_MAX_BYTES: u64 = 4 << 20;

/// `ENOSYS`: programs that probe for `clone3` then use `clone`, whose flags a filter can see.
const ENOSYS: u32 = 38;
/// `AF_VSOCK`.
const AF_VSOCK: u64 = 40;
/// `CLONE_NEW{NS,CGROUP,UTS,IPC,USER,PID,NET}`.
const CLONE_NAMESPACES: u64 = 0x7e02_0000;
/// What `personality` may be asked for: Linux, its 32-bit face, `UNAME26`, both, and to be told.
const PERSONALITIES: [u64; 5] = [0x0, 0x8, 0x2_0000, 0x2_0008, 0xffff_ffff];

/// Allowed whatever the capabilities.
const ALWAYS: &str = "\
    accept accept4 access adjtimex alarm bind brk capget capset chdir chmod chown chown32 clock_adjtime \
    clock_adjtime64 clock_getres clock_getres_time64 clock_gettime clock_gettime64 clock_nanosleep \
    clock_nanosleep_time64 close close_range connect copy_file_range creat dup dup2 dup3 epoll_create \
    epoll_create1 epoll_ctl epoll_ctl_old epoll_pwait epoll_pwait2 epoll_wait epoll_wait_old eventfd eventfd2 \
    execve execveat exit exit_group faccessat faccessat2 fadvise64 fadvise64_64 fallocate fanotify_mark fchdir \
    fchmod fchmodat fchown fchown32 fchownat fcntl fcntl64 fdatasync fgetxattr flistxattr flock fork \
    fremovexattr fsetxattr fstat fstat64 fstatat64 fstatfs fstatfs64 fsync ftruncate ftruncate64 futex \
    futex_time64 futex_waitv futimesat getcpu getcwd getdents getdents64 getegid getegid32 geteuid geteuid32 \
    getgid getgid32 getgroups getgroups32 getitimer getpeername getpgid getpgrp getpid getppid getpriority \
    getrandom getresgid getresgid32 getresuid getresuid32 getrlimit get_robust_list getrusage getsid getsockname \
    getsockopt get_thread_area gettid gettimeofday getuid getuid32 getxattr inotify_add_watch inotify_init \
    inotify_init1 inotify_rm_watch io_cancel ioctl io_destroy io_getevents io_pgetevents io_pgetevents_time64 \
    ioprio_get ioprio_set io_setup io_submit ipc kill landlock_add_rule landlock_create_ruleset \
    landlock_restrict_self lchown lchown32 lgetxattr link linkat listen listxattr llistxattr _llseek \
    lremovexattr lseek lsetxattr lstat lstat64 madvise membarrier memfd_create memfd_secret mincore mkdir \
    mkdirat mknod mknodat mlock mlock2 mlockall mmap mmap2 mprotect mq_getsetattr mq_notify mq_open \
    mq_timedreceive mq_timedreceive_time64 mq_timedsend mq_timedsend_time64 mq_unlink mremap msgctl msgget \
    msgrcv msgsnd msync munlock munlockall munmap nanosleep newfstatat _newselect open openat openat2 pause \
    pidfd_open pidfd_send_signal pipe pipe2 pkey_alloc pkey_free pkey_mprotect poll ppoll ppoll_time64 prctl \
    pread64 preadv preadv2 prlimit64 process_mrelease pselect6 pselect6_time64 pwrite64 pwritev pwritev2 read \
    readahead readlink readlinkat readv recv recvfrom recvmmsg recvmmsg_time64 recvmsg remap_file_pages \
    removexattr rename renameat renameat2 restart_syscall rmdir rseq rt_sigaction rt_sigpending rt_sigprocmask \
    rt_sigqueueinfo rt_sigreturn rt_sigsuspend rt_sigtimedwait rt_sigtimedwait_time64 rt_tgsigqueueinfo \
    sched_getaffinity sched_getattr sched_getparam sched_get_priority_max sched_get_priority_min \
    sched_getscheduler sched_rr_get_interval sched_rr_get_interval_time64 sched_setaffinity sched_setattr \
    sched_setparam sched_setscheduler sched_yield seccomp select semctl semget semop semtimedop \
    semtimedop_time64 send sendfile sendfile64 sendmmsg sendmsg sendto setfsgid setfsgid32 setfsuid setfsuid32 \
    setgid setgid32 setgroups setgroups32 setitimer setpgid setpriority setregid setregid32 setresgid \
    setresgid32 setresuid setresuid32 setreuid setreuid32 setrlimit set_robust_list setsid setsockopt \
    set_thread_area set_tid_address setuid setuid32 setxattr shmat shmctl shmdt shmget shutdown sigaltstack \
    signalfd signalfd4 sigprocmask sigreturn socketcall socketpair splice stat stat64 statfs statfs64 statx \
    symlink symlinkat sync sync_file_range syncfs sysinfo tee tgkill time timer_create timer_delete \
    timer_getoverrun timer_gettime timer_gettime64 timer_settime timer_settime64 timerfd_create timerfd_gettime \
    timerfd_gettime64 timerfd_settime timerfd_settime64 times tkill truncate truncate64 ugetrlimit umask uname \
    unlink unlinkat utime utimensat utimensat_time64 utimes vfork vmsplice wait4 waitid waitpid write writev";

/// Allowed besides on this kind of processor.
#[cfg(any(target_arch = "x86_64", target_arch = "x86"))]
const OF_PROCESSOR: &str = "arch_prctl modify_ldt";
#[cfg(any(target_arch = "aarch64", target_arch = "arm"))]
const OF_PROCESSOR: &str = "arm_fadvise64_64 arm_sync_file_range sync_file_range2 breakpoint cacheflush set_tls";
#[cfg(target_arch = "riscv64")]
const OF_PROCESSOR: &str = "riscv_flush_icache";
#[cfg(target_arch = "s390x")]
const OF_PROCESSOR: &str = "s390_pci_mmio_read s390_pci_mmio_write s390_runtime_instr";
#[cfg(target_arch = "powerpc64")]
const OF_PROCESSOR: &str = "sync_file_range2 swapcontext";
#[cfg(not(any(
    target_arch = "x86_64",
    target_arch = "x86",
    target_arch = "aarch64",
    target_arch = "arm",
    target_arch = "riscv64",
    target_arch = "s390x",
    target_arch = "powerpc64"
)))]
const OF_PROCESSOR: &str = "";

/// The faces of this kind of processor that a program may show.
#[cfg(target_arch = "x86_64")]
const ARCHITECTURES: &[Arch] = &[Arch::ScmpArchX86_64, Arch::ScmpArchX86, Arch::ScmpArchX32];
#[cfg(target_arch = "aarch64")]
const ARCHITECTURES: &[Arch] = &[Arch::ScmpArchArm, Arch::ScmpArchAarch64];
#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
const ARCHITECTURES: &[Arch] = &[];

/// Allowed with a capability.
const WITH_CAPABILITY: [(Capability, &str); 15] = [
    (Capability::DacReadSearch, "open_by_handle_at"),
    (
        Capability::SysAdmin,
        "bpf clone clone3 fanotify_init fsconfig fsmount fsopen fspick lookup_dcookie mount mount_setattr move_mount \
         name_to_handle_at open_tree perf_event_open quotactl quotactl_fd setdomainname sethostname setns syslog umount \
         umount2 unshare",
    ),
    (Capability::SysBoot, "reboot"),
    (Capability::SysChroot, "chroot"),
    (Capability::SysModule, "delete_module init_module finit_module"),
    (Capability::SysPacct, "acct"),
    (Capability::SysPtrace, "kcmp pidfd_getfd process_madvise process_vm_readv process_vm_writev ptrace"),
    (Capability::SysRawio, "iopl ioperm"),
    (Capability::SysTime, "settimeofday stime clock_settime clock_settime64"),
    (Capability::SysTtyConfig, "vhangup"),
    (Capability::SysNice, "get_mempolicy mbind set_mempolicy"),
    (Capability::Syslog, "syslog"),
    (Capability::Bpf, "bpf"),
    (Capability::Perfmon, "perf_event_open"),
    // What the kernel asks of a process that checkpoints another.
    (Capability::CheckpointRestore, "kcmp"),
];

/// The filter for this choice, given what the container may do.
pub(super) fn choose(choice: &Seccomp, capabilities: &[Capability]) -> Answer<Option<LinuxSeccomp>> {
    match choice {
        Seccomp::Unconfined => Ok(None),
        Seccomp::Default => default_profile(capabilities).map(Some),
        Seccomp::Profile(path) => serde_json::from_slice(&read_limited(path, PROFILE_MAX_BYTES)?)
            .map(Some)
            .map_err(|error| Refusal::invalid(format!("seccomp profile {}: {error}", path.display()))),
    }
}

fn default_profile(capabilities: &[Capability]) -> Answer<LinuxSeccomp> {
    let mut rules = vec![allow(ALWAYS)?, allow("ptrace")?];
    if !OF_PROCESSOR.is_empty() {
        rules.push(allow(OF_PROCESSOR)?);
    }
    rules.push(allow_if("socket", AF_VSOCK, LinuxSeccompOperator::ScmpCmpNe)?);
    for personality in PERSONALITIES {
        rules.push(allow_if("personality", personality, LinuxSeccompOperator::ScmpCmpEq)?);
    }
    for (_, names) in WITH_CAPABILITY.iter().filter(|(capability, _)| capabilities.contains(capability)) {
        rules.push(allow(names)?);
    }
    if !capabilities.contains(&Capability::SysAdmin) {
        // Processes and threads, but no new namespaces.
        rules.push(allow_if("clone", CLONE_NAMESPACES, LinuxSeccompOperator::ScmpCmpMaskedEq)?);
        let clone3 = LinuxSyscallBuilder::default().names(["clone3".to_owned()]);
        rules.push(made(clone3.action(LinuxSeccompAction::ScmpActErrno).errno_ret(ENOSYS).build())?);
    }
    let builder = LinuxSeccompBuilder::default().default_action(LinuxSeccompAction::ScmpActErrno);
    made(builder.architectures(ARCHITECTURES).syscalls(rules).build())
}

fn allow(names: &str) -> Answer<LinuxSyscall> {
    let names = names.split_whitespace().map(str::to_owned).collect::<Vec<_>>();
    made(LinuxSyscallBuilder::default().names(names).action(LinuxSeccompAction::ScmpActAllow).build())
}

/// Allows a call by its first argument. For the masked comparison `value` is the mask, and what it leaves must be 0.
fn allow_if(name: &str, value: u64, op: LinuxSeccompOperator) -> Answer<LinuxSyscall> {
    // On s390 the flags are the second argument of clone.
    let index = usize::from(cfg!(target_arch = "s390x") && name == "clone");
    let arg: LinuxSeccompArg = made(LinuxSeccompArgBuilder::default().index(index).value(value).op(op).build())?;
    let builder = LinuxSyscallBuilder::default().names([name.to_owned()]).action(LinuxSeccompAction::ScmpActAllow);
    made(builder.args([arg]).build())
}
