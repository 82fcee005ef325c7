use super::*;
use std::sync::atomic::{AtomicUsize, Ordering};
use table::Does;
use tokio::{io::AsyncWriteExt, sync::mpsc, task::JoinHandle};
use wharf_actors::serve::CallIo;
use wharf_messages::{Call, Meta, Namespace, call::CALLS, codec, wire::FrameHeader};

/// Calls of the tests' own, one of every shape and temper.
pub mod calls {
    use serde::{Deserialize, Serialize};
    use wharf_messages::{Call, CallKind, call::CallShape};

    macro_rules! calls {
        ($($name:literal $kind:ident $shape:ident $request:ident { $($field:ident: $type:ty),* } => $reply:ty, $item:ty;)*) => {$(
            #[derive(Debug, Clone, Serialize, Deserialize)]
            pub struct $request { $(pub $field: $type),* }

            impl Call for $request {
                type Reply = $reply;
                type Item = $item;
                const NAME: &'static str = $name;
                const KIND: CallKind = CallKind::$kind;
                const SHAPE: CallShape = CallShape::$shape;
            }
        )*};
    }

    calls! {
        "test.echo"  Query   Unary       Echo { text: String } => (String, Option<String>), ();
        "test.hang"  Query   Unary       HangQuery {} => (), ();
        "test.work"  Command Unary       Work {} => (), ();
        "test.panic" Command Unary       Panic {} => (), ();
        "test.count" Query   Items       Count { to: u64 } => u64, u64;
        "test.flood" Query   Items       Flood {} => (), Vec<u8>;
        "test.keep"  Query   Items       KeepItems {} => (), u64;
        "test.sum"   Command Upload      Sum {} => u64, ();
        "test.stall" Command Upload      Stall {} => (), ();
        "test.both"  Command UploadItems Both {} => u64, u64;
    }
}
use calls::*;

/// Who does them, and what it saw.
#[derive(Debug, Clone)]
pub struct Lab(Arc<Seen>);

#[derive(Debug)]
struct Seen {
    events: mpsc::UnboundedSender<String>,
    flooded: AtomicUsize,
    /// Lets `Work` end.
    go_on: tokio::sync::Semaphore,
}

impl Lab {
    pub fn new() -> (Self, mpsc::UnboundedReceiver<String>) {
        let (events, seen) = mpsc::unbounded_channel();
        (Self(Arc::new(Seen { events, flooded: AtomicUsize::new(0), go_on: tokio::sync::Semaphore::new(0) })), seen)
    }

    fn saw(&self, what: impl Into<String>) {
        // A test that has looked enough has dropped its end.
        self.0.events.send(what.into()).ok();
    }
}

