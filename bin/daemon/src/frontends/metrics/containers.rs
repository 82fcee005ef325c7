//! The figures of containers, by containerd's names.
//!
//! # Spec
//! containerd/cgroups `stats/v1/metrics.proto`, `v2/stats/metrics.proto` (the fields that are shown here); containerd 1.6
//! `metrics/cgroups/{v1,v2}` for the names.

use super::text::Text;
use prost::Message;
use wharf_messages::{Namespace, task::TaskMetrics};

macro_rules! messages {
    ($($(#[$doc:meta])* $name:ident { $($field:ident: $kind:ty = $tag:literal $how:ident;)* })*) => {$(
        #[derive(Clone, PartialEq, Message)]
        struct $name { $(#[prost($how, tag = $tag)] $field: $kind,)* }
    )*};
}

macro_rules! optional {
    ($($name:ident { $($field:ident: $kind:ty = $tag:literal;)* })*) => {$(
        #[derive(Clone, PartialEq, Message)]
        struct $name { $(#[prost(message, optional, tag = $tag)] $field: Option<$kind>,)* }
    )*};
}

messages! {
    Pids { current: u64 = "1" uint64; limit: u64 = "2" uint64; }
    CpuUsage { total: u64 = "1" uint64; kernel: u64 = "2" uint64; user: u64 = "3" uint64; }
    Entry { limit: u64 = "1" uint64; usage: u64 = "2" uint64; max: u64 = "3" uint64; failcnt: u64 = "4" uint64; }
    CpuV2 { usage_usec: u64 = "1" uint64; user_usec: u64 = "2" uint64; system_usec: u64 = "3" uint64; }
    MemoryV2 { anon: u64 = "1" uint64; file: u64 = "2" uint64; usage: u64 = "32" uint64; usage_limit: u64 = "33" uint64; }
}

#[derive(Clone, PartialEq, Message)]
struct Memory {
    #[prost(uint64, tag = "1")]
    cache: u64,
    #[prost(uint64, tag = "2")]
    rss: u64,
    #[prost(message, optional, tag = "33")]
    usage: Option<Entry>,
}

optional! {
    Cpu { usage: CpuUsage = "1"; }
    MetricsV1 { pids: Pids = "2"; cpu: Cpu = "3"; memory: Memory = "4"; }
    MetricsV2 { pids: Pids = "1"; cpu: CpuV2 = "2"; memory: MemoryV2 = "4"; }
}

/// One figure of one container.
type Figure = (&'static str, &'static str, u64);

/// A container's figures; none if they cannot be read.
fn figures(metrics: &TaskMetrics) -> Vec<Figure> {
    let value = &metrics.data.value[..];
    let pids = |pids: Pids| {
        [
            ("container_pids_current", "The number of processes.", pids.current),
            ("container_pids_limit", "The limit of processes.", pids.limit),
        ]
    };
    if metrics.data.type_url.ends_with("cgroups.v2.Metrics") {
        let MetricsV2 { pids: p, cpu, memory } = MetricsV2::decode(value).unwrap_or_default();
        let (cpu, memory) = (cpu.unwrap_or_default(), memory.unwrap_or_default());
        let rest = [
            ("container_cpu_usage_usec_microseconds", "Processor time used.", cpu.usage_usec),
            ("container_cpu_user_usec_microseconds", "Processor time used in user mode.", cpu.user_usec),
            ("container_cpu_system_usec_microseconds", "Processor time used in the kernel.", cpu.system_usec),
            ("container_memory_usage_bytes", "Memory used.", memory.usage),
            ("container_memory_usage_limit_bytes", "The limit of memory.", memory.usage_limit),
            ("container_memory_anon_bytes", "Anonymous memory.", memory.anon),
            ("container_memory_file_bytes", "Memory of cached files.", memory.file),
        ];
        return p.map(pids).into_iter().flatten().chain(rest).collect();
    }
    let MetricsV1 { pids: p, cpu, memory } = MetricsV1::decode(value).unwrap_or_default();
    let (cpu, memory) = (cpu.and_then(|cpu| cpu.usage).unwrap_or_default(), memory.unwrap_or_default());
    let usage = memory.usage.unwrap_or_default();
    let rest = [
        ("container_cpu_total_nanoseconds", "Processor time used.", cpu.total),
        ("container_cpu_user_nanoseconds", "Processor time used in user mode.", cpu.user),
        ("container_cpu_kernel_nanoseconds", "Processor time used in the kernel.", cpu.kernel),
        ("container_memory_usage_usage_bytes", "Memory used.", usage.usage),
        ("container_memory_usage_limit_bytes", "The limit of memory.", usage.limit),
        ("container_memory_usage_max_bytes", "The most memory that was used.", usage.max),
        ("container_memory_usage_failcnt_total", "How often the limit of memory was met.", usage.failcnt),
        ("container_memory_rss_bytes", "Anonymous memory.", memory.rss),
        ("container_memory_cache_bytes", "Memory of cached files.", memory.cache),
    ];
    p.map(pids).into_iter().flatten().chain(rest).collect()
}

/// Writes the figures of all containers, a family after the other.
pub fn write(text: &mut Text, containers: &[(Namespace, TaskMetrics)]) {
    let mut families: Vec<(Figure, Vec<(usize, u64)>)> = Vec::new();
    for (index, (_, metrics)) in containers.iter().enumerate() {
        for figure in figures(metrics) {
            match families.iter_mut().find(|(family, _)| family.0 == figure.0) {
                Some((_, samples)) => samples.push((index, figure.2)),
                None => families.push((figure, vec![(index, figure.2)])),
            }
        }
    }
    for ((name, help, _), samples) in families {
        let mut family = text.gauge(name, help);
        for (index, value) in samples {
            let (namespace, metrics) = &containers[index];
            let labels = [("container_id", metrics.container_id.as_str()), ("namespace", namespace.as_str())];
            family.sample(&labels, value);
        }
    }
}
