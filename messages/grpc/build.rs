//! Compiles the wire definitions; no `protoc` is needed.

use std::{env, error::Error, fs, path::PathBuf};

/// Every definition, below `proto/`.
const DEFINITIONS: &[&str] = &[
    "containerd/containers.proto",
    "containerd/content.proto",
    "containerd/diff.proto",
    "containerd/events.proto",
    "containerd/event_payloads.proto",
    "containerd/images.proto",
    "containerd/introspection.proto",
    "containerd/leases.proto",
    "containerd/namespaces.proto",
    "containerd/snapshots.proto",
    "containerd/tasks.proto",
    "containerd/version.proto",
    "grpc/health.proto",
];

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed=proto");
    let out = PathBuf::from(env::var("OUT_DIR")?);
    let mut compiler = protox::Compiler::new(["proto"])?;
    compiler.include_imports(true).open_files(DEFINITIONS)?;
    // What the test of the table of calls compares with.
    fs::write(out.join("descriptors.bin"), compiler.encode_file_descriptor_set())?;
    tonic_prost_build::configure()
        // Labels are ordered everywhere else, too.
        .btree_map(".")
        // Blobs pass through without a copy of our own.
        .bytes(".containerd.services.content.v1")
        .extern_path(".google.protobuf.Any", "crate::Any")
        .codec_path("crate::codec::Codec")
        .build_transport(false)
        .include_file("proto.rs")
        .compile_fds(compiler.file_descriptor_set())?;
    Ok(())
}
