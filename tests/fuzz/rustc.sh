#!/bin/bash
# rustc for libFuzzer: what cargo calls, in `make fuzz`, instead of the compiler for the workspace's own crates. So these alone
# are built anew, with what they use of generic code; the other crates are those that the tests have built already.
#
# The instrumentation is what cargo-fuzz asks for.
set -euo pipefail

case " $* " in
# A build script has nobody to report to.
*" --crate-name build_script_build "*) exec "$@" ;;
# A test is named so that cargo chooses features as for tests (see the Makefile). Nobody runs it, so it may lack libFuzzer.
*" --test "*) exec "$@" -Clink-arg=-Wl,--unresolved-symbols=ignore-all ;;
esac
coverage=-Cllvm-args=-sanitizer-coverage
exec "$@" -Cpasses=sancov-module $coverage-level=4 $coverage-inline-8bit-counters $coverage-pc-table \
    $coverage-trace-compares $coverage-stack-depth -Cllvm-args=-simplifycfg-branch-fold-threshold=0 -Cdebuginfo=0
