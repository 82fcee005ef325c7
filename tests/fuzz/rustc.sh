#!/bin/bash
# rustc for libFuzzer: what cargo calls, in `make fuzz`, instead of the compiler for the workspace's own crates. So these alone
# are built anew, with what they use of generic code; the other crates are those that the tests have built already.
#
# The instrumentation is what cargo-fuzz asks for. Build scripts have nobody to report to.
set -euo pipefail

case " $* " in
*" --crate-name build_script_build "*) exec "$@" ;;
esac
coverage=-Cllvm-args=-sanitizer-coverage
exec "$@" -Cpasses=sancov-module $coverage-level=4 $coverage-inline-8bit-counters $coverage-pc-table \
    $coverage-trace-compares $coverage-stack-depth -Cllvm-args=-simplifycfg-branch-fold-threshold=0 \
    -Copt-level=1 -Cdebuginfo=0 -Cdebug-assertions=on -Coverflow-checks=on
