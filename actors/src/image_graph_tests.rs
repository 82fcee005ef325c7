//! Tables for reading, choosing and chaining.

use super::*;
use wharf_messages::RefusalKind;

const A: &str = "sha256:aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
const B: &str = "sha256:bbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbbb";
const C: &str = "sha256:cccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccccc";

fn of(media_type: &str) -> Descriptor {
    Descriptor::new(media_type, Digest::new(A).unwrap(), 1)
}

fn json(media_type: &str, digest: &str) -> String {
    format!(r#"{{"mediaType":"{media_type}","digest":"{digest}","size":7}}"#)
}

fn entry(digest: &str, platform: &str) -> Descriptor {
    let platform = (!platform.is_empty()).then(|| Platform::parse(platform).unwrap());
    Descriptor { platform, ..Descriptor::new(media_type::OCI_MANIFEST, Digest::new(digest).unwrap(), 1) }
}

#[test]
fn manifests_of_both_families_are_read() {
    for (own, config, layer) in [
        (media_type::OCI_MANIFEST, media_type::OCI_CONFIG, media_type::OCI_LAYER_ZSTD),
        (media_type::DOCKER_MANIFEST, media_type::DOCKER_CONFIG, media_type::DOCKER_LAYER_GZIP),
    ] {
        let text = format!(
            r#"{{"schemaVersion":2,"mediaType":"{own}","config":{},"layers":[{},{}],"annotations":{{"x":"y"}},"new":1}}"#,
            json(config, B),
            json(layer, C),
            json(layer, B)
        );
        let Node::Manifest { config: found, layers } = Node::parse(&of(own), text.as_bytes()).unwrap() else {
            panic!()
        };
        assert_eq!((found.media_type.as_str(), found.digest.as_str(), found.size_bytes), (config, B, 7));
        assert_eq!(layers.iter().map(|l| l.digest.as_str()).collect::<Vec<_>>(), [C, B]);
        let children = children(&of(own), text.as_bytes()).unwrap();
        assert_eq!(children.iter().map(|c| c.digest.as_str()).collect::<Vec<_>>(), [B, C, B]);
    }
    for empty in ["", r#","layers":[]"#, r#","layers":null"#] {
        let text = format!(r#"{{"schemaVersion":2,"config":{}{empty}}}"#, json(media_type::OCI_CONFIG, B));
        assert_eq!(children(&of(media_type::OCI_MANIFEST), text.as_bytes()).unwrap().len(), 1);
    }
}

#[test]
fn indexes_tell_their_platforms() {
    let text = format!(
        r#"{{"schemaVersion":2,"manifests":[
            {{"mediaType":"{0}","digest":"{A}","size":1,"platform":{{"os":"linux","architecture":"aarch64","variant":"v8"}}}},
            {{"mediaType":"{0}","digest":"{B}","size":1,"platform":{{"os":"windows","architecture":"amd64","os.version":"10.0"}},
              "annotations":{{"k":"v"}}}},
            {{"mediaType":"{0}","digest":"{C}","size":1,"platform":{{"architecture":"","os":""}},"annotations":null}}]}}"#,
        media_type::OCI_MANIFEST
    );
    let Node::Index { manifests } = Node::parse(&of(media_type::DOCKER_LIST), text.as_bytes()).unwrap() else {
        panic!()
    };
    assert_eq!(manifests[0].platform.as_ref().unwrap().to_string(), "linux/arm64");
    assert_eq!(manifests[1].platform.as_ref().unwrap().os_version, "10.0");
    assert_eq!(manifests[1].annotations.get("k").map(String::as_str), Some("v"));
    assert_eq!(manifests[2].platform, None);
    for empty in [r#"{"manifests":[]}"#, r#"{"manifests":null}"#, "{}"] {
        assert_eq!(children(&of(media_type::OCI_INDEX), empty.as_bytes()).unwrap(), []);
    }
}

#[test]
fn what_is_no_manifest_has_no_children() {
    for leaf in [media_type::OCI_CONFIG, media_type::OCI_LAYER, "text/plain"] {
        assert_eq!(children(&of(leaf), b"\xff not json").unwrap(), []);
        assert!(Node::parse(&of(leaf), b"{}").is_err());
    }
}

