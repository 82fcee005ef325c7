//! The figures' messages as data, in the order in which their fields are shown.
//!
//! # Spec
//! containerd/cgroups `stats/v1/metrics.proto` and `v2/stats/metrics.proto`.

/// A message's fields.
#[derive(Debug)]
pub struct Schema {
    /// Its name.
    pub name: &'static str,
    /// Its fields, in the order in which they are shown.
    pub fields: &'static [Field],
}

/// A field of a message.
#[derive(Debug)]
pub struct Field {
    /// Its number on the wire.
    pub number: u32,
    /// Its name.
    pub name: &'static str,
    /// What it holds.
    pub kind: Kind,
}

/// What a field holds.
#[derive(Debug, Clone, Copy)]
pub enum Kind {
    /// An unsigned number.
    Number,
    /// Unsigned numbers.
    Numbers,
    /// A string.
    Text,
    /// A message.
    Message(&'static Schema),
    /// Messages.
    Messages(&'static Schema),
}

/// A line of the table.
#[derive(Debug)]
pub struct Row {
    /// What `ctr` calls it.
    pub name: &'static str,
    /// Where it is.
    pub path: &'static [&'static str],
}

macro_rules! schemas {
    ($($name:ident = $title:literal { $($number:literal $field:ident $kind:expr;)* })*) => {$(
        /// See its name.
        pub static $name: Schema = Schema {
            name: $title,
            fields: &[$(Field { number: $number, name: stringify!($field), kind: $kind },)*],
        };
    )*};
}

macro_rules! rows {
    ($name:ident $($title:literal $($part:ident).+;)*) => {
        /// The figures that the table shows.
        pub static $name: &[Row] = &[$(Row { name: $title, path: &[$(stringify!($part)),+] },)*];
    };
}

use Kind::{Message, Messages, Number, Numbers, Text};

schemas! {
    V1_METRICS = "Metrics" {
        1 hugetlb Messages(&V1_HUGETLB_STAT);
        2 pids Message(&V1_PIDS_STAT);
        3 cpu Message(&V1_CPU_STAT);
        4 memory Message(&V1_MEMORY_STAT);
        5 blkio Message(&V1_BLKIO_STAT);
        6 rdma Message(&V1_RDMA_STAT);
        7 network Messages(&V1_NETWORK_STAT);
        8 cgroup_stats Message(&V1_CGROUP_STATS);
        9 memory_oom_control Message(&V1_MEMORY_OOM_CONTROL);
    }
    V1_HUGETLB_STAT = "HugetlbStat" {
        1 usage Number;
        2 max Number;
        3 failcnt Number;
        4 pagesize Text;
    }
    V1_PIDS_STAT = "PidsStat" {
        1 current Number;
        2 limit Number;
    }
    V1_CPU_STAT = "CPUStat" {
        1 usage Message(&V1_CPU_USAGE);
        2 throttling Message(&V1_THROTTLE);
    }
    V1_CPU_USAGE = "CPUUsage" {
        1 total Number;
        2 kernel Number;
        3 user Number;
        4 per_cpu Numbers;
    }
    V1_THROTTLE = "Throttle" {
        1 periods Number;
        2 throttled_periods Number;
        3 throttled_time Number;
    }
    V1_MEMORY_STAT = "MemoryStat" {
        1 cache Number;
        2 rss Number;
        3 rss_huge Number;
        4 mapped_file Number;
        5 dirty Number;
        6 writeback Number;
        7 pg_pg_in Number;
        8 pg_pg_out Number;
        9 pg_fault Number;
        10 pg_maj_fault Number;
        11 inactive_anon Number;
        12 active_anon Number;
        13 inactive_file Number;
        14 active_file Number;
        15 unevictable Number;
        16 hierarchical_memory_limit Number;
        17 hierarchical_swap_limit Number;
        18 total_cache Number;
        19 total_rss Number;
        20 total_rss_huge Number;
        21 total_mapped_file Number;
        22 total_dirty Number;
        23 total_writeback Number;
        24 total_pg_pg_in Number;
        25 total_pg_pg_out Number;
        26 total_pg_fault Number;
        27 total_pg_maj_fault Number;
        28 total_inactive_anon Number;
        29 total_active_anon Number;
        30 total_inactive_file Number;
        31 total_active_file Number;
        32 total_unevictable Number;
        33 usage Message(&V1_MEMORY_ENTRY);
        34 swap Message(&V1_MEMORY_ENTRY);
        35 kernel Message(&V1_MEMORY_ENTRY);
        36 kernel_tcp Message(&V1_MEMORY_ENTRY);
    }
    V1_MEMORY_ENTRY = "MemoryEntry" {
        1 limit Number;
        2 usage Number;
        3 max Number;
        4 failcnt Number;
    }
    V1_MEMORY_OOM_CONTROL = "MemoryOomControl" {
        1 oom_kill_disable Number;
        2 under_oom Number;
        3 oom_kill Number;
    }
    V1_BLKIO_STAT = "BlkIOStat" {
        1 io_service_bytes_recursive Messages(&V1_BLKIO_ENTRY);
        2 io_serviced_recursive Messages(&V1_BLKIO_ENTRY);
        3 io_queued_recursive Messages(&V1_BLKIO_ENTRY);
        4 io_service_time_recursive Messages(&V1_BLKIO_ENTRY);
        5 io_wait_time_recursive Messages(&V1_BLKIO_ENTRY);
        6 io_merged_recursive Messages(&V1_BLKIO_ENTRY);
        7 io_time_recursive Messages(&V1_BLKIO_ENTRY);
        8 sectors_recursive Messages(&V1_BLKIO_ENTRY);
    }
    V1_BLKIO_ENTRY = "BlkIOEntry" {
        1 op Text;
        2 device Text;
        3 major Number;
        4 minor Number;
        5 value Number;
    }
    V1_RDMA_STAT = "RdmaStat" {
        1 current Messages(&V1_RDMA_ENTRY);
        2 limit Messages(&V1_RDMA_ENTRY);
    }
    V1_RDMA_ENTRY = "RdmaEntry" {
        1 device Text;
        2 hca_handles Number;
        3 hca_objects Number;
    }
    V1_NETWORK_STAT = "NetworkStat" {
        1 name Text;
        2 rx_bytes Number;
        3 rx_packets Number;
        4 rx_errors Number;
        5 rx_dropped Number;
        6 tx_bytes Number;
        7 tx_packets Number;
        8 tx_errors Number;
        9 tx_dropped Number;
    }
    V1_CGROUP_STATS = "CgroupStats" {
        1 nr_sleeping Number;
        2 nr_running Number;
        3 nr_stopped Number;
        4 nr_uninterruptible Number;
        5 nr_io_wait Number;
    }
    V2_METRICS = "Metrics" {
        1 pids Message(&V2_PIDS_STAT);
        2 cpu Message(&V2_CPU_STAT);
        4 memory Message(&V2_MEMORY_STAT);
        5 rdma Message(&V2_RDMA_STAT);
        6 io Message(&V2_IO_STAT);
        7 hugetlb Messages(&V2_HUGE_TLB_STAT);
        8 memory_events Message(&V2_MEMORY_EVENTS);
    }
    V2_PIDS_STAT = "PidsStat" {
        1 current Number;
        2 limit Number;
    }
    V2_CPU_STAT = "CPUStat" {
        1 usage_usec Number;
        2 user_usec Number;
        3 system_usec Number;
        4 nr_periods Number;
        5 nr_throttled Number;
        6 throttled_usec Number;
    }
    V2_MEMORY_STAT = "MemoryStat" {
        1 anon Number;
        2 file Number;
        3 kernel_stack Number;
        4 slab Number;
        5 sock Number;
        6 shmem Number;
        7 file_mapped Number;
        8 file_dirty Number;
        9 file_writeback Number;
        10 anon_thp Number;
        11 inactive_anon Number;
        12 active_anon Number;
        13 inactive_file Number;
        14 active_file Number;
        15 unevictable Number;
        16 slab_reclaimable Number;
        17 slab_unreclaimable Number;
        18 pgfault Number;
        19 pgmajfault Number;
        20 workingset_refault Number;
        21 workingset_activate Number;
        22 workingset_nodereclaim Number;
        23 pgrefill Number;
        24 pgscan Number;
        25 pgsteal Number;
        26 pgactivate Number;
        27 pgdeactivate Number;
        28 pglazyfree Number;
        29 pglazyfreed Number;
        30 thp_fault_alloc Number;
        31 thp_collapse_alloc Number;
        32 usage Number;
        33 usage_limit Number;
        34 swap_usage Number;
        35 swap_limit Number;
    }
    V2_MEMORY_EVENTS = "MemoryEvents" {
        1 low Number;
        2 high Number;
        3 max Number;
        4 oom Number;
        5 oom_kill Number;
    }
    V2_RDMA_STAT = "RdmaStat" {
        1 current Messages(&V2_RDMA_ENTRY);
        2 limit Messages(&V2_RDMA_ENTRY);
    }
    V2_RDMA_ENTRY = "RdmaEntry" {
        1 device Text;
        2 hca_handles Number;
        3 hca_objects Number;
    }
    V2_IO_STAT = "IOStat" {
        1 usage Messages(&V2_IO_ENTRY);
    }
    V2_IO_ENTRY = "IOEntry" {
        1 major Number;
        2 minor Number;
        3 rbytes Number;
        4 wbytes Number;
        5 rios Number;
        6 wios Number;
    }
    V2_HUGE_TLB_STAT = "HugeTlbStat" {
        1 current Number;
        2 max Number;
        3 pagesize Text;
    }
}

rows! { V1_ROWS
    "memory.usage_in_bytes" memory.usage.usage;
    "memory.limit_in_bytes" memory.usage.limit;
    "memory.stat.cache" memory.total_cache;
    "cpuacct.usage" cpu.usage.total;
    "cpuacct.usage_percpu" cpu.usage.per_cpu;
    "pids.current" pids.current;
    "pids.limit" pids.limit;
}

rows! { V2_ROWS
    "pids.current" pids.current;
    "pids.limit" pids.limit;
    "cpu.usage_usec" cpu.usage_usec;
    "cpu.user_usec" cpu.user_usec;
    "cpu.system_usec" cpu.system_usec;
    "cpu.nr_periods" cpu.nr_periods;
    "cpu.nr_throttled" cpu.nr_throttled;
    "cpu.throttled_usec" cpu.throttled_usec;
    "memory.usage" memory.usage;
    "memory.usage_limit" memory.usage_limit;
    "memory.swap_usage" memory.swap_usage;
    "memory.swap_limit" memory.swap_limit;
}
