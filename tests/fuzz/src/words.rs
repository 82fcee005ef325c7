//! What the sockets and the command lines bring: frames, filters, references, what shims say.

use wharf_actors::drivers::shim::{check_event, checkpoint_path, parse_answer, restore_path};
use wharf_messages::{
    ContainerId, Digest, ImageName, IngestRef, LeaseId, Namespace, Platform, Refusal, RefusalKind, SnapshotKey,
    SnapshotterName, codec,
    filter::Filters,
    for_each_call,
    reference::Reference,
    wire::{self, Frame, FrameBuffer, FrameHeader, FrameKind, Hello, RequestHead, Side},
};
// The table of calls names the modules of all nouns.
use wharf_messages::*;

/// The native protocol: a hello, then frames. The first byte says from which side and in which pieces they come.
pub fn frames(data: &[u8]) {
    let Some((how, bytes)) = data.split_first() else { return };
    if let Some(first) = bytes.first_chunk::<8>() {
        // Whatever it is, the answer is a version or an error.
        let _ = Hello::decode(*first).and_then(|hello| Hello::OURS.agree(hello));
    }
    let side = if how & 1 == 0 { Side::Client } else { Side::Daemon };
    let whole = read(side, bytes, bytes.len().max(1));
    let pieces = read(side, bytes, usize::from(how >> 1) + 1);
    assert_eq!(whole, pieces, "frames depend on how their bytes come");
    for frame in &whole.0 {
        let header = FrameHeader { kind: frame.kind, id: frame.id, body_bytes: frame.body.len() };
        let bytes = header.encode().unwrap();
        assert_eq!(FrameHeader::decode(&bytes, side), Ok(header));
        match frame.kind {
            FrameKind::Request => request(&frame.body),
            FrameKind::Refused | FrameKind::Fault => drop(wire::decode_refusal(&frame.body)),
            _ => {}
        }
    }
}

/// Every frame up to the first error, and the error.
fn read(side: Side, mut bytes: &[u8], piece: usize) -> (Vec<Frame>, Option<Refusal>) {
    let mut buffer = FrameBuffer::new(side);
    let mut frames = Vec::new();
    loop {
        match buffer.next() {
            Ok(Some(frame)) => frames.push(frame),
            Err(error) => return (frames, Some(error.into())),
            Ok(None) if bytes.is_empty() => return (frames, None),
            Ok(None) => {
                let (space, most) = buffer.space();
                assert!(most > 0, "there is no room for what is missing");
                assert!(space.capacity() <= space.len() + (1 << 20), "a promise was believed");
                let taken = bytes.len().min(piece).min(most);
                space.extend_from_slice(&bytes[..taken]);
                bytes = &bytes[taken..];
            }
        }
    }
}

fn request(body: &[u8]) {
    let Ok((head, call)) = RequestHead::decode(body) else { return };
    macro_rules! decode {
        ($($name:literal $kind:ident $shape:ident $request:ty => $reply:ty, $item:ty;)*) => {
            match head.call {
                $($name => drop(codec::decode::<$request>(call)),)*
                _ => {}
            }
        };
    }
    for_each_call!(decode);
}

/// A list of filters, one a line, held against an image.
pub fn filters(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    let lines: Vec<_> = text.split('\n').collect();
    match Filters::parse(&lines) {
        Ok(filters) => {
            let image = example();
            assert_eq!(filters.matches(&image), filters.matches(&image));
            if lines.iter().any(|line| line.is_empty()) {
                assert!(filters.matches(&image), "the empty filter matches everything");
            }
        }
        Err(refusal) => {
            assert_eq!(refusal.kind, RefusalKind::InvalidArgument);
            assert!(refusal.detail.len() < 2 * text.len() + 65_536, "the refusal is much longer than what it is about");
        }
    }
}

fn example() -> image::Image {
    serde_json::from_value(serde_json::json!({
        "name": "docker.io/library/busybox:latest",
        "target": {
            "media_type": "application/vnd.oci.image.manifest.v1+json",
            "digest": format!("sha256:{}", "0".repeat(64)), "size_bytes": 349,
            "annotations": {}, "platform": null
        },
        "labels": {"a": "b", "containerd.io/gc.root": "1"}, "created_at": 0, "updated_at": 0
    }))
    .unwrap()
}

/// References and the other names that callers give.
pub fn references(data: &[u8]) {
    let text = String::from_utf8_lossy(data);
    for parsed in [Reference::parse(&text), Reference::parse_familiar(&text)].into_iter().flatten() {
        let spelt = parsed.to_string();
        assert_eq!(Reference::parse(&spelt), Ok(parsed), "{spelt:?}");
    }
    if let Ok(platform) = Platform::parse(&text) {
        assert_eq!(Platform::parse(&platform.to_string()), Ok(platform));
    }
    macro_rules! ids {
        ($($id:ty)*) => {
            $(if let Ok(id) = <$id>::new(text.as_ref()) {
                assert_eq!(id.as_str(), text);
                // On the wire, too, they keep their rules.
                assert_eq!(codec::decode::<$id>(&codec::encode(&text).unwrap()).unwrap(), id);
            })*
        };
    }
    ids!(ContainerId Digest ImageName IngestRef LeaseId Namespace SnapshotKey SnapshotterName);
}

/// What a shim says when it starts, an event that it publishes, or a runtime's options: the first byte says which.
pub fn shim(data: &[u8]) {
    let Some((which, bytes)) = data.split_first() else { return };
    match which % 3 {
        0 => {
            if let Ok((address, version)) = parse_answer(bytes) {
                assert!(address.starts_with("unix://") && matches!(version, 2 | 3), "{address:?} {version}");
            }
        }
        1 => {
            if let Ok(event) = check_event(bytes) {
                assert!(event.topic.starts_with('/'), "{:?}", event.topic);
                assert_eq!(Namespace::new(event.namespace.as_str()), Ok(event.namespace));
            }
        }
        _ => {
            let any = |kind: &str| Any::new(format!("types.containerd.io/containerd.runc.v1.{kind}"), bytes);
            let _ = restore_path(Some(&any("Options")));
            let _ = checkpoint_path(Some(&any("CheckpointOptions")));
        }
    }
}
