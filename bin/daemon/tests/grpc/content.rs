//! What containerd's suite for content stores asks, restated at wire level.

use crate::{
    client::{self, Channel, Daemon, eventually, within},
    proto::containerd::services::content::v1::{
        AbortRequest, Info, InfoRequest, ListContentRequest, ListStatusesRequest, ReadContentRequest, StatusRequest,
        UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse, content_client::ContentClient,
    },
};
use futures_util::{StreamExt, stream};
use tonic::{Code, Request, Status};

const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
const OTHER: &str = "sha256:0000000000000000000000000000000000000000000000000000000000000000";

type Content = ContentClient<Channel>;

fn message(action: WriteAction, offset: i64, data: &'static str) -> WriteContentRequest {
    WriteContentRequest {
        action: action.into(),
        r#ref: "r".to_owned(),
        offset,
        data: data.into(),
        ..WriteContentRequest::default()
    }
}

fn expecting(digest: &str, message: WriteContentRequest) -> WriteContentRequest {
    WriteContentRequest { expected: digest.to_owned(), ..message }
}

/// A whole conversation: every answer, then how it ended.
async fn say(
    content: &mut Content,
    namespace: &str,
    messages: Vec<WriteContentRequest>,
) -> (Vec<WriteContentResponse>, Result<(), Status>) {
    let mut answers = Vec::new();
    let mut told = match content.write(within(namespace, stream::iter(messages))).await {
        Ok(told) => told.into_inner(),
        Err(status) => return (answers, Err(status)),
    };
    loop {
        match told.message().await {
            Ok(Some(answer)) => answers.push(answer),
            Ok(None) => return (answers, Ok(())),
            Err(status) => return (answers, Err(status)),
        }
    }
}

async fn put(content: &mut Content, namespace: &str) {
    let (answers, end) = say(content, namespace, vec![message(WriteAction::Commit, 0, "hello")]).await;
    end.unwrap();
    assert_eq!((answers[0].offset, answers[0].digest.as_str()), (5, HELLO));
}

