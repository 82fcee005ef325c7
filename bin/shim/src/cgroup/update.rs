//! New limits for a container that runs.

use std::path::Path;

use libcontainer::oci_spec::runtime::{LinuxCpu, LinuxMemory, LinuxResources};
use wharf_messages::{Answer, Refusal};

use super::{Cgroup, Version, write};

/// One file to be written, in the folder of one controller.
#[derive(Debug, PartialEq, Eq)]
struct Setting {
    controller: &'static str,
    file: String,
    value: String,
}

fn setting(controller: &'static str, file: impl Into<String>, value: impl ToString) -> Setting {
    Setting { controller, file: file.into(), value: value.to_string() }
}

impl Cgroup {
    /// Applies the limits that are given and leaves the others as they are.
    ///
    /// # Errors
    /// Not implemented where a controller is missing, otherwise whatever the kernel answers.
    pub fn update(&self, resources: &LinuxResources) -> Answer<()> {
        let settings = match self.version {
            Version::V1 => settings_v1(resources),
            Version::V2 => settings_v2(resources)?,
        };
        let mut failed = Vec::new();
        for setting in settings {
            let folder = self.own_folder(setting.controller).ok_or_else(|| {
                Refusal::not_implemented(format!("the {} controller is not there to set a limit", setting.controller))
            })?;
            if let Err(refusal) = apply(folder, &setting) {
                failed.push((setting, refusal));
            }
        }
        // A limit on memory and one on memory and swap may only be lowered, or raised, in that order or the other:
        // what failed is tried once more after the rest.
        for (setting, _) in failed {
            let folder = self.own_folder(setting.controller).unwrap_or(Path::new("/"));
            apply(folder, &setting)?;
        }
        Ok(())
    }
}

fn apply(folder: &Path, setting: &Setting) -> Answer<()> {
    write(&folder.join(&setting.file), &setting.value)
}

fn settings_v1(resources: &LinuxResources) -> Vec<Setting> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_v1(memory, &mut settings);
    }
    if let Some(cpu) = resources.cpu() {
        let mut add = |file: &str, value: Option<String>| {
            settings.extend(value.map(|value| setting("cpu", file, value)));
        };
        add("cpu.shares", cpu.shares().filter(|n| *n > 0).map(|n| n.to_string()));
        add("cpu.cfs_burst_us", cpu.burst().map(|n| n.to_string()));
        add("cpu.cfs_period_us", cpu.period().filter(|n| *n > 0).map(|n| n.to_string()));
        add("cpu.cfs_quota_us", cpu.quota().filter(|n| *n != 0).map(|n| n.to_string()));
        add("cpu.rt_period_us", cpu.realtime_period().filter(|n| *n > 0).map(|n| n.to_string()));
        add("cpu.rt_runtime_us", cpu.realtime_runtime().filter(|n| *n > 0).map(|n| n.to_string()));
        add("cpu.idle", cpu.idle().map(|n| n.to_string()));
        cpuset(cpu, &mut settings);
    }
    if let Some(pids) = resources.pids() {
        settings.push(setting("pids", "pids.max", limit(pids.limit())));
    }
    if let Some(block) = resources.block_io()
        && let Some(weight) = block.weight().filter(|n| *n > 0)
    {
        settings.push(setting("blkio", "blkio.bfq.weight", weight));
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        settings.push(setting("hugetlb", format!("hugetlb.{}.limit_in_bytes", huge.page_size()), huge.limit()));
    }
    settings
}

