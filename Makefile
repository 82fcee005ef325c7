# make            builds the release binaries into target/bin
# make install    puts them under PREFIX (CTR=1: also under the name ctr)
# make demo       builds, then runs the main job step by step, on folders of its own
# make test       runs everything that has to pass; what CI runs
# make crash      panics at every message, and dies at every failpoint and sync, one by one
# make load       runs a thousand containers under panics and a SIGKILL
# make bench      compares with Debian's containerd
# make fuzz       lets libFuzzer search what reads strangers' bytes, EACH seconds (60) a target, or those that ONLY names
#
# Each installs what it needs and is missing (see .setup).

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DELETE_ON_ERROR:
.NOTPARALLEL:
.PHONY: build install demo test bench crash load fuzz fmt lint doc unit system test-bins setup setup-test clean

PREFIX ?= /usr/local
DESTDIR ?=
CARGO ?= cargo

HOST := $(shell rustc -vV 2>/dev/null | sed -n 's/^host: //p')

# The shim is one process a container: a static, non-relocatable binary needs less than half of the memory. Naming the
# target keeps its flags away from build scripts and from the other crates' artifacts.
SHIM_CARGO = RUSTFLAGS="-C target-feature=+crt-static -C relocation-model=static $(SHIM_RUSTFLAGS)" \
	LIBSECCOMP_LINK_TYPE=static LIBSECCOMP_LIB_PATH=$$(pkg-config --variable=libdir libseccomp) \
	$(CARGO) build --locked -p wharf-shim --target $(HOST)

# Clients are told what the programs were built from, if it is known.
build: export WHARF_REVISION = $(shell git rev-parse HEAD 2>/dev/null)
build: setup
	$(CARGO) build --locked --release -p wharf-daemon -p wharf-ctl
	$(SHIM_CARGO) --release
	$(call gather,target/bin,release,release)
	! grep -q WHARF_FAILPOINTS target/bin/wharfd target/bin/wharf-shim # the tests' failpoints stay with the tests

install: build
	install -d $(DESTDIR)$(PREFIX)/bin
	install -m 755 target/bin/wharfd target/bin/wharf target/bin/wharf-shim $(DESTDIR)$(PREFIX)/bin
	ln -sf wharf-shim $(DESTDIR)$(PREFIX)/bin/containerd-shim-wharf-v2
	[ -z "$(CTR)" ] || ln -sf wharf $(DESTDIR)$(PREFIX)/bin/ctr

demo: build
	tests/demo.sh target/bin

# What the tests need of Debian is installed while the first compilers work, which need less; `setup-test` waits for it.
# Where nothing was ever built to be built again, nothing is noted for that.
test: export CARGO_INCREMENTAL ?= $(if $(wildcard target/debug/incremental/*),1,0)
test:
	./.setup fuzz
	./.setup test &
	$(MAKE) --no-print-directory fmt lint doc
	$(MAKE) --no-print-directory setup-test unit system fuzz

bench: build setup-test
	WHARF_BIN_DIR=$(CURDIR)/target/bin $(CARGO) bench --locked -p wharf-tests --features system --bench peers -- $(ONLY)

# A target a core. What strangers reach most easily is searched for EACH seconds, what is rarer and smaller for a sixth of
# that. What it finds it leaves in tests/fuzz/artifacts, and what it has learnt in target/fuzz. No sanitizer, so that the
# stable toolchain will do: what is looked for are panics, hangs and memory without bounds. (Where cargo-fuzz is installed,
# `cargo fuzz run --fuzz-dir tests/fuzz --features libfuzzer --sanitizer none TARGET` is the same, all built anew.)
EACH ?= 60
FUZZ_FIRST = frames filters references spec manifest layer
FUZZ_ALL = $(FUZZ_FIRST) $(filter-out $(FUZZ_FIRST),$(notdir $(wildcard tests/fuzz/seeds/*)))
fuzz:
	./.setup fuzz
	CARGO_INCREMENTAL=0 RUSTC_WORKSPACE_WRAPPER=$(CURDIR)/tests/fuzz/rustc.sh \
		$(CARGO) build --locked --workspace --features wharf-fuzz/libfuzzer $(addprefix --bin ,$(FUZZ_ALL)) --test seeds
	for target in $(or $(ONLY),$(FUZZ_ALL)); do \
		case " $(FUZZ_FIRST) $(ONLY) " in *" $$target "*) echo $$target $(EACH);; *) echo $$target $$((($(EACH) + 5) / 6));; esac; \
	done | xargs -n2 -P$$(nproc) tests/fuzz/search.sh

fmt:
	$(CARGO) fmt --all --check

lint:
	$(CARGO) clippy --locked --workspace --all-targets --all-features -- -D warnings

# Private items are documented too: the readers of these pages are those who work on the crates. There are no examples, but
# asking for them has cargo choose features as for tests, and find what clippy has looked at.
doc:
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
		$(CARGO) doc --locked --workspace --no-deps --document-private-items --lib --bins --examples

# The whole workspace is named each time, so that every step finds what the one before has built: cargo chooses the
# features of dependencies by what is built together. For the same reason the steps that need no test name one: without
# any, what only tests want of tokio and the like is not wanted, and half of the crates are built again.
unit:
	$(RUN_TESTS) --workspace
	$(CARGO) test --locked --workspace --doc

# The tests' binaries are built for debugging. The shim is static as it is installed, and without debug information: it
# copies itself into memory for each verb of the runtime. It is stripped by a flag of its own target, for a profile that says
# so would have its build scripts and macros built anew.
test-bins: SHIM_RUSTFLAGS = -C strip=symbols
test-bins: setup
	$(CARGO) build --locked --workspace --bins --test architecture
	CARGO_PROFILE_DEV_DEBUG=0 $(SHIM_CARGO) --features failpoints
	$(call gather,target/test-bin,debug,debug)

system: test-bins setup-test
	WHARF_BIN_DIR=$(CURDIR)/target/test-bin $(RUN_TESTS) --workspace --features wharf-tests/system --test system

# Of what `make test` takes a sample: a panic at every message of every actor, a death at every failpoint of daemon and
# shim and at every sync of the store; then a thousand containers under 32 clients, 50 subscribers, panics and a SIGKILL.
LONG_TESTS = WHARF_BIN_DIR=$(CURDIR)/target/test-bin $(CARGO) test --locked --workspace --features wharf-tests/system
crash: test-bins setup-test
	$(LONG_TESTS) --lib attack:: -- --ignored
	$(LONG_TESTS) --test system crash::every -- --ignored --nocapture

load: test-bins setup-test
	$(LONG_TESTS) --test system load::the_whole -- --ignored --nocapture

setup:
	./.setup

setup-test:
	./.setup test

clean:
	$(CARGO) clean
	rm -rf .cache

# nextest gives each test a process and a time limit; cargo's own runner does where it is not installed.
RUN_TESTS = $(if $(shell $(CARGO) nextest --version 2>/dev/null),$(CARGO) nextest run --locked,$(CARGO) test --locked --tests)

# $(call gather,FOLDER,PROFILE FOLDER,SHIM'S PROFILE FOLDER): all three binaries in one folder, as installed.
define gather
	mkdir -p $(1)
	ln -f target/$(2)/wharfd target/$(2)/wharf target/$(HOST)/$(3)/wharf-shim $(1)/
	ln -sf wharf-shim $(1)/containerd-shim-wharf-v2
	ln -sf wharf $(1)/ctr
endef