async fn offset(content: &mut Content) -> Result<i64, Code> {
    let status = content.status(within("n", StatusRequest { r#ref: "r".to_owned() })).await;
    status.map(|status| status.into_inner().status.unwrap().offset).map_err(|status| status.code())
}

/// What is said, the offsets answered, the code at the end, and where the ingest stands then.
type Row = (Vec<WriteContentRequest>, &'static [i64], Code, Result<i64, Code>);

#[tokio::test]
async fn an_ingest_goes_on_where_it_was_left() {
    use WriteAction::{Commit, Stat, Write};
    let daemon = Daemon::start();
    let mut content = daemon.content().await;
    let table: Vec<Row> = vec![
        (vec![message(Write, 0, "he")], &[2], Code::Ok, Ok(2)),
        (vec![message(Stat, 0, "")], &[2], Code::Ok, Ok(2)),
        // Somewhere else is refused, and nothing is lost.
        (vec![message(Write, 1, "x")], &[], Code::OutOfRange, Ok(2)),
        (vec![message(Write, 3, "x")], &[], Code::OutOfRange, Ok(2)),
        (vec![message(Write, -1, "x")], &[], Code::InvalidArgument, Ok(2)),
        (vec![message(Stat, 0, ""), message(Write, 2, "y"), message(Write, 3, "y")], &[2, 3, 4], Code::Ok, Ok(4)),
        // The beginning throws away what was there.
        (vec![message(Write, 0, "hell")], &[4], Code::Ok, Ok(4)),
        // Not what is expected: it stays.
        (vec![WriteContentRequest { total: 9, ..message(Commit, 4, "") }], &[], Code::FailedPrecondition, Ok(4)),
        (vec![expecting(OTHER, message(Commit, 4, "o"))], &[], Code::FailedPrecondition, Ok(5)),
        (vec![message(Commit, 5, ""), message(Stat, 0, "")], &[5], Code::Ok, Err(Code::NotFound)),
        // Now it is here: whoever expects it need not write.
        (vec![expecting(HELLO, message(Write, 0, "h"))], &[], Code::AlreadyExists, Err(Code::NotFound)),
        (
            vec![message(Write, 0, "h"), expecting(HELLO, message(Write, 1, "e"))],
            &[1],
            Code::AlreadyExists,
            Err(Code::NotFound),
        ),
        // On a commit, too, the beginning throws away what was there.
        (vec![message(Write, 0, "abc"), message(Commit, 0, "x")], &[3, 1], Code::Ok, Err(Code::NotFound)),
        (vec![WriteContentRequest::default()], &[], Code::InvalidArgument, Err(Code::NotFound)),
    ];
    for (at, (messages, offsets, code, stands)) in table.into_iter().enumerate() {
        let (answers, end) = say(&mut content, "n", messages).await;
        let ended = end.as_ref().map_or_else(Status::code, |()| Code::Ok);
        assert_eq!(ended, code, "row {at}: {end:?}");
        assert_eq!(answers.iter().map(|answer| answer.offset).collect::<Vec<_>>(), offsets, "row {at}");
        // The reference is free once the stream is gone, which is a little after its end.
        assert_eq!(offset(&mut content).await, stands, "row {at}");
    }
}

#[tokio::test]
async fn a_reference_is_locked_while_its_stream_lives() {
    let daemon = Daemon::start();
    let mut content = daemon.content().await;
    let (channel, socket) = daemon.connect_until().await;
    let open = stream::iter([message(WriteAction::Write, 0, "he")]).chain(stream::pending());
    let mut first = client::content(channel).write(within("n", open)).await.unwrap().into_inner();
    assert_eq!(first.message().await.unwrap().unwrap().offset, 2);
    let (_, end) = say(&mut content, "n", vec![message(WriteAction::Stat, 0, "")]).await;
    let status = end.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(status.message().contains("locked"), "{status}");
    let abort =
        |mut content: Content| async move { content.abort(within("n", AbortRequest { r#ref: "r".to_owned() })).await };
    assert_eq!(abort(content.clone()).await.unwrap_err().code(), Code::Unavailable);
    // Another namespace has references of its own.
    say(&mut content, "m", vec![message(WriteAction::Stat, 0, "")]).await.1.unwrap();
    // The client goes away.
    socket.shutdown(std::net::Shutdown::Both).unwrap();
    eventually(|| abort(content.clone())).await;
    assert_eq!(offset(&mut content).await, Err(Code::NotFound));
}

#[tokio::test]
async fn another_namespace_need_not_write_it_again() {
    let daemon = Daemon::start();
    let mut content = daemon.content().await;
    put(&mut content, "n").await;
    let info = |namespace| within(namespace, InfoRequest { digest: HELLO.to_owned() });
    assert_eq!(content.info(info("m")).await.unwrap_err().code(), Code::NotFound);
    let (_, end) = say(&mut content, "m", vec![expecting(HELLO, message(WriteAction::Stat, 0, ""))]).await;
    assert_eq!(end.unwrap_err().code(), Code::AlreadyExists);
    assert_eq!(content.info(info("m")).await.unwrap().into_inner().info.unwrap().size, 5);
}

#[tokio::test]
async fn labels_change_by_mask() {
    let daemon = Daemon::start();
    let mut content = daemon.content().await;
    put(&mut content, "n").await;
    let update = |label: &str, value: &str, paths: &[&str]| {
        let labels = [(label.to_owned(), value.to_owned())].into();
        let info = Some(Info { digest: HELLO.to_owned(), labels, ..Info::default() });
        let paths = paths.iter().map(|path| (*path).to_owned()).collect();
        within("n", UpdateRequest { info, update_mask: Some(prost_types::FieldMask { paths }) })
    };
    for (request, want) in [
        (update("a", "1", &["labels.a"]), Ok("a=1")),
        (update("b", "2", &["labels.b"]), Ok("a=1,b=2")),
        (update("a", "", &["labels.a"]), Ok("b=2")),
        (update("c", "3", &["labels"]), Ok("c=3")),
        (update("d", "4", &[]), Ok("d=4")),
        (update("e", "5", &["size"]), Err(Code::InvalidArgument)),
        (update("f", &"x".repeat(4096), &["labels.f"]), Err(Code::InvalidArgument)),
    ] {
        let labels = content.update(request).await.map(|answer| answer.into_inner().info.unwrap().labels);
        let text = labels.map(|labels| labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","));
        assert_eq!(text.as_deref().map_err(Status::code), want);
    }
}

#[tokio::test]
async fn parts_can_be_read() {
    let daemon = Daemon::start();
    let mut content = daemon.content().await;
    put(&mut content, "n").await;
    for (offset, size, want) in [
        (0, 0, Ok("hello")),
        (1, 3, Ok("ell")),
        (3, 100, Ok("lo")),
        (-1, -1, Ok("hello")),
        (5, 0, Ok("")),
        (6, 0, Err(Code::OutOfRange)),
    ] {
        let request = ReadContentRequest { digest: HELLO.to_owned(), offset, size };
        let mut told = content.read(within("n", request)).await.unwrap().into_inner();
        let mut read = Vec::new();
        let end = loop {
            match told.message().await {
                Ok(Some(part)) => read.extend_from_slice(&part.data),
                Ok(None) => break Ok(String::from_utf8(read).unwrap()),
                Err(status) => break Err(status.code()),
            }
        };
        assert_eq!(end.as_deref().map_err(|code| *code), want, "{offset} {size}");
    }
}

#[tokio::test]
async fn what_is_missing_is_told_in_containerds_words() {
    let daemon = Daemon::start();
    let mut content = daemon.content().await;
    let status = content.info(within("n", InfoRequest { digest: OTHER.to_owned() })).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::NotFound, &*format!("content digest {OTHER}: not found")));
    let status = content.info(within("n", InfoRequest { digest: "md5:0".to_owned() })).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let status = content.info(Request::new(InfoRequest { digest: OTHER.to_owned() })).await.unwrap_err();
    assert_eq!(
        (status.code(), status.message()),
        (Code::FailedPrecondition, "namespace is required: failed precondition")
    );
    let status = content.info(within("a/b", InfoRequest { digest: OTHER.to_owned() })).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    let filters = vec!["label.".to_owned()];
    let status = content.list(within("n", ListContentRequest { filters })).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // The empty filter, which clients send for "all".
    let filters = vec![String::new()];
    let statuses = content.list_statuses(within("n", ListStatusesRequest { filters })).await.unwrap();
    assert!(statuses.into_inner().statuses.is_empty());
}
