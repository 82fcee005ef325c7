use super::*;
use proptest::prelude::*;

fn frame_bytes(kind: FrameKind, id: u64, body: &[u8]) -> Vec<u8> {
    let header = FrameHeader { kind, id, body_bytes: body.len() }.encode().unwrap();
    [&header[..], body].concat()
}

/// Feeds a buffer at most `step` bytes at a time, as a socket might, and gathers what comes out.
fn feed(buffer: &mut FrameBuffer, mut bytes: &[u8], step: usize) -> Result<Vec<Frame>, WireError> {
    let mut frames = Vec::new();
    while !bytes.is_empty() {
        let (space, most) = buffer.space();
        let (now, later) = bytes.split_at(most.min(step).min(bytes.len()));
        space.extend_from_slice(now);
        bytes = later;
        while let Some(frame) = buffer.next()? {
            frames.push(frame);
        }
    }
    Ok(frames)
}

#[test]
fn a_hello_is_eight_bytes_and_is_not_http2() {
    assert_eq!(Hello { version_min: 1, version_max: 0x0102 }.encode(), *b"WHRF\x01\x00\x02\x01");
    assert_ne!(MAGIC, HTTP2_PREFACE);
    assert_eq!(Hello::decode(Hello::OURS.encode()).unwrap(), Hello::OURS);
    assert_eq!(Hello::decode(*b"PRI * HT"), Err(WireError::NotNative(HTTP2_PREFACE)));
    assert_eq!(Hello::decode(*b"WHRF\x02\x00\x01\x00"), Err(WireError::Hello));
}

#[test]
fn the_highest_common_version_is_spoken() {
    let range = |version_min, version_max| Hello { version_min, version_max };
    assert_eq!(range(1, 3).agree(range(2, 5)), Ok(3));
    assert_eq!(range(2, 5).agree(range(1, 3)), Ok(3));
    assert_eq!(range(1, 1).agree(range(1, 1)), Ok(1));
    for (ours, theirs) in [(range(1, 1), range(2, 3)), (range(2, 3), range(1, 1))] {
        assert_eq!(ours.agree(theirs), Err(WireError::Version { ours, theirs }));
    }
}

#[test]
fn a_header_is_sixteen_bytes() {
    let header = FrameHeader { kind: FrameKind::Reply, id: 0x0102_0304_0506_0708, body_bytes: 0x0001_0203 };
    let bytes = header.encode().unwrap();
    assert_eq!(bytes, *b"\x03\x02\x01\x00\x06\x00\x00\x00\x08\x07\x06\x05\x04\x03\x02\x01");
    assert_eq!(FrameHeader::decode(&bytes, Side::Daemon), Ok(header));
    assert_eq!(FrameHeader::decode(&bytes, Side::Client), Err(WireError::WrongWay(FrameKind::Reply)));
}

#[test]
fn every_kind_has_its_limit_and_its_way() {
    for kind in FrameKind::ALL {
        assert_eq!(FrameKind::from_number(kind as u8), Some(kind));
        let most = FrameHeader { kind, id: 1, body_bytes: kind.limit_bytes() };
        let bytes = most.encode().unwrap();
        for side in [Side::Client, Side::Daemon] {
            match FrameHeader::decode(&bytes, side) {
                Ok(back) => assert!(kind.comes_from(side) && back == most),
                Err(error) => assert!(!kind.comes_from(side) && error == WireError::WrongWay(kind)),
            }
        }
        let over = FrameHeader { body_bytes: kind.limit_bytes() + 1, ..most };
        assert!(matches!(over.encode(), Err(WireError::TooLong { .. })));
        // A hostile peer writes the header itself.
        let mut hostile = bytes;
        hostile[..4].copy_from_slice(&u32::MAX.to_le_bytes());
        let side = if kind.comes_from(Side::Client) { Side::Client } else { Side::Daemon };
        assert!(matches!(FrameHeader::decode(&hostile, side), Err(WireError::TooLong { .. })));
    }
    for number in [0, 11, 255] {
        let mut bytes = [0; HEADER_BYTES];
        bytes[4] = number;
        assert_eq!(FrameHeader::decode(&bytes, Side::Client), Err(WireError::Kind(number)));
    }
    let mut bytes = FrameHeader { kind: FrameKind::Ping, id: 0, body_bytes: 0 }.encode().unwrap();
    bytes[6] = 1;
    assert_eq!(FrameHeader::decode(&bytes, Side::Client), Err(WireError::Reserved));
}

#[test]
fn a_buffer_between_frames_holds_no_memory() {
    let mut buffer = FrameBuffer::new(Side::Client);
    let bytes = [frame_bytes(FrameKind::Ping, 1, b""), frame_bytes(FrameKind::Data, 2, &[7; 100_000])].concat();
    let frames = feed(&mut buffer, &bytes, usize::MAX).unwrap();
    assert_eq!(frames.iter().map(|f| (f.id, f.body.len())).collect::<Vec<_>>(), [(1, 0), (2, 100_000)]);
    assert!(buffer.is_between_frames());
    assert_eq!(buffer.ahead.capacity(), 0);
}

#[test]
fn a_promise_of_bytes_takes_no_memory() {
    let mut buffer = FrameBuffer::new(Side::Client);
    let header = FrameHeader { kind: FrameKind::Request, id: 1, body_bytes: FRAME_MAX_BYTES }.encode().unwrap();
    assert_eq!(feed(&mut buffer, &header, usize::MAX).unwrap(), []);
    assert!(!buffer.is_between_frames());
    assert!(buffer.space().0.capacity() <= GROW_BYTES);
}

