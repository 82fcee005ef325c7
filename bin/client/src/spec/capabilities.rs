//! Which capabilities a container has.

use super::{SpecOptions, default};
use oci_spec::runtime::Capability;
use wharf_messages::{Answer, Refusal};

/// Every capability by its number in the kernel.
///
/// # Spec
/// Linux `include/uapi/linux/capability.h`.
const BY_NUMBER: [Capability; 41] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::DacReadSearch,
    Capability::Fowner,
    Capability::Fsetid,
    Capability::Kill,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setpcap,
    Capability::LinuxImmutable,
    Capability::NetBindService,
    Capability::NetBroadcast,
    Capability::NetAdmin,
    Capability::NetRaw,
    Capability::IpcLock,
    Capability::IpcOwner,
    Capability::SysModule,
    Capability::SysRawio,
    Capability::SysChroot,
    Capability::SysPtrace,
    Capability::SysPacct,
    Capability::SysAdmin,
    Capability::SysBoot,
    Capability::SysNice,
    Capability::SysResource,
    Capability::SysTime,
    Capability::SysTtyConfig,
    Capability::Mknod,
    Capability::Lease,
    Capability::AuditWrite,
    Capability::AuditControl,
    Capability::Setfcap,
    Capability::MacOverride,
    Capability::MacAdmin,
    Capability::Syslog,
    Capability::WakeAlarm,
    Capability::BlockSuspend,
    Capability::AuditRead,
    Capability::Perfmon,
    Capability::Bpf,
    Capability::CheckpointRestore,
];

/// The bounding set for these options.
pub(super) fn choose(options: &SpecOptions) -> Answer<Vec<Capability>> {
    let mut chosen = if options.privileged { current()? } else { default::CAPABILITIES.to_vec() };
    for name in &options.cap_add {
        let more = if name == "ALL" { current()? } else { vec![parse(name)?] };
        for capability in more {
            if !chosen.contains(&capability) {
                chosen.push(capability);
            }
        }
    }
    for name in &options.cap_drop {
        if name == "ALL" {
            chosen.clear();
        } else {
            let dropped = parse(name)?;
            chosen.retain(|capability| *capability != dropped);
        }
    }
    Ok(chosen)
}

fn parse(name: &str) -> Answer<Capability> {
    if !name.starts_with("CAP_") {
        return Err(Refusal::invalid(format!(
            "capability {name:?}: capabilities must be specified with 'CAP_' prefix"
        )));
    }
    // Through the type's own reader, which knows every name.
    serde_json::from_value(name.into()).map_err(|_| Refusal::invalid(format!("unknown capability {name:?}")))
}

/// All that this process can do: a container cannot have more.
fn current() -> Answer<Vec<Capability>> {
    let status = std::fs::read_to_string("/proc/self/status")
        .map_err(|error| Refusal::io("read this process's capabilities from /proc/self/status", &error))?;
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .ok_or_else(|| Refusal::internal("/proc/self/status does not say this process's capabilities"))?;
    Ok(BY_NUMBER.into_iter().enumerate().filter(|(number, _)| mask >> number & 1 == 1).map(|(_, it)| it).collect())
}
