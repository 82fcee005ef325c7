//! Metrics of version 2.

use std::path::Path;

use containerd_shim_protos::cgroups_v2::metrics::{
    CPUStat, HugeTlbStat, IOEntry, IOStat, MemoryEvents, MemoryStat, Metrics, PSIData, PSIStats, PidsStat,
};

use super::Cgroup;
use super::stats::{huge_page_sizes, lookup, number, parse, text};

pub(super) fn read(cgroup: &Cgroup) -> Metrics {
    let folder = cgroup.folder("");
    let events = text(folder, "memory.events");
    let event = |key| lookup(&events, key).unwrap_or(0);
    Metrics {
        pids: Some(PidsStat {
            current: number(folder, "pids.current"),
            limit: number(folder, "pids.max"),
            ..Default::default()
        })
        .into(),
        cpu: Some(cpu(folder)).into(),
        memory: Some(memory(folder)).into(),
        io: Some(IOStat { usage: io(&text(folder, "io.stat")), psi: pressure(folder, "io"), ..Default::default() })
            .into(),
        hugetlb: huge_pages(folder),
        memory_events: Some(MemoryEvents {
            low: event("low"),
            high: event("high"),
            max: event("max"),
            oom: event("oom"),
            oom_kill: event("oom_kill"),
            oom_group_kill: event("oom_group_kill"),
            ..Default::default()
        })
        .into(),
        ..Default::default()
    }
}

fn cpu(folder: Option<&Path>) -> CPUStat {
    let stat = text(folder, "cpu.stat");
    let get = |key| lookup(&stat, key).unwrap_or(0);
    CPUStat {
        usage_usec: get("usage_usec"),
        user_usec: get("user_usec"),
        system_usec: get("system_usec"),
        nr_periods: get("nr_periods"),
        nr_throttled: get("nr_throttled"),
        throttled_usec: get("throttled_usec"),
        nr_bursts: get("nr_bursts"),
        burst_usec: get("burst_usec"),
        psi: pressure(folder, "cpu"),
        ..Default::default()
    }
}

fn memory(folder: Option<&Path>) -> MemoryStat {
    let stat = text(folder, "memory.stat");
    let get = |key| lookup(&stat, key).unwrap_or(0);
    MemoryStat {
        anon: get("anon"),
        file: get("file"),
        kernel_stack: get("kernel_stack"),
        slab: get("slab"),
        sock: get("sock"),
        shmem: get("shmem"),
        file_mapped: get("file_mapped"),
        file_dirty: get("file_dirty"),
        file_writeback: get("file_writeback"),
        anon_thp: get("anon_thp"),
        inactive_anon: get("inactive_anon"),
        active_anon: get("active_anon"),
        inactive_file: get("inactive_file"),
        active_file: get("active_file"),
        unevictable: get("unevictable"),
        slab_reclaimable: get("slab_reclaimable"),
        slab_unreclaimable: get("slab_unreclaimable"),
        pgfault: get("pgfault"),
        pgmajfault: get("pgmajfault"),
        workingset_refault: get("workingset_refault_file"),
        workingset_activate: get("workingset_activate_file"),
        workingset_nodereclaim: get("workingset_nodereclaim"),
        pgrefill: get("pgrefill"),
        pgscan: get("pgscan"),
        pgsteal: get("pgsteal"),
        pgactivate: get("pgactivate"),
        pgdeactivate: get("pgdeactivate"),
        pglazyfree: get("pglazyfree"),
        pglazyfreed: get("pglazyfreed"),
        thp_fault_alloc: get("thp_fault_alloc"),
        thp_collapse_alloc: get("thp_collapse_alloc"),
        usage: number(folder, "memory.current"),
        usage_limit: number(folder, "memory.max"),
        swap_usage: number(folder, "memory.swap.current"),
        swap_limit: number(folder, "memory.swap.max"),
        max_usage: number(folder, "memory.peak"),
        swap_max_usage: number(folder, "memory.swap.peak"),
        psi: pressure(folder, "memory"),
        ..Default::default()
    }
}

fn huge_pages(folder: Option<&Path>) -> Vec<HugeTlbStat> {
    let sizes = huge_page_sizes(folder).into_iter();
    sizes
        .map(|pagesize| HugeTlbStat {
            current: number(folder, &format!("hugetlb.{pagesize}.current")),
            max: number(folder, &format!("hugetlb.{pagesize}.max")),
            failcnt: lookup(&text(folder, &format!("hugetlb.{pagesize}.events")), "max").unwrap_or(0),
            pagesize,
            ..Default::default()
        })
        .collect()
}

/// Lines of `major:minor key=count ...`.
fn io(text: &str) -> Vec<IOEntry> {
    text.lines()
        .filter_map(|line| {
            let mut fields = line.split_whitespace();
            let (major, minor) = fields.next()?.split_once(':')?;
            let mut entry = IOEntry { major: major.parse().ok()?, minor: minor.parse().ok()?, ..Default::default() };
            for (key, value) in fields.filter_map(|field| field.split_once('=')) {
                match key {
                    "rbytes" => entry.rbytes = parse(value),
                    "wbytes" => entry.wbytes = parse(value),
                    "rios" => entry.rios = parse(value),
                    "wios" => entry.wios = parse(value),
                    _ => {}
                }
            }
            Some(entry)
        })
        .collect()
}

/// Lines of `some|full avg10=.. avg60=.. avg300=.. total=..`; absent where the kernel does not measure pressure.
fn pressure(folder: Option<&Path>, what: &str) -> protobuf::MessageField<PSIStats> {
    let text = text(folder, &format!("{what}.pressure"));
    if text.is_empty() {
        return None.into();
    }
    let mut stats = PSIStats::new();
    for line in text.lines() {
        let mut fields = line.split_whitespace();
        let kind = fields.next();
        let mut data = PSIData::new();
        for (key, value) in fields.filter_map(|field| field.split_once('=')) {
            match key {
                "avg10" => data.avg10 = value.parse().unwrap_or(0.0),
                "avg60" => data.avg60 = value.parse().unwrap_or(0.0),
                "avg300" => data.avg300 = value.parse().unwrap_or(0.0),
                "total" => data.total = parse(value),
                _ => {}
            }
        }
        match kind {
            Some("some") => stats.some = Some(data).into(),
            Some("full") => stats.full = Some(data).into(),
            _ => {}
        }
    }
    Some(stats).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn io_lines() {
        let entries = io("8:16 rbytes=1459200 wbytes=3 rios=192 wios=4 dbytes=0 dios=0\nmalformed\n");
        assert_eq!(entries.len(), 1);
        assert_eq!((entries[0].minor, entries[0].rbytes, entries[0].wios), (16, 1_459_200, 4));
    }
}
