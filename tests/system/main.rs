//! Everything together, as a person uses it: the real daemon, client and shim, Debian's registry, real images.
//!
//! Run by `make test`; each test has a daemon, folders and a namespace of its own.

mod peers;