fn memory_v1(memory: &LinuxMemory, settings: &mut Vec<Setting>) {
    let mut add = |file: &str, value: Option<i64>| {
        settings.extend(value.filter(|n| *n != 0).map(|n| setting("memory", file, n)));
    };
    add("memory.limit_in_bytes", memory.limit());
    add("memory.memsw.limit_in_bytes", memory.swap());
    add("memory.soft_limit_in_bytes", memory.reservation());
    add("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp());
    settings.extend(memory.swappiness().map(|n| setting("memory", "memory.swappiness", n)));
    settings.extend(memory.disable_oom_killer().map(|off| setting("memory", "memory.oom_control", u8::from(off))));
}

fn settings_v2(resources: &LinuxResources) -> Answer<Vec<Setting>> {
    let mut settings = Vec::new();
    if let Some(memory) = resources.memory() {
        let known = memory.limit().filter(|n| *n != 0);
        if let Some(swap) = memory.swap().filter(|n| *n != 0) {
            // Version 1 limits the sum, version 2 the swap alone.
            let alone = match (swap, known) {
                (..0, _) => "max".to_owned(),
                (sum, Some(limit @ 1..)) if sum >= limit => (sum - limit).to_string(),
                _ => {
                    return Err(Refusal::invalid(
                        "a limit on memory and swap needs one on memory that is not above it",
                    ));
                }
            };
            settings.push(setting("memory", "memory.swap.max", alone));
        }
        settings.extend(known.map(|n| setting("memory", "memory.max", limit(n))));
        let low = memory.reservation().filter(|n| *n != 0);
        settings.extend(low.map(|n| setting("memory", "memory.low", limit(n))));
    }
    if let Some(cpu) = resources.cpu() {
        if let Some(shares) = cpu.shares().filter(|n| *n > 0) {
            settings.push(setting("cpu", "cpu.weight", weight(shares)));
        }
        settings.extend(cpu.burst().map(|n| setting("cpu", "cpu.max.burst", n)));
        let period = cpu.period().filter(|n| *n > 0);
        match (cpu.quota().filter(|n| *n != 0), period) {
            (Some(quota), period) => {
                let quota = limit(quota);
                let period = period.unwrap_or(100_000);
                settings.push(setting("cpu", "cpu.max", format!("{quota} {period}")));
            }
            (None, Some(period)) => settings.push(setting("cpu", "cpu.max", format!("max {period}"))),
            (None, None) => {}
        }
        settings.extend(cpu.idle().map(|n| setting("cpu", "cpu.idle", n)));
        cpuset(cpu, &mut settings);
    }
    if let Some(pids) = resources.pids() {
        settings.push(setting("pids", "pids.max", limit(pids.limit())));
    }
    if let Some(block) = resources.block_io()
        && let Some(weight) = block.weight().filter(|n| *n > 0)
    {
        settings.push(setting("io", "io.bfq.weight", weight));
    }
    for huge in resources.hugepage_limits().iter().flatten() {
        settings.push(setting("hugetlb", format!("hugetlb.{}.max", huge.page_size()), huge.limit()));
    }
    for (file, value) in resources.unified().iter().flatten() {
        if file.contains('/') {
            return Err(Refusal::invalid(format!("unified resource {file:?} is not a file of a cgroup")));
        }
        settings.push(setting("", file.as_str(), value));
    }
    Ok(settings)
}

fn cpuset(cpu: &LinuxCpu, settings: &mut Vec<Setting>) {
    let given = |text: &Option<String>| text.clone().filter(|text| !text.is_empty());
    settings.extend(given(cpu.cpus()).map(|cpus| setting("cpuset", "cpuset.cpus", cpus)));
    settings.extend(given(cpu.mems()).map(|mems| setting("cpuset", "cpuset.mems", mems)));
}

/// A limit, where anything below zero (and no pids at all) means none.
fn limit(value: i64) -> String {
    if value > 0 { value.to_string() } else { "max".to_owned() }
}

/// Version 1's shares (2 to 262,144) on version 2's scale (1 to 10,000), as every runtime maps them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

#[cfg(test)]
mod tests {
    use super::*;

    fn files(settings: Vec<Setting>) -> Vec<(String, String)> {
        settings.into_iter().map(|s| (s.file, s.value)).collect()
    }

    fn resources(json: &str) -> LinuxResources {
        serde_json::from_str(json).unwrap()
    }

    const LIMITS: &str = r#"{"memory":{"limit":1048576,"swap":2097152},"cpu":{"shares":1024,"quota":50000,
        "period":100000,"cpus":"0"},"pids":{"limit":10}}"#;

    fn pairs(expected: &[(&str, &str)]) -> Vec<(String, String)> {
        expected.iter().map(|(f, v)| ((*f).to_owned(), (*v).to_owned())).collect()
    }

    #[test]
    fn version_one() {
        let expected = [
            ("memory.limit_in_bytes", "1048576"),
            ("memory.memsw.limit_in_bytes", "2097152"),
            ("cpu.shares", "1024"),
            ("cpu.cfs_period_us", "100000"),
            ("cpu.cfs_quota_us", "50000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "10"),
        ];
        assert_eq!(files(settings_v1(&resources(LIMITS))), pairs(&expected));
    }

    #[test]
    fn version_two() {
        let expected = [
            ("memory.swap.max", "1048576"),
            ("memory.max", "1048576"),
            ("cpu.weight", "39"),
            ("cpu.max", "50000 100000"),
            ("cpuset.cpus", "0"),
            ("pids.max", "10"),
        ];
        assert_eq!(files(settings_v2(&resources(LIMITS)).unwrap()), pairs(&expected));
        assert!(settings_v2(&resources(r#"{"memory":{"swap":1}}"#)).is_err());
        assert!(settings_v2(&resources(r#"{"unified":{"../x":"1"}}"#)).is_err());
    }

    #[test]
    fn shares_keep_their_ends() {
        assert_eq!((weight(2), weight(262_144), weight(0)), (1, 10_000, 1));
    }
}
