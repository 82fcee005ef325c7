//! `ctr content`.

use super::step::{Scenario, sh};

/// The scenarios.
pub const SCENARIOS: &[Scenario] = &[
    Scenario {
        name: "content: ingest, list, get, label, delete",
        events: None,
        steps: &[
            sh("ctr content ls").whatever_is_collected(),
            sh("printf abc | ctr content ingest one"),
            sh("printf abc | ctr content ingest one"),
            sh("printf abc | ctr content ingest two"),
            sh("printf abd | ctr content ingest --expected-size 3 three"),
            sh("printf abcd | ctr content ingest --expected-size 3 four"),
            sh("printf ab | ctr content ingest --expected-size 3 four"),
            sh(
                "printf abe | ctr content ingest --expected-digest sha256:1111111111111111111111111111111111111111111111111111111111111111 five",
            ),
            sh("printf abe | ctr content ingest --expected-digest nonsense six"),
            sh(
                "printf abc | ctr content ingest --expected-size 3 --expected-digest sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad seven",
            ),
            sh("ctr content ingest </dev/null"),
            sh("ctr content ingest '' </dev/null"),
            sh("ctr content ingest empty </dev/null"),
            sh("ctr content ls").whatever_is_collected(),
            sh("ctr content ls -q").whatever_is_collected(),
            sh("ctr content ls digest==sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            sh("ctr content ls 'digest'"),
            sh("ctr content ls '=='"),
            sh("ctr content get sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            sh("ctr content get sha256:1111111111111111111111111111111111111111111111111111111111111111"),
            sh("ctr content get nonsense"),
            sh("ctr content get"),
            sh("ctr content label sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad a=b c"),
            sh("ctr content label sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad c="),
            sh("ctr content label sha256:1111111111111111111111111111111111111111111111111111111111111111 a=b"),
            sh("ctr content label nonsense a=b"),
            sh("ctr content label sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            sh("ctr content label"),
            sh("ctr content ls labels.a==b"),
            sh("ctr content delete sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            sh("ctr content rm sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad nonsense"),
            sh("ctr content del"),
            sh("ctr content ls").whatever_is_collected(),
        ],
    },
    Scenario {
        name: "content: what is being written",
        events: None,
        steps: &[
            sh("ctr content active"),
            sh(
                "mkfifo f; exec 3<>f; ctr content ingest slow <f 3<&- & printf abc >&3; sleep 1; ctr content active; ctr content active -t 1ns; ctr content active none",
            ),
            sh("ctr content active"),
        ],
    },
    Scenario {
        name: "content: edit",
        events: None,
        steps: &[
            sh("printf abc | ctr content ingest one"),
            sh(
                "EDITOR='sed -i s/b/x/' ctr content edit sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            sh(
                "ctr content edit --editor 'sed -i s/b/y/' sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            sh("EDITOR=false ctr content edit sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            sh("EDITOR=true ctr content edit sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            sh(
                "EDITOR=true ctr content edit --validate text/plain sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad",
            ),
            sh("EDITOR= ctr content edit sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"),
            sh("EDITOR=true ctr content edit sha256:1111111111111111111111111111111111111111111111111111111111111111"),
            sh("EDITOR=true ctr content edit nonsense"),
            sh("EDITOR=true ctr content edit"),
            sh("ctr content ls").whatever_is_collected(),
        ],
    },
    Scenario {
        name: "content: fetch",
        events: None,
        steps: &[
            sh("ctr content fetch --plain-http $MULTI").unordered(),
            sh("ctr images ls"),
            sh("ctr content ls").whatever_is_collected(),
            sh("ctr content fetch --plain-http --all-platforms --label a=b $MULTI").unordered(),
            sh("ctr content fetch --plain-http --metadata-only --all-metadata $PULLED").unordered(),
            sh("ctr content fetch --plain-http --platform linux/riscv64 $MULTI").unordered(),
            sh("ctr content fetch --plain-http $REGISTRY/app/nothing:1").unordered(),
            sh("ctr content fetch"),
            sh("ctr images check"),
            sh("ctr content ls").whatever_is_collected(),
            sh("ctr content fetch-object --plain-http $MULTI"),
            sh("ctr content fetch-object --plain-http $REGISTRY/app/nothing:1"),
            sh("ctr content fetch-object"),
            sh(
                "ctr content push-object --plain-http $REGISTRY/objects/$NS:1 $(ctr images ls name==$MULTI | awk 'NR==2{print $3}') application/vnd.oci.image.index.v1+json",
            ),
            sh("printf abc | ctr content ingest one"),
            sh(
                "ctr content push-object --plain-http $REGISTRY/objects/$NS:1 sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad application/vnd.oci.image.layer.v1.tar",
            ),
            sh(
                "ctr content push-object --plain-http $REGISTRY/objects/$NS:1 sha256:1111111111111111111111111111111111111111111111111111111111111111 application/vnd.oci.image.layer.v1.tar",
            ),
            sh("ctr content push-object --plain-http $REGISTRY/objects/$NS:1 nonsense application/octet-stream"),
            sh("ctr content push-object"),
        ],
    },
];
