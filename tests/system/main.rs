//! Everything together, as a person uses it: the real daemon, client and shim, Debian's registry, real images.
//!
//! Run by `make test`; each test has a daemon, folders and a namespace of its own.

#![allow(clippy::unwrap_used)]

mod cgroup_views;
mod cli;
mod crash;
mod ctr;
mod ctr_client;
mod ctr_tree;
mod docker;
mod docker_restarts;
mod events;
mod fixture;
mod foreign_shim;
mod full_disk;
mod gc;
mod go_client;
mod hostile_clients;
mod images;
mod import;
mod isolation;
mod load;
mod observe;
mod own_shim;
mod peers;
mod policies;
mod proxy;
mod pull;
mod push;
mod refusals;
mod restart;
mod roots;
mod run;
mod run_flags;
mod sharing;
mod streaming;
mod suites;
mod supervision;
mod tasks;
mod terminal;
mod traces;
mod unpack;
