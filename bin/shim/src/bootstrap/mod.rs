//! How a daemon starts a shim, asks what it is, and cleans up after it.
//!
//! # The contract
//! `wharf-shim -namespace NS -address ADDR -publish-binary BIN -id ID [-bundle DIR] [-debug] start|delete`, also `-v`
//! and `-info`; flags with one or two dashes, values after a space or an equals sign. The working folder is the bundle.
//!
//! | variable | meaning |
//! |---|---|
//! | `TTRPC_ADDRESS` | the socket that events are forwarded to; without it there are none |
//! | `MAX_SHIM_VERSION` | the newest answer to `start` that the daemon understands |
//! | `WHARF_SHIM_SOCKET_DIR` | where sockets are made; `/run/containerd/s` without it |
//! | `SCHED_CORE` | if not empty, the shim and its containers get a core scheduling group |
//!
//! `start` reads options on its standard input (an `Any` with `containerd.runc.v1.Options`, or the `BootstrapParams`
//! of containerd 2.3) and answers on its standard output: `BootstrapResult` to `BootstrapParams`; otherwise, if
//! `MAX_SHIM_VERSION` is 3 or more, JSON `{"version":3,"address":"unix://..","protocol":"ttrpc"}`; otherwise the address
//! alone, which every containerd since 1.2 takes for version 2. It writes `address` and `shim.pid` into the bundle.
//!
//! # Spec
//! containerd `docs/runtime-v2.md`.

pub mod address;
pub mod arguments;
pub mod delete;
pub mod info;
pub mod start;
