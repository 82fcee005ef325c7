//! JSON, TOML and headers: what registries, images and the machine's own files say.

use std::path::Path;
use wharf_actors::{
    drivers::registry::{check_challenge, check_docker_config, check_hosts},
    health,
    image_graph::{self, ImageConfig, Node},
    restart,
};
use wharf_client::spec::{self, ExecOptions, SpecBuilder, SpecOptions, Users};
use wharf_messages::{
    Any, ContainerId, Descriptor, Digest, Namespace, Platform, RefusalKind, descriptor::media_type,
    image::PlatformChoice,
};

fn described(kind: &str, data: &[u8]) -> Descriptor {
    Descriptor::new(kind, Digest::new(format!("sha256:{}", "0".repeat(64))).unwrap(), data.len() as u64)
}

/// A manifest or an index, as whichever of the four types it is called.
pub fn manifest(data: &[u8]) {
    let kinds = [media_type::OCI_MANIFEST, media_type::OCI_INDEX, media_type::DOCKER_MANIFEST, media_type::DOCKER_LIST];
    let mut read_as = Vec::new();
    for kind in kinds {
        match Node::parse(&described(kind, data), data) {
            Ok(node) => {
                let children = node.children();
                assert!(image_graph::gc_labels(&children).len() == children.len(), "a child would be collected");
                if let Node::Index { manifests } = &node {
                    let all = image_graph::select(manifests, &PlatformChoice::All).unwrap();
                    assert_eq!(&all, manifests);
                    let host = image_graph::select(manifests, &PlatformChoice::Host);
                    assert!(host.into_iter().flatten().all(|one| manifests.contains(&one)));
                }
                read_as.push(media_type::is_index(kind));
            }
            Err(refusal) => assert!(
                matches!(refusal.kind, RefusalKind::InvalidArgument | RefusalKind::ResourceExhausted),
                "{refusal}"
            ),
        }
    }
    read_as.dedup();
    let says = |text: &[u8]| data.windows(text.len()).any(|window| window == text);
    assert!(read_as.len() < 2 || !says(b"\"layers\""), "one document is read as a manifest and as an index");
}

/// An image's config, as the daemon reads it and as a client makes a container's spec of it.
pub fn config(data: &[u8]) {
    if let Ok(config) = ImageConfig::parse(&described(media_type::OCI_CONFIG, data), data) {
        assert_eq!(image_graph::chain_ids(&config.diff_ids).len(), config.diff_ids.len());
        let _ = Platform::host().accepts(&config.platform);
    }
    let Ok(image) = spec::ImageConfig::parse(data) else { return };
    let users = Users::parse("root:x:0:0:root:/root:/bin/sh\nuser:x:1000:1000::/:\n", "root:x:0:\nuser:x:1000:user\n");
    let (namespace, id) = (Namespace::new("n").unwrap(), ContainerId::new("c").unwrap());
    let options = SpecOptions { env: vec!["A=1".to_owned()], ..SpecOptions::default() };
    let Ok(made) = SpecBuilder::new(&namespace, &id).image(image).options(options).build(&users) else { return };
    // What was made can be read again, by us and so by the runtime.
    let any = spec::to_any(&made).unwrap();
    let again = spec::to_any(&spec::from_any(&any).unwrap()).unwrap();
    assert_eq!(again, any);
    let process = made.process().as_ref().unwrap();
    assert!(process.args().as_ref().is_some_and(|args| !args.is_empty()), "a container without a command");
    assert!(process.cwd().is_absolute(), "{:?}", process.cwd());
}

/// A container's runtime spec, as clients read it (the shim's type is the same), and what the daemon takes out of it.
pub fn runtime_spec(data: &[u8]) {
    let terminal = restart::wants_terminal(data);
    let check = health::process_of(data, vec!["true".to_owned()]);
    let Ok(read) = spec::from_any(&Any::new(Any::SPEC, data)) else { return };
    assert_eq!(spec::from_any(&spec::to_any(&read).unwrap()).unwrap(), read);
    let process = read.process().as_ref();
    assert_eq!(terminal, process.is_some_and(|process| process.terminal() == Some(true)));
    // A check may be refused where a spec is not: for numbers out of range where nobody looks for any.
    let options = ExecOptions { args: vec!["true".to_owned()], env: vec!["A=1".to_owned()], ..ExecOptions::default() };
    let exec = options.process(&read, &Users::default());
    assert_eq!(exec.is_ok(), process.is_some());
    for made in [check, exec].into_iter().flatten() {
        let json = [br#"{"ociVersion":"1.0.2","process":"#, &made.value[..], b"}"].concat();
        let made = spec::from_any(&Any::new(Any::SPEC, json)).unwrap();
        let made = made.process().as_ref().unwrap();
        assert_eq!(made.args().as_deref(), Some(&["true".to_owned()][..]));
        assert_eq!(Some(made.cwd()), process.map(|process| process.cwd()));
    }
}

/// A `hosts.toml`, in a folder that does not exist.
pub fn hosts(data: &[u8]) {
    for registry in ["docker.io", "127.0.0.1:5000", "[::1]:5000", "localhost"] {
        if let Ok(servers) = check_hosts(registry, Path::new("/nonexistent"), data) {
            assert!(servers > 0, "a registry without a server");
        }
    }
}

/// Docker's `config.json`.
pub fn docker_config(data: &[u8]) {
    for registry in ["docker.io", "127.0.0.1:5000", "registry.example.com"] {
        if let Err(refusal) = check_docker_config(data, registry) {
            assert_eq!(refusal.kind, RefusalKind::FailedPrecondition);
        }
    }
}

/// A `WWW-Authenticate` header.
pub fn challenge(data: &[u8]) {
    let _ = check_challenge(data);
}
