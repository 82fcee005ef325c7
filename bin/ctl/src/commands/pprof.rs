//! `pprof`: in `ctr` it reads the profiles of a Go program. wharfd is none; whoever asks is told what to use.

use crate::{
    failure::{Failure, Outcome, program},
    output::time::parse_duration,
};
use clap::{Args, Subcommand};
use std::time::Duration;

/// Which profile.
#[derive(Debug, Args)]
pub struct Pprof {
    // Where containerd's profiles would be.
    #[arg(long, short, hide = true, default_value = "/run/containerd/debug.sock")]
    debug_socket: String,
    /// Which.
    #[command(subcommand)]
    profile: Profile,
}

/// The profiles of a Go program.
#[derive(Debug, Subcommand)]
enum Profile {
    /// Where goroutines wait
    Block,
    /// What goroutines do
    Goroutines,
    /// What is in memory
    Heap,
    /// Where time goes
    #[command(name = "profile")]
    Cpu(For30s),
    /// Who makes threads
    Threadcreate,
    /// What happens when
    Trace(For5s),
}

/// For how long.
#[derive(Debug, Args)]
struct For30s {
    /// For how long
    #[arg(long, short, value_name = "DURATION", value_parser = parse_duration, default_value = "30s")]
    seconds: Duration,
}

/// For how long.
#[derive(Debug, Args)]
struct For5s {
    /// For how long
    #[arg(long, short, value_name = "DURATION", value_parser = parse_duration, default_value = "5s")]
    seconds: Duration,
}

impl Pprof {
    /// Says what to use instead.
    ///
    /// # Errors
    /// Always.
    pub fn run(self) -> Outcome {
        let program = program();
        let instead = match &self.profile {
            Profile::Block | Profile::Goroutines => format!("`{program} supervision tree` shows what its parts do"),
            Profile::Heap => "metrics at /v1/metrics tell its memory, `heaptrack -p PID` what takes it".to_owned(),
            Profile::Cpu(For30s { seconds }) => {
                format!("`perf record -g -p PID -- sleep {}` tells where its time goes", seconds.as_secs_f64())
            }
            Profile::Threadcreate => "/proc/PID/task has its threads, which have names".to_owned(),
            Profile::Trace(For5s { seconds }) => format!(
                "`{program} debug log-level trace` has it log every step, `strace -f -p PID` for {} s every system call",
                seconds.as_secs_f64()
            ),
        };
        Err(Failure::new(format!(
            "wharfd is no Go program and has no such profile at {}: {instead}",
            self.debug_socket
        )))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser;

    #[derive(Parser)]
    struct Line {
        #[command(flatten)]
        pprof: Pprof,
    }

    #[test]
    fn every_profile_says_what_to_use_instead() {
        for (line, words) in [
            ("goroutines", "supervision tree"),
            ("block", "supervision tree"),
            ("heap", "/v1/metrics"),
            ("profile -s 7s", "sleep 7`"),
            ("threadcreate", "/proc"),
            ("-d /x.sock trace", "/x.sock"),
        ] {
            let line = Line::try_parse_from(std::iter::once("pprof").chain(line.split_whitespace())).unwrap();
            let text = line.pprof.run().unwrap_err().text.unwrap();
            assert!(text.contains(words), "{text}");
        }
    }
}