#[test]
fn broken_and_ambiguous_documents_are_refused() {
    let config = json(media_type::OCI_CONFIG, B);
    let (manifest, index) = (media_type::OCI_MANIFEST, media_type::OCI_INDEX);
    for (media_type, text, words) in [
        (manifest, format!(r#"{{"config":{config},"layers":[],"manifests":[]}}"#), "must not have manifests"),
        (manifest, format!(r#"{{"config":{config},"manifests":null}}"#), "must not have manifests"),
        (manifest, r#"{"manifests":[]}"#.into(), "no config"),
        (manifest, r#"{"layers":[]}"#.into(), "no config"),
        (index, r#"{"manifests":[],"layers":[]}"#.into(), "neither config nor layers"),
        (index, r#"{"layers":null}"#.into(), "neither config nor layers"),
        (index, format!(r#"{{"manifests":[],"config":{config}}}"#), "neither config nor layers"),
        (manifest, format!(r#"{{"mediaType":"{index}","config":{config}}}"#), "its descriptor's"),
        (index, format!(r#"{{"mediaType":"{manifest}","manifests":[]}}"#), "its descriptor's"),
        (manifest, format!(r#"{{"schemaVersion":1,"config":{config}}}"#), "schema version 2"),
        (manifest, format!(r#"{{"fsLayers":[],"config":{config}}}"#), "schema version 2"),
        (manifest, format!(r#"{{"config":{config},"config":{config}}}"#), "duplicate field"),
        (manifest, r#"{"config":{"mediaType":"x","digest":"sha256:0","size":1}}"#.into(), "wrong length"),
        (manifest, format!(r#"{{"config":{{"mediaType":"x","digest":"{A}","size":-1}}}}"#), "-1"),
        (manifest, format!(r#"{{"config":{{"mediaType":"","digest":"{A}","size":1}}}}"#), "no media type"),
        (manifest, format!(r#"{{"config":{{"digest":"{A}","size":1}}}}"#), "mediaType"),
        (index, "[]".into(), "invalid"),
        (index, String::new(), "EOF"),
        (index, "{}{}".into(), "trailing"),
    ] {
        let refusal = Node::parse(&of(media_type), text.as_bytes()).unwrap_err();
        let shown = refusal.to_string();
        assert!(
            refusal.is(RefusalKind::InvalidArgument) && shown.contains(A) && shown.contains(words),
            "{text}: {shown}"
        );
    }
}

#[test]
fn sizes_are_bounded() {
    let huge = vec![b' '; DOCUMENT_MAX_BYTES + 1];
    assert!(Node::parse(&of(media_type::OCI_INDEX), &huge).unwrap_err().is(RefusalKind::ResourceExhausted));
    let one = json(media_type::OCI_MANIFEST, A);
    let many = format!(r#"{{"manifests":[{}]}}"#, vec![one; CHILDREN_MAX + 1].join(","));
    assert!(Node::parse(&of(media_type::OCI_INDEX), many.as_bytes()).is_err());
    let ids = vec![format!("\"{A}\""); CHILDREN_MAX + 1].join(",");
    let config = format!(r#"{{"rootfs":{{"type":"layers","diff_ids":[{ids}]}}}}"#);
    let refusal = ImageConfig::parse(&of(media_type::OCI_CONFIG), config.as_bytes()).unwrap_err();
    assert!(refusal.is(RefusalKind::ResourceExhausted));
    let mut depth = 0;
    while let Ok(deeper) = descend(depth) {
        depth = deeper;
    }
    assert_eq!(depth, DEPTH_MAX);
}

#[test]
fn configs_tell_platform_and_layers() {
    let parse = |text: &str| ImageConfig::parse(&of(media_type::OCI_CONFIG), text.as_bytes());
    let config = parse(&format!(
        r#"{{"architecture":"arm","os":"linux","variant":"v6","created":"2026-01-01T00:00:00Z","config":{{"Cmd":["sh"]}},
            "rootfs":{{"type":"layers","diff_ids":["{A}","{B}"]}},"history":[{{}}]}}"#
    ))
    .unwrap();
    assert_eq!(config.platform.to_string(), "linux/arm/v6");
    assert_eq!(config.diff_ids.iter().map(Digest::as_str).collect::<Vec<_>>(), [A, B]);
    assert!(config.check_layers(&[entry(A, ""), entry(B, "")]).is_ok());
    let refusal = config.check_layers(&[entry(A, "")]).unwrap_err();
    assert!(refusal.detail.contains("1 layers, its config 2"), "{refusal}");
    // Artifacts have configs of any kind; that is no error until they are unpacked.
    for bare in ["{}", r#"{"rootfs":null}"#, r#"{"rootfs":{"diff_ids":null}}"#] {
        assert_eq!(parse(bare).unwrap().diff_ids, []);
    }
    for bad in ["", "[]", r#"{"rootfs":{"diff_ids":["md5:0"]}}"#, r#"{"os":1}"#] {
        assert!(parse(bad).is_err(), "{bad}");
    }
}

#[test]
fn chain_ids_name_what_the_layers_make() {
    let id = |text: &str| Digest::new(text).unwrap();
    assert_eq!(chain_ids(&[]), []);
    assert_eq!(chain_ids(&[id(A)]), [id(A)]);
    let chain = chain_ids(&[id(A), id(B), id(C)]);
    assert_eq!(chain[0], id(A));
    // printf 'sha256:aa...aa sha256:bb...bb' | sha256sum, and so on with C.
    assert_eq!(chain[1].hex(), CHAIN_AB);
    assert_eq!(chain[2].hex(), CHAIN_ABC);
}

const CHAIN_AB: &str = "ccd722928bd92476ba1745586fed6e45a102504185ad88cd89e01ff116fd146c";
const CHAIN_ABC: &str = "c1377126441fb2f5ec2c21ae2a60255331d639e830f0ee1b40a36e52d4c40588";

#[test]
fn the_best_entry_is_the_closest_and_the_first_of_equals() {
    let p = |text: &str| Platform::parse(text).unwrap();
    let index = [entry(A, "linux/386"), entry(B, "linux/amd64"), entry(C, "linux/amd64"), entry(A, "linux/arm64")];
    let choose = |entries: &[Descriptor], platform: &str| best(entries, &p(platform)).map(|d| d.digest.to_string());
    assert_eq!(choose(&index, "linux/amd64").as_deref(), Some(B));
    assert_eq!(choose(&index[..1], "linux/amd64").as_deref(), Some(A));
    assert_eq!(choose(&index, "linux/s390x"), None);
    assert_eq!(choose(&[], "linux/amd64"), None);
    // Attestations are for unknown/unknown; an entry without a platform is the last resort.
    let attestation = Descriptor { platform: Some(Platform::new("unknown", "unknown", "")), ..entry(C, "") };
    assert_eq!(choose(std::slice::from_ref(&attestation), "linux/amd64"), None);
    assert_eq!(choose(&[attestation, entry(A, ""), entry(B, "linux/386")], "linux/amd64").as_deref(), Some(B));
    assert_eq!(choose(&[entry(A, ""), entry(B, "windows/amd64")], "linux/amd64").as_deref(), Some(A));
    let blob = Descriptor { media_type: "text/plain".into(), ..entry(A, "") };
    assert_eq!(choose(&[blob], "linux/amd64"), None);
}

#[test]
fn a_choice_takes_its_platforms_once_or_says_what_there_is() {
    let p = |text: &str| Platform::parse(text).unwrap();
    let index = [entry(A, "linux/386"), entry(B, "linux/arm64"), entry(C, "windows/amd64")];
    let digests = |choice: &PlatformChoice| {
        select(&index, choice).map(|s| s.into_iter().map(|d| d.digest.to_string()).collect::<Vec<_>>())
    };
    assert_eq!(digests(&PlatformChoice::All).unwrap(), [A, B, C]);
    let these = PlatformChoice::These(vec![p("linux/arm64"), p("linux/amd64"), p("linux/386")]);
    assert_eq!(digests(&these).unwrap(), [B, A]);
    let refusal = digests(&PlatformChoice::These(vec![p("linux/s390x")])).unwrap_err();
    assert!(refusal.is(RefusalKind::NotFound));
    assert_eq!(refusal.detail, "manifest for platform linux/s390x (there are: linux/386, linux/arm64, windows/amd64)");
    let own = [Descriptor { platform: Some(Platform::host()), ..entry(C, "") }];
    assert_eq!(select(&own, &PlatformChoice::Host).unwrap(), own);
}

#[test]
fn children_are_held_by_labels() {
    let child = |media_type: &str, digest: &str| Descriptor::new(media_type, Digest::new(digest).unwrap(), 1);
    let labels = gc_labels(&[
        child(media_type::OCI_CONFIG, A),
        child(media_type::OCI_LAYER, B),
        child(media_type::DOCKER_LAYER_GZIP, C),
        child(media_type::OCI_INDEX, A),
        child(media_type::DOCKER_MANIFEST, B),
        child("text/plain", C),
    ]);
    let expected = [("0", C), ("config", A), ("l.0", B), ("l.1", C), ("m.0", A), ("m.1", B)];
    let expected = expected.map(|(key, digest)| (format!("containerd.io/gc.ref.content.{key}"), digest.to_owned()));
    assert_eq!(labels.into_iter().collect::<Vec<_>>(), expected);
}
