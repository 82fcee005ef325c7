#!/bin/bash
# Lets libFuzzer search one target. `make fuzz` calls it, in the project's folder.
#
#   search.sh TARGET SECONDS
#
# What it has learnt it leaves in target/fuzz/TARGET, for the next time; an input that fails in tests/fuzz/artifacts/TARGET.
set -euo pipefail

target=$1 seconds=$2
here=tests/fuzz
learnt=target/fuzz/$target
log=$learnt.log
artifacts=$here/artifacts/$target/
mkdir -p "$learnt" "$artifacts"
arguments=(
    "$learnt" "$here/seeds/$target" -dict="$here/words/$target" -artifact_prefix="$artifacts"
    -max_total_time="$seconds" -max_len=65536 -timeout=20 -rss_limit_mb=2048 -print_final_stats=1
)
if ! "target/debug/$target" "${arguments[@]}" >"$log" 2>&1; then
    tail -50 "$log" >&2
    echo "fuzz: $target fails; the input is in $artifacts, all that was said in $log" >&2
    exit 1
fi
awk -v target="$target" '
    / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") covered = $(i + 1) }
    /^stat::/ { split($1, name, "::"); stat[name[2]] = $2 }
    END {
        printf "fuzz: %-14s %10d runs, %7d/s, %6d edges, %5d new inputs, %4d MB\n", target,
            stat["number_of_executed_units:"], stat["average_exec_per_sec:"], covered,
            stat["new_units_added:"], stat["peak_rss_mb:"]
    }' "$log"