#[test]
fn a_request_is_its_name_its_context_and_the_call() {
    let meta = Meta { request_id: 7, ..Meta::in_namespace(crate::Namespace::new("default").unwrap()) };
    let head = RequestHead { call: "images.get", meta };
    let body = head.encode(b"the call").unwrap();
    assert_eq!(&body[..11], b"\x0aimages.get");
    assert_eq!(RequestHead::decode(&body).unwrap(), (head, &b"the call"[..]));
    let head_bytes = body.len() - b"the call".len();
    for cut in 0..head_bytes {
        assert_eq!(RequestHead::decode(&body[..cut]), Err(WireError::Head), "cut at {cut}");
    }
}

#[test]
fn the_context_of_a_call_is_laid_out_as_version_1_has_it() {
    let meta = Meta {
        lease: Some(crate::LeaseId::new("l").unwrap()),
        request_id: 7,
        trace: crate::meta::TraceContext::new(Some("00-a"), Some("s=1")),
        ..Meta::in_namespace(crate::Namespace::new("ns").unwrap())
    };
    let with_all = RequestHead { call: "a.b", meta }.encode(b"").unwrap();
    assert_eq!(with_all, b"\x03a.b\x12\0\x01\x02ns\x01\x01l\x07\x01\x0400-a\x03s=1");
    let with_none = RequestHead { call: "a.b", meta: Meta::default() }.encode(b"").unwrap();
    assert_eq!(with_none, b"\x03a.b\x04\0\0\0\0\0");
}

#[test]
fn the_longest_names_fit() {
    let meta = Meta {
        namespace: Some(crate::Namespace::new("n".repeat(76)).unwrap()),
        lease: Some(crate::LeaseId::new("l".repeat(4096)).unwrap()),
        request_id: u64::MAX,
        trace: crate::meta::TraceContext::new(Some(&"p".repeat(512)), Some(&"s".repeat(512))),
        peer: None,
    };
    assert!(RequestHead { call: "images.get", meta: meta.clone() }.encode(b"").is_ok());
    assert_eq!(
        RequestHead::decode(&RequestHead { call: "images.get", meta: meta.clone() }.encode(b"").unwrap())
            .unwrap()
            .0
            .meta,
        meta
    );
    let long = "x".repeat(256);
    assert!(RequestHead { call: &long, meta }.encode(b"").is_err());
}

#[test]
fn a_peer_is_never_believed_from_the_wire() {
    let peer = Some(crate::meta::Peer { pid: 1, uid: 0, gid: 0 });
    let body = RequestHead { call: "a.b", meta: Meta { peer, ..Meta::default() } }.encode(b"").unwrap();
    assert_eq!(RequestHead::decode(&body).unwrap().0.meta.peer, None);
}

#[test]
fn refusals_are_cut_to_their_limit() {
    let refusal = Refusal::not_found("image \"x\"");
    assert_eq!(decode_refusal(&encode_refusal(&refusal)), refusal);
    let long = encode_refusal(&Refusal::internal("ä".repeat(REFUSAL_MAX_BYTES)));
    assert!(long.len() <= REFUSAL_MAX_BYTES);
    assert!(decode_refusal(&long).detail.starts_with('ä'));
    assert!(decode_refusal(b"\xff").is(RefusalKind::InvalidArgument));
}

fn client_frames() -> impl Strategy<Value = Vec<(FrameKind, u64, Vec<u8>)>> {
    let kinds = prop::sample::select(
        FrameKind::ALL.into_iter().filter(|kind| kind.comes_from(Side::Client)).collect::<Vec<_>>(),
    );
    let frame = (kinds, any::<u64>(), prop::collection::vec(any::<u8>(), 0..6000)).prop_map(|(kind, id, mut body)| {
        body.truncate(kind.limit_bytes());
        (kind, id, body)
    });
    prop::collection::vec(frame, 0..8)
}

proptest! {
    #[test]
    fn frames_come_back_however_they_are_cut(frames in client_frames(), step in 1usize..9000) {
        let bytes: Vec<u8> = frames.iter().flat_map(|(kind, id, body)| frame_bytes(*kind, *id, body)).collect();
        let mut buffer = FrameBuffer::new(Side::Client);
        let back = feed(&mut buffer, &bytes, step).unwrap();
        prop_assert!(buffer.is_between_frames());
        prop_assert_eq!(back.into_iter().map(|f| (f.kind, f.id, f.body)).collect::<Vec<_>>(), frames);
    }

    #[test]
    fn any_bytes_are_frames_or_an_error(bytes in prop::collection::vec(any::<u8>(), 0..10_000), step in 1usize..5000) {
        // Neither a panic nor more memory than came.
        let mut buffer = FrameBuffer::new(Side::Client);
        if let Ok(frames) = feed(&mut buffer, &bytes, step) {
            prop_assert!(frames.iter().map(|f| f.body.len()).sum::<usize>() <= bytes.len());
        }
        if let Ok((_, call)) = RequestHead::decode(&bytes) {
            prop_assert!(call.len() <= bytes.len());
        }
        prop_assert!(decode_refusal(&bytes).detail.len() <= bytes.len() + 200);
    }
}
