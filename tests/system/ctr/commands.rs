//! Commands that the real `ctr` composes itself and our client has the daemon do: both have to come to the same.

use super::step::{Scenario, sh};

/// The scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "convert, by either client",
        events: None,
        steps: &[
            sh("ctr images pull --plain-http --all-platforms $MULTI >/dev/null"),
            sh("ctr images import $ARCHIVE"),
            sh("ctr images convert --uncompress --oci $MULTI example.com/plain:1"),
            sh("ctr images convert --uncompress --platform linux/arm64 $MULTI example.com/arm:1"),
            sh("ctr images convert --uncompress --all-platforms $MULTI example.com/all:1"),
            sh("ctr images convert --oci --all-platforms $MULTI example.com/same:1"),
            sh("ctr images convert --oci --uncompress $IMAGE example.com/oci:1"),
            sh("ctr images convert --oci $IMAGE example.com/oci:1"),
            // Sizes and platforms are told in other ways.
            sh("ctr images ls | awk '{print $1, $2, $3}'"),
            sh("ctr images check | awk '{print $1, $4, $5}'"),
            sh("ctr content get $(ctr images ls name==example.com/all:1 | awk 'NR==2{print $3}')"),
            sh("ctr run --rm example.com/plain:1 a"),
            sh("ctr run --rm example.com/oci:1 a echo converted"),
            sh("ctr images convert --oci example.com/nothing:1 example.com/new:1"),
            sh("ctr images convert --oci $MULTI"),
            sh("ctr images convert"),
            // What it was made from is not needed any more.
            sh("ctr images rm --sync $MULTI $IMAGE"),
            sh("ctr images check | awk '{print $1, $4, $5}'"),
        ],
    },
    Scenario {
        name: "objects of a registry, by either client",
        events: None,
        steps: &[
            sh("ctr content fetch-object --plain-http $MULTI"),
            sh("ctr content fetch-object --plain-http $PULLED | tee manifest"),
            sh(
                "layer=$(grep -o 'sha256:[0-9a-f]*' manifest | tail -n 1); ctr content fetch-object --plain-http ${PULLED%:*}@$layer | sha256sum",
            ),
            sh("ctr content fetch-object --plain-http $REGISTRY/app/nothing:1"),
            sh("ctr content ls -q"),
            // Kept by a label of its own, or what the steps before left to a collection would take it along.
            sh(
                "until printf abc | ctr content ingest one && ctr content label sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad containerd.io/gc.root=x >/dev/null 2>&1; do :; done",
            ),
            sh(
                "ctr content push-object --plain-http $REGISTRY/objects/$NS:1 sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad application/octet-stream",
            ),
            sh(
                "ctr content push-object --plain-http $REGISTRY/objects/$NS:1 sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad application/octet-stream",
            ),
            sh(
                "ctr content fetch-object --plain-http $REGISTRY/objects/$NS@sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            sh("ctr content push-object --plain-http $REGISTRY/objects/$NS:1 nonsense application/octet-stream"),
            sh(
                "ctr content push-object --plain-http $REGISTRY/objects/$NS:1 sha256:1111111111111111111111111111111111111111111111111111111111111111 a/b",
            ),
            // A manifest whose blobs the repository has.
            sh(
                "ctr images pull --plain-http $PULLED >/dev/null; ctr images push --plain-http $REGISTRY/objects/$NS:2 $PULLED >/dev/null",
            ),
            sh(
                "ctr content push-object --plain-http $REGISTRY/objects/$NS:3 $(ctr images ls name==$PULLED | awk 'NR==2{print $3, $2}')",
            ),
            sh("ctr content fetch-object --plain-http $REGISTRY/objects/$NS:3"),
        ],
    },
    Scenario {
        name: "install, by either client",
        events: None,
        steps: &[
            sh("ctr images import $ARCHIVE"),
            sh("mkdir opt other; ctr install --path $DIR/opt $IMAGE; ls opt; ls opt/bin | md5sum"),
            sh("opt/bin/busybox echo installed"),
            sh("ctr install --path $DIR/opt $IMAGE 2>&1 | grep -o 'cannot replace bin/'"),
            sh("rm opt/bin/busybox; ctr install --replace --libs --path $DIR/opt $IMAGE; opt/bin/busybox echo again"),
            sh("ls $DIR/opt"),
            sh("ctr install --path $DIR/other example.com/nothing:1"),
        ],
    },
    Scenario {
        name: "import with compression, by either client",
        events: None,
        steps: &[
            // Two compressors come to two digests.
            sh("ctr images import --compress-blobs $ARCHIVE | sed 's/sha256:[0-9a-f]*//'"),
            sh("ctr content ls | grep -c containerd.io/uncompressed="),
            sh("ctr content get $(ctr images ls | awk 'NR==2{print $3}') | grep -o 'diff.tar[.a-z]*'"),
            sh("ctr run --rm $IMAGE a echo compressed"),
        ],
    },
];
