//! Metrics of version 1.

use std::path::Path;

use containerd_shim_protos::cgroups::metrics::{
    BlkIOEntry, BlkIOStat, CPUStat, CPUUsage, HugetlbStat, MemoryEntry, MemoryOomControl, MemoryStat, Metrics,
    PidsStat, Throttle,
};

use super::Cgroup;
use super::stats::{huge_page_sizes, lookup, number, parse, text};

/// How long a tick of `cpuacct.stat` is: the kernel's USER_HZ is 100 everywhere.
const TICK_NS: u64 = 10_000_000;

pub(super) fn read(cgroup: &Cgroup) -> Metrics {
    let memory = cgroup.folder("memory");
    let oom = text(memory, "memory.oom_control");
    let pids = cgroup.folder("pids");
    Metrics {
        hugetlb: huge_pages(cgroup.folder("hugetlb")),
        pids: Some(PidsStat {
            current: number(pids, "pids.current"),
            // containerd says 0 where there is no limit.
            limit: Some(number(pids, "pids.max")).filter(|max| *max != u64::MAX).unwrap_or(0),
            ..Default::default()
        })
        .into(),
        cpu: Some(cpu(cgroup.folder("cpu"), cgroup.folder("cpuacct"))).into(),
        memory: Some(memory_stat(memory)).into(),
        blkio: Some(block(cgroup.folder("blkio"))).into(),
        memory_oom_control: Some(MemoryOomControl {
            oom_kill_disable: lookup(&oom, "oom_kill_disable").unwrap_or(0),
            under_oom: lookup(&oom, "under_oom").unwrap_or(0),
            oom_kill: lookup(&oom, "oom_kill").unwrap_or(0),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

fn cpu(cpu: Option<&Path>, cpuacct: Option<&Path>) -> CPUStat {
    let throttled = text(cpu, "cpu.stat");
    let ticks = text(cpuacct, "cpuacct.stat");
    let ticks_ns = |key| lookup(&ticks, key).unwrap_or(0).saturating_mul(TICK_NS);
    let usage = CPUUsage {
        total: number(cpuacct, "cpuacct.usage"),
        kernel: ticks_ns("system"),
        user: ticks_ns("user"),
        per_cpu: text(cpuacct, "cpuacct.usage_percpu").split_whitespace().map(parse).collect(),
        ..Default::default()
    };
    let throttling = Throttle {
        periods: lookup(&throttled, "nr_periods").unwrap_or(0),
        throttled_periods: lookup(&throttled, "nr_throttled").unwrap_or(0),
        throttled_time: lookup(&throttled, "throttled_time").unwrap_or(0),
        ..Default::default()
    };
    CPUStat { usage: Some(usage).into(), throttling: Some(throttling).into(), ..Default::default() }
}

fn memory_stat(folder: Option<&Path>) -> MemoryStat {
    let stat = text(folder, "memory.stat");
    let get = |key| lookup(&stat, key).unwrap_or(0);
    let entry = |prefix: &str| {
        let file = |name: &str| number(folder, &format!("memory.{prefix}{name}"));
        Some(MemoryEntry {
            limit: file("limit_in_bytes"),
            usage: file("usage_in_bytes"),
            max: file("max_usage_in_bytes"),
            failcnt: file("failcnt"),
            ..Default::default()
        })
        .into()
    };
    MemoryStat {
        cache: get("cache"),
        rss: get("rss"),
        rss_huge: get("rss_huge"),
        mapped_file: get("mapped_file"),
        dirty: get("dirty"),
        writeback: get("writeback"),
        pg_pg_in: get("pgpgin"),
        pg_pg_out: get("pgpgout"),
        pg_fault: get("pgfault"),
        pg_maj_fault: get("pgmajfault"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        hierarchical_memory_limit: get("hierarchical_memory_limit"),
        hierarchical_swap_limit: get("hierarchical_memsw_limit"),
        total_cache: get("total_cache"),
        total_rss: get("total_rss"),
        total_rss_huge: get("total_rss_huge"),
        total_mapped_file: get("total_mapped_file"),
        total_dirty: get("total_dirty"),
        total_writeback: get("total_writeback"),
        total_pg_pg_in: get("total_pgpgin"),
        total_pg_pg_out: get("total_pgpgout"),
        total_pg_fault: get("total_pgfault"),
        total_pg_maj_fault: get("total_pgmajfault"),
        total_inactive_anon: get("total_inactive_anon"),
        total_active_anon: get("total_active_anon"),
        total_inactive_file: get("total_inactive_file"),
        total_active_file: get("total_active_file"),
        total_unevictable: get("total_unevictable"),
        usage: entry(""),
        swap: entry("memsw."),
        kernel: entry("kmem."),
        kernel_tcp: entry("kmem.tcp."),
        ..Default::default()
    }
}

fn huge_pages(folder: Option<&Path>) -> Vec<HugetlbStat> {
    let sizes = huge_page_sizes(folder).into_iter();
    sizes
        .map(|pagesize| HugetlbStat {
            usage: number(folder, &format!("hugetlb.{pagesize}.usage_in_bytes")),
            max: number(folder, &format!("hugetlb.{pagesize}.max_usage_in_bytes")),
            failcnt: number(folder, &format!("hugetlb.{pagesize}.failcnt")),
            pagesize,
            ..Default::default()
        })
        .collect()
}

fn block(folder: Option<&Path>) -> BlkIOStat {
    // Whichever scheduler a device has counts for it; throttling counts for all of them.
    let entries = |names: [&str; 2]| {
        let found = names.iter().map(|name| text(folder, name)).find(|text| text.lines().count() > 1);
        found.as_deref().map(block_entries).unwrap_or_default()
    };
    BlkIOStat {
        io_service_bytes_recursive: entries([
            "blkio.bfq.io_service_bytes_recursive",
            "blkio.throttle.io_service_bytes_recursive",
        ]),
        io_serviced_recursive: entries(["blkio.bfq.io_serviced_recursive", "blkio.throttle.io_serviced_recursive"]),
        ..Default::default()
    }
}

/// Lines of `major:minor operation count`.
fn block_entries(text: &str) -> Vec<BlkIOEntry> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let op = fields.next()?.to_owned();
            let (major, minor, value) = (major.parse().ok()?, minor.parse().ok()?, parse(fields.next()?));
            Some(BlkIOEntry { op, major, minor, value, ..Default::default() })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn block_lines() {
        let entries = block_entries("8:0 Read 4096\n8:0 Write 0\nTotal 4096\n");
        assert_eq!(entries.len(), 2);
        assert_eq!((entries[0].op.as_str(), entries[0].major, entries[0].value), ("Read", 8, 4096));
    }
}