/// Says when the future that holds it is dropped.
struct Until(Lab, &'static str);

impl Drop for Until {
    fn drop(&mut self) {
        self.0.saw(self.1);
    }
}

impl Does<Echo> for Lab {
    async fn does(self, call: Echo, meta: Meta, _: CallIo<()>) -> Answer<(String, Option<String>)> {
        assert_eq!(meta.peer.unwrap().pid, i32::try_from(std::process::id()).unwrap());
        Ok((call.text, meta.namespace.map(String::from)))
    }
}

impl Does<HangQuery> for Lab {
    async fn does(self, _: HangQuery, _: Meta, io: CallIo<()>) -> Answer<()> {
        let _until = Until(self.clone(), "dropped");
        let lab = self.clone();
        tokio::spawn(async move {
            io.cancel.cancelled().await;
            lab.saw("cancelled");
        });
        self.saw("hanging");
        std::future::pending().await
    }
}

impl Does<Work> for Lab {
    async fn does(self, _: Work, _: Meta, _: CallIo<()>) -> Answer<()> {
        self.saw("working");
        self.0.go_on.acquire().await.unwrap().forget();
        Ok(())
    }
}

impl Does<Panic> for Lab {
    async fn does(self, _: Panic, _: Meta, _: CallIo<()>) -> Answer<()> {
        panic!("on purpose")
    }
}

impl Does<Count> for Lab {
    async fn does(self, call: Count, _: Meta, io: CallIo<u64>) -> Answer<u64> {
        for number in 0..call.to {
            io.items.send(number).await.unwrap();
        }
        if call.to == 13 { Err(Refusal::out_of_range("thirteen")) } else { Ok(call.to) }
    }
}

impl Does<Flood> for Lab {
    async fn does(self, _: Flood, _: Meta, io: CallIo<Vec<u8>>) -> Answer<()> {
        let _until = Until(self.clone(), "dropped");
        while io.items.send(vec![7; 1 << 18]).await.is_ok() {
            self.0.flooded.fetch_add(1, Ordering::SeqCst);
            self.saw("flooded");
        }
        Ok(())
    }
}

impl Does<KeepItems> for Lab {
    async fn does(self, _: KeepItems, _: Meta, io: CallIo<u64>) -> Answer<()> {
        io.items.send(1).await.unwrap();
        // A job that outlives the call and holds its channel.
        tokio::spawn(async move {
            io.items.closed().await;
            self.saw("closed");
        });
        Ok(())
    }
}

impl Does<Sum> for Lab {
    async fn does(self, _: Sum, _: Meta, mut io: CallIo<()>) -> Answer<u64> {
        let mut sum = 0;
        // On a task of its own, as a job would be: what it is told must not depend on this future.
        let job = tokio::spawn(async move {
            self.saw("summing");
            while let Some(piece) = io.upload.recv().await {
                match piece {
                    Ok(piece) => sum += piece.len() as u64,
                    Err(refusal) => {
                        self.saw(format!("broken: {}", refusal.detail));
                        return Err(refusal);
                    }
                }
            }
            self.saw("whole");
            Ok(sum)
        });
        job.await.unwrap()
    }
}

impl Does<Stall> for Lab {
    async fn does(self, _: Stall, _: Meta, io: CallIo<()>) -> Answer<()> {
        let _until = Until(self.clone(), "dropped");
        let _never_read = io.upload;
        self.saw("stalling");
        std::future::pending().await
    }
}

impl Does<Both> for Lab {
    async fn does(self, _: Both, _: Meta, mut io: CallIo<u64>) -> Answer<u64> {
        let mut sum = 0;
        while let Some(piece) = io.upload.recv().await {
            sum += piece?.len() as u64;
            io.items.send(sum).await.unwrap();
        }
        Ok(sum)
    }
}

pub const LAB_TABLE: &[Row<Lab>] = &[
    Row::of::<Echo>(),
    Row::of::<HangQuery>(),
    Row::of::<Work>(),
    Row::of::<Panic>(),
    Row::of::<Count>(),
    Row::of::<Flood>(),
    Row::of::<KeepItems>(),
    Row::of::<Sum>(),
    Row::of::<Stall>(),
    Row::of::<Both>(),
];

/// A client that says exactly what it is told to.
struct Raw {
    stream: UnixStream,
    frames: FrameBuffer,
}

impl Raw {
    async fn bytes(&mut self, bytes: &[u8]) {
        self.stream.write_all(bytes).await.unwrap();
    }

    async fn send(&mut self, kind: FrameKind, id: u64, body: &[u8]) {
        self.bytes(&frame(kind, id, body)).await;
    }

    async fn request<C: Call>(&mut self, id: u64, call: &C) {
        let head = RequestHead { call: C::NAME, meta: Meta::default() };
        self.send(FrameKind::Request, id, &head.encode(&codec::encode(call).unwrap()).unwrap()).await;
    }

    /// The next frame; none when the daemon has closed the connection.
    async fn next(&mut self) -> Option<Frame> {
        loop {
            if let Some(frame) = self.frames.next().unwrap() {
                return Some(frame);
            }
            self.stream.readable().await.unwrap();
            let (space, most) = self.frames.space();
            match self.stream.try_read_buf(&mut bytes::BufMut::limit(space, most)) {
                Ok(0) => {
                    assert!(self.frames.is_between_frames(), "the daemon left within a frame");
                    return None;
                }
                Ok(_) => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => {}
                Err(error) if error.kind() == ErrorKind::ConnectionReset => return None,
                Err(error) => panic!("{error}"),
            }
        }
    }

    async fn refusal(&mut self, kind: FrameKind, id: u64) -> Refusal {
        let frame = self.next().await.unwrap();
        assert_eq!((frame.kind, frame.id), (kind, id));
        protocol::decode_refusal(&frame.body)
    }

    async fn echoes(&mut self, id: u64) {
        self.request(id, &Echo { text: "x".into() }).await;
        let frame = self.next().await.unwrap();
        assert_eq!((frame.kind, frame.id), (FrameKind::Reply, id));
    }
}

fn frame(kind: FrameKind, id: u64, body: &[u8]) -> Vec<u8> {
    [&FrameHeader { kind, id, body_bytes: body.len() }.encode().unwrap()[..], body].concat()
}

struct Setup {
    raw: Raw,
    lab: Lab,
    seen: mpsc::UnboundedReceiver<String>,
    stopping: CancellationToken,
    served: JoinHandle<Result<(), WireError>>,
}

fn setup() -> Setup {
    setup_with(CALLS_MAX)
}

fn setup_with(calls_max: usize) -> Setup {
    let (lab, seen) = Lab::new();
    let (ours, theirs) = UnixStream::pair().unwrap();
    let stopping = CancellationToken::new();
    let (doer, token) = (lab.clone(), stopping.clone());
    let served = tokio::spawn(async move {
        let peer = crate::frontends::peer::credentials(&theirs).unwrap();
        serve(&Service { table: LAB_TABLE, doer, calls_max }, theirs, peer, token).await
    });
    Setup { raw: Raw { stream: ours, frames: FrameBuffer::new(Side::Daemon) }, lab, seen, stopping, served }
}

async fn saw(seen: &mut mpsc::UnboundedReceiver<String>, what: &str) {
    loop {
        let event = seen.recv().await.expect("somebody still holds the lab");
        if event == what {
            return;
        }
    }
}

#[test]
fn every_call_of_the_vocabulary_has_its_row() {
    let rows: Vec<_> = table::TABLE.iter().map(|row| (row.name, row.kind, row.shape)).collect();
    let calls: Vec<_> = CALLS.iter().map(|row| (row.name, row.kind, row.shape)).collect();
    assert_eq!(rows, calls);
}

#[tokio::test]
async fn whoever_breaks_the_protocol_is_told_how_and_left() {
    let request = |id| {
        let head = RequestHead { call: HangQuery::NAME, meta: Meta::default() };
        frame(FrameKind::Request, id, &head.encode(&[]).unwrap())
    };
    let header = |length: u32, kind: u8, reserved: u8, id: u64| {
        let mut bytes = length.to_le_bytes().to_vec();
        bytes.extend([kind, 0, reserved, 0]);
        bytes.extend(id.to_le_bytes());
        bytes
    };
    for (what, bytes, words) in [
        ("garbage", b"GET / HTTP/1.1\r\nHost: x\r\n\r\n".to_vec(), "protocol: "),
        ("unknown kind", header(0, 99, 0, 1), "unknown kind of frame 99"),
        ("the daemon's kind", header(0, 6, 0, 1), "comes from the other side"),
        ("reserved bytes", header(0, 8, 1, 1), "not zero"),
        ("oversized data", header((1 << 20) + 1, 2, 0, 1), "over its limit of 1048576"),
        ("oversized request", header(u32::MAX, 1, 0, 1), "over its limit"),
        ("a body on a ping", header(1, 8, 0, 1), "over its limit of 0"),
        ("no head", frame(FrameKind::Request, 1, b"\xff"), "head cannot be read"),
        ("no meta", frame(FrameKind::Request, 1, b"\x01x\x05\x00ab"), "head cannot be read"),
        ("the same id", [request(5), request(5)].concat(), "request id 5 is not above"),
        ("a lower id", [request(5), request(4)].concat(), "request id 4 is not above"),
        ("id zero", request(0), "request id 0"),
        ("data for nobody", frame(FrameKind::Data, 9, b"x"), "request 9, which never was"),
        ("end for nobody", frame(FrameKind::End, 0, b""), "request 0, which never was"),
        ("cancel for nobody", frame(FrameKind::Cancel, 9, b""), "request 9, which never was"),
        ("data for no upload", [request(1), frame(FrameKind::Data, 1, b"x")].concat(), "takes no upload"),
        ("end for no upload", [request(1), frame(FrameKind::End, 1, b"")].concat(), "takes no upload"),
    ] {
        let Setup { mut raw, lab, mut seen, served, .. } = setup();
        raw.bytes(&bytes).await;
        let refusal = raw.refusal(FrameKind::Fault, 0).await;
        assert!(refusal.detail.contains(words), "{what}: {refusal}");
        assert_eq!(raw.next().await, None, "{what}");
        assert!(served.await.unwrap().is_err(), "{what}");
        // Nothing of it lives on: every call that was begun has lost its future.
        drop(lab);
        let mut begun = 0_i32;
        while let Some(event) = seen.recv().await {
            begun += i32::from(event == "hanging") - i32::from(event == "dropped");
        }
        assert_eq!(begun, 0, "{what}");
    }
}

#[tokio::test]
async fn a_connection_that_ends_within_a_frame_is_over() {
    let request = frame(FrameKind::Request, 1, &[0; 100]);
    for length in [1, protocol::HEADER_BYTES, protocol::HEADER_BYTES + 50] {
        let Setup { mut raw, served, .. } = setup();
        raw.bytes(&request[..length]).await;
        raw.stream.shutdown().await.unwrap();
        assert!(raw.refusal(FrameKind::Fault, 0).await.detail.contains("within a frame"));
        assert_eq!(served.await.unwrap(), Err(WireError::CutOff));
    }
}

#[tokio::test]
async fn a_wrong_call_is_refused_and_the_connection_goes_on() {
    let Setup { mut raw, .. } = setup();
    let named = |name| RequestHead { call: name, meta: Meta::default() };
    raw.send(FrameKind::Request, 1, &named("no.such").encode(b"").unwrap()).await;
    let refusal = raw.refusal(FrameKind::Refused, 1).await;
    assert!(refusal.is(RefusalKind::NotImplemented) && refusal.detail.contains("no.such"), "{refusal}");
    raw.send(FrameKind::Request, 2, &named(Echo::NAME).encode(b"\xff\xff").unwrap()).await;
    let refusal = raw.refusal(FrameKind::Refused, 2).await;
    assert!(refusal.is(RefusalKind::InvalidArgument) && refusal.detail.contains("Echo"), "{refusal}");
    raw.request(3, &Panic {}).await;
    let refusal = raw.refusal(FrameKind::Refused, 3).await;
    assert!(refusal.is(RefusalKind::Internal) && refusal.detail.contains("on purpose"), "{refusal}");
    // What may have crossed the answers is passed over.
    for kind in [FrameKind::Data, FrameKind::End, FrameKind::Cancel] {
        raw.send(kind, 2, b"").await;
    }
    raw.send(FrameKind::Ping, 77, b"").await;
    let pong = raw.next().await.unwrap();
    assert_eq!((pong.kind, pong.id), (FrameKind::Pong, 77));
    raw.echoes(4).await;
}

#[tokio::test]
async fn a_cancelled_call_is_told_and_dropped() {
    let Setup { mut raw, mut seen, .. } = setup();
    raw.request(1, &HangQuery {}).await;
    saw(&mut seen, "hanging").await;
    // Others are answered meanwhile, on the same connection.
    raw.echoes(2).await;
    raw.send(FrameKind::Cancel, 1, b"").await;
    raw.send(FrameKind::Cancel, 1, b"").await;
    assert!(raw.refusal(FrameKind::Refused, 1).await.is(RefusalKind::Canceled));
    let mut events = [seen.recv().await.unwrap(), seen.recv().await.unwrap()];
    events.sort();
    assert_eq!(events, ["cancelled", "dropped"]);
    raw.echoes(3).await;
}

#[tokio::test]
async fn a_client_that_leaves_cancels_its_calls() {
    for half in [false, true] {
        let Setup { mut raw, mut seen, served, .. } = setup();
        raw.request(1, &HangQuery {}).await;
        saw(&mut seen, "hanging").await;
        // Closing one half is leaving, too.
        if half {
            raw.stream.shutdown().await.unwrap();
        } else {
            drop(raw);
        }
        let mut events = [seen.recv().await.unwrap(), seen.recv().await.unwrap()];
        events.sort();
        assert_eq!(events, ["cancelled", "dropped"]);
        assert_eq!(served.await.unwrap(), Ok(()));
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_stalls_its_own_call_and_sees_whole_frames_later() {
    let Setup { mut raw, lab, mut seen, .. } = setup();
    raw.request(1, &Flood {}).await;
    saw(&mut seen, "flooded").await;
    // The flood stops by itself: let everything run until nothing moves.
    let mut last = 0;
    loop {
        for _ in 0..1000 {
            tokio::task::yield_now().await;
        }
        let now = lab.0.flooded.load(Ordering::SeqCst);
        if now == last {
            break;
        }
        last = now;
    }
    assert!(last < 32, "{last} items of 256 KiB for a client that reads nothing");
    // Cancelled within a frame; the rest of that frame still comes, then the refusal, and the connection is whole.
    raw.send(FrameKind::Cancel, 1, b"").await;
    saw(&mut seen, "dropped").await;
    let mut items = 0;
    let refusal = loop {
        let frame = raw.next().await.unwrap();
        match frame.kind {
            FrameKind::Item => {
                assert_eq!(codec::decode::<Vec<u8>>(&frame.body).unwrap(), vec![7; 1 << 18]);
                items += 1;
            }
            FrameKind::Refused => break protocol::decode_refusal(&frame.body),
            kind => panic!("{kind:?}"),
        }
    };
    assert!(refusal.is(RefusalKind::Canceled) && items > 0);
    raw.echoes(2).await;
}

#[tokio::test]
async fn items_come_in_order_and_before_the_answer() {
    let Setup { mut raw, mut seen, .. } = setup();
    for (id, to) in [(1, 100), (2, 13), (3, 0)] {
        raw.request(id, &Count { to }).await;
        for number in 0..to {
            let item = raw.next().await.unwrap();
            assert_eq!((item.kind, item.id, codec::decode::<u64>(&item.body).unwrap()), (FrameKind::Item, id, number));
        }
        let last = raw.next().await.unwrap();
        assert_eq!(last.kind, if to == 13 { FrameKind::Refused } else { FrameKind::Reply });
    }
    // A channel that somebody still holds does not hold the answer up.
    raw.request(4, &KeepItems {}).await;
    assert_eq!(raw.next().await.unwrap().kind, FrameKind::Item);
    assert_eq!(raw.next().await.unwrap().kind, FrameKind::Reply);
    saw(&mut seen, "closed").await;
}

#[tokio::test]
async fn an_upload_is_whole_only_with_its_end() {
    let Setup { mut raw, mut seen, .. } = setup();
    raw.request(1, &Sum {}).await;
    for _ in 0..20 {
        raw.send(FrameKind::Data, 1, &[1; 1 << 16]).await;
    }
    raw.send(FrameKind::Data, 1, b"").await;
    raw.send(FrameKind::End, 1, b"").await;
    let reply = raw.next().await.unwrap();
    assert_eq!((reply.kind, codec::decode::<u64>(&reply.body).unwrap()), (FrameKind::Reply, 20 << 16));
    saw(&mut seen, "whole").await;

    // Cancelled instead of ended.
    raw.request(2, &Sum {}).await;
    raw.send(FrameKind::Data, 2, b"xyz").await;
    saw(&mut seen, "summing").await;
    raw.send(FrameKind::Cancel, 2, b"").await;
    saw(&mut seen, "broken: the client broke its upload off").await;
    assert!(raw.refusal(FrameKind::Refused, 2).await.is(RefusalKind::Canceled));
    raw.send(FrameKind::Data, 2, b"late").await;
    raw.echoes(3).await;

    // Left instead of ended.
    raw.request(4, &Sum {}).await;
    raw.send(FrameKind::Data, 4, b"xyz").await;
    saw(&mut seen, "summing").await;
    drop(raw);
    saw(&mut seen, "broken: the client broke its upload off").await;
}

#[tokio::test]
async fn data_after_the_end_is_a_fault() {
    let Setup { mut raw, .. } = setup();
    raw.request(1, &Stall {}).await;
    raw.send(FrameKind::End, 1, b"").await;
    raw.send(FrameKind::Data, 1, b"x").await;
    assert!(raw.refusal(FrameKind::Fault, 0).await.detail.contains("had its end"));
}

#[tokio::test]
async fn a_client_that_leaves_within_a_stalled_upload_is_noticed() {
    let Setup { mut raw, mut seen, served, .. } = setup();
    raw.request(1, &Stall {}).await;
    saw(&mut seen, "stalling").await;
    // More than the channel holds, in one go, so that the connection waits for the call.
    let pieces: Vec<u8> = (0..8).flat_map(|_| frame(FrameKind::Data, 1, &[0; 1000])).collect();
    raw.bytes(&pieces).await;
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
    drop(raw);
    saw(&mut seen, "dropped").await;
    assert_eq!(served.await.unwrap(), Ok(()));
}

#[tokio::test]
async fn calls_in_flight_are_bounded() {
    let Setup { mut raw, lab, mut seen, .. } = setup_with(2);
    for id in 1..=2 {
        raw.request(id, &Work {}).await;
        saw(&mut seen, "working").await;
    }
    raw.request(3, &Echo { text: String::new() }).await;
    assert!(raw.refusal(FrameKind::Refused, 3).await.is(RefusalKind::Unavailable));
    lab.0.go_on.add_permits(2);
    for _ in 0..2 {
        assert_eq!(raw.next().await.unwrap().kind, FrameKind::Reply);
    }
    // The place is free as soon as the task has ended, which is a little after its answer.
    let mut id = 3;
    loop {
        id += 1;
        raw.request(id, &Echo { text: String::new() }).await;
        if raw.next().await.unwrap().kind == FrameKind::Reply {
            break;
        }
    }
}

#[tokio::test]
async fn a_stopping_daemon_answers_commands_and_leaves_queries_to_the_next() {
    let Setup { mut raw, lab, mut seen, stopping, served } = setup();
    raw.request(1, &HangQuery {}).await;
    raw.request(2, &Work {}).await;
    saw(&mut seen, "hanging").await;
    saw(&mut seen, "working").await;
    stopping.cancel();
    loop {
        // Until it has noticed.
        raw.request(raw_next_id(), &Echo { text: String::new() }).await;
        let frame = raw.next().await.unwrap();
        if frame.kind == FrameKind::Refused {
            assert!(protocol::decode_refusal(&frame.body).detail.contains("stopping"));
            break;
        }
    }
    lab.0.go_on.add_permits(1);
    let frame = raw.next().await.unwrap();
    assert_eq!((frame.kind, frame.id), (FrameKind::Reply, 2));
    // The query has no answer; its client asks again.
    assert_eq!(raw.next().await, None);
    assert_eq!(served.await.unwrap(), Ok(()));
    saw(&mut seen, "dropped").await;
}

fn raw_next_id() -> u64 {
    static NEXT: AtomicUsize = AtomicUsize::new(1000);
    NEXT.fetch_add(1, Ordering::SeqCst) as u64
}

#[tokio::test(start_paused = true)]
async fn a_command_that_does_not_end_is_left_after_the_grace() {
    let Setup { mut raw, mut seen, stopping, served, .. } = setup();
    raw.request(1, &Work {}).await;
    saw(&mut seen, "working").await;
    let begun = Instant::now();
    stopping.cancel();
    assert_eq!(raw.next().await, None);
    assert_eq!(served.await.unwrap(), Ok(()));
    assert!(begun.elapsed() >= STOP_GRACE);
}

#[tokio::test]
async fn the_namespace_comes_with_the_call() {
    let Setup { mut raw, .. } = setup();
    let meta = Meta::in_namespace(Namespace::new("k8s.io").unwrap());
    let call = codec::encode(&Echo { text: "t".into() }).unwrap();
    raw.send(FrameKind::Request, 1, &RequestHead { call: Echo::NAME, meta }.encode(&call).unwrap()).await;
    let reply: (String, Option<String>) = codec::decode(&raw.next().await.unwrap().body).unwrap();
    assert_eq!(reply, ("t".to_owned(), Some("k8s.io".to_owned())));
}
