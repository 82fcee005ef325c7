//! What containerd's suite for content stores asks, restated at wire level; containerd itself is asked the same.

use crate::{
    client::{self, Channel, Daemon, compare, eventually, within},
    proto::containerd::services::content::v1::{
        AbortRequest, DeleteContentRequest, Info, InfoRequest, ListContentRequest, ListStatusesRequest,
        ReadContentRequest, StatusRequest, UpdateRequest, WriteAction, WriteContentRequest, WriteContentResponse,
        content_client::ContentClient,
    },
};
use futures_util::{StreamExt, stream};
use tonic::{Code, Request, Status};

const HELLO: &str = "sha256:2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824";
/// Of `hello!`.
const LONGER: &str = "sha256:ce06092fb948d9ffac7d1a376e404b26b7575bcc11ee05a4615fef4fec3a308b";
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

/// Kept from garbage collection, which takes what nothing names.
fn kept(message: WriteContentRequest) -> WriteContentRequest {
    WriteContentRequest { labels: client::labels(&["containerd.io/gc.root=x"]), ..message }
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
    let (answers, end) = say(content, namespace, vec![kept(message(WriteAction::Commit, 0, "hello"))]).await;
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
    for daemon in Daemon::both() {
        let mut content = daemon.content().await;
        for (at, (messages, offsets, code, stands)) in ingests().into_iter().enumerate() {
            let who = daemon.name();
            let (answers, end) = say(&mut content, "n", messages).await;
            let ended = end.as_ref().map_or_else(Status::code, |()| Code::Ok);
            assert_eq!(ended, code, "{who}, row {at}: {end:?}");
            let mut told: Vec<_> = answers.iter().map(|answer| answer.offset).collect();
            // containerd says at the end of a stream once more where it is.
            if who == "containerd" {
                told.truncate(offsets.len());
            }
            assert_eq!(told, offsets, "{who}, row {at}");
            // The reference is free once the stream is gone, which is a little after its end.
            assert_eq!(offset(&mut content).await, stands, "{who}, row {at}");
        }
    }
}

/// Conversations about one reference, one after the other.
fn ingests() -> Vec<Row> {
    use WriteAction::{Commit, Stat, Write};
    vec![
        (vec![message(Write, 0, "he")], &[2], Code::Ok, Ok(2)),
        (vec![message(Stat, 0, "")], &[2], Code::Ok, Ok(2)),
        // Somewhere else is refused, and nothing is lost.
        (vec![message(Write, 1, "x")], &[], Code::OutOfRange, Ok(2)),
        (vec![message(Write, 3, "x")], &[], Code::OutOfRange, Ok(2)),
        (vec![message(Stat, 0, ""), message(Write, 2, "y"), message(Write, 3, "y")], &[2, 3, 4], Code::Ok, Ok(4)),
        // The beginning throws away what was there.
        (vec![message(Write, 0, "hell")], &[4], Code::Ok, Ok(4)),
        // Not what is expected: it stays.
        (vec![WriteContentRequest { total: 9, ..message(Commit, 4, "") }], &[], Code::FailedPrecondition, Ok(4)),
        (vec![expecting(OTHER, message(Commit, 4, "o"))], &[], Code::FailedPrecondition, Ok(5)),
        (vec![kept(message(Commit, 5, "")), message(Stat, 0, "")], &[5], Code::Ok, Err(Code::NotFound)),
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
    ]
}

/// containerd takes a negative offset for the end.
#[tokio::test]
async fn a_negative_offset_is_refused() {
    let daemon = Daemon::start();
    let mut content = daemon.content().await;
    for action in [WriteAction::Write, WriteAction::Commit] {
        let (_, end) = say(&mut content, "n", vec![message(action, -1, "x")]).await;
        assert_eq!(end.unwrap_err().code(), Code::InvalidArgument);
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
    use WriteAction::{Commit, Stat, Write};
    for daemon in Daemon::both() {
        let mut content = daemon.content().await;
        put(&mut content, "n").await;
        let info = |namespace| within(namespace, InfoRequest { digest: HELLO.to_owned() });
        assert_eq!(content.info(info("m")).await.unwrap_err().code(), Code::NotFound);
        // All of it is written already; it only has to be taken.
        let named = WriteContentRequest { total: 5, ..expecting(HELLO, message(Stat, 0, "")) };
        let (answers, end) = say(&mut content, "m", vec![named.clone(), kept(message(Commit, 5, ""))]).await;
        end.unwrap();
        let seen: Vec<_> = answers.iter().map(|answer| (answer.offset, answer.digest.as_str())).collect();
        assert_eq!(seen[..2], [(5, HELLO), (5, HELLO)], "{}", daemon.name());
        assert_eq!(content.info(info("m")).await.unwrap().into_inner().info.unwrap().size, 5);
        // Or it is only the beginning of another.
        let whole = WriteContentRequest { total: 6, ..expecting(LONGER, message(Commit, 6, "")) };
        let more = vec![named.clone(), message(Write, 5, "!"), whole];
        let (answers, end) = say(&mut content, "o", more).await;
        end.unwrap();
        assert_eq!(
            answers.iter().map(|answer| answer.offset).take(3).collect::<Vec<_>>(),
            [5, 6, 6],
            "{}",
            daemon.name()
        );
        assert_eq!(answers[2].digest, LONGER);
        assert_eq!(content.info(info("o")).await.unwrap_err().code(), Code::NotFound);
        // One namespace's deletion is not another's.
        let delete = |namespace| within(namespace, DeleteContentRequest { digest: HELLO.to_owned() });
        content.delete(delete("n")).await.unwrap();
        assert_eq!(content.delete(delete("n")).await.unwrap_err().code(), Code::NotFound);
        assert_eq!(read(&mut content, "m", HELLO, 0, 0).await, Ok("hello".to_owned()));
        assert_eq!(read(&mut content, "n", HELLO, 0, 0).await, Err(Code::NotFound));
    }
}

#[tokio::test]
async fn a_blob_is_resumed_after_each_of_its_bytes() {
    use WriteAction::{Commit, Write};
    const BLOB: &str = "0123456789";
    for daemon in Daemon::both() {
        let mut content = daemon.content().await;
        for (at, (_, rest)) in (0..=BLOB.len()).map(|at| (at, BLOB.split_at(at))).collect::<Vec<_>>() {
            let namespace = format!("r{at}");
            let (first, at) = (&BLOB[..at], i64::try_from(at).unwrap());
            say(&mut content, &namespace, vec![message(Write, 0, first)]).await.1.unwrap();
            let listed = content.list_statuses(within(&namespace, ListStatusesRequest::default())).await.unwrap();
            assert_eq!(listed.into_inner().statuses[0].offset, at, "{}", daemon.name());
            let (answers, end) = say(&mut content, &namespace, vec![kept(message(Commit, at, rest))]).await;
            end.unwrap();
            assert_eq!(answers[0].offset, 10, "{} {at}", daemon.name());
            assert_eq!(read(&mut content, &namespace, &answers[0].digest, 0, 0).await, Ok(BLOB.to_owned()));
        }
    }
}

#[tokio::test]
async fn what_goes_wrong_is_told_in_containerds_words() {
    use WriteAction::{Commit, Stat, Write};
    let known = [
        ("malformed digest", "ours says which rule"),
        ("status of nothing", "containerd says it twice"),
        ("no reference", "containerd forgets the suffix"),
        ("wrong size", "ours says it in the words of containerd's own store"),
        ("offset beyond", "ours names the reference"),
        ("long label", "ours says how long, as later releases do"),
    ];
    compare(&known, async |daemon, answers| {
        let mut content = daemon.content().await;
        let info = |digest: &str| within("n", InfoRequest { digest: digest.to_owned() });
        answers.done("info of nothing", Code::NotFound, content.info(info(OTHER)).await);
        answers.done("malformed digest", Code::InvalidArgument, content.info(info("md5:0")).await);
        let nowhere = content.info(Request::new(InfoRequest { digest: OTHER.to_owned() })).await;
        answers.done("no namespace", Code::FailedPrecondition, nowhere);
        let delete = DeleteContentRequest { digest: OTHER.to_owned() };
        answers.done("delete of nothing", Code::NotFound, content.delete(within("n", delete)).await);
        let status = StatusRequest { r#ref: "nobody".to_owned() };
        answers.done("status of nothing", Code::NotFound, content.status(within("n", status)).await);
        let abort = AbortRequest { r#ref: "nobody".to_owned() };
        answers.done("abort of nothing", Code::NotFound, content.abort(within("n", abort)).await);
        let update = |labels: &[&str], paths: &[&str]| {
            let info = Info { digest: HELLO.to_owned(), labels: client::labels(labels), ..Info::default() };
            within("n", UpdateRequest { info: Some(info), update_mask: client::mask(paths) })
        };
        answers.done("update of nothing", Code::NotFound, content.update(update(&["a=1"], &["labels.a"])).await);
        for (step, want, messages) in [
            ("no reference", Code::InvalidArgument, vec![WriteContentRequest::default()]),
            (
                "wrong size",
                Code::FailedPrecondition,
                vec![WriteContentRequest { total: 9, ..message(Commit, 0, "hello") }],
            ),
            ("wrong digest", Code::FailedPrecondition, vec![expecting(OTHER, message(Commit, 0, "hello"))]),
            ("offset beyond", Code::OutOfRange, vec![message(Write, 9, "x")]),
            ("commit", Code::Ok, vec![kept(message(Commit, 0, "hello"))]),
            ("commit again", Code::AlreadyExists, vec![message(Commit, 0, "hello")]),
            ("expected again", Code::AlreadyExists, vec![expecting(HELLO, message(Stat, 0, ""))]),
        ] {
            let (_, end) = say(&mut content, "n", messages).await;
            answers.done(step, want, end);
        }
        let long = format!("f={}", "x".repeat(4096));
        answers.done("long label", Code::InvalidArgument, content.update(update(&[&long], &["labels.f"])).await);
        answers.done("unknown path", Code::InvalidArgument, content.update(update(&[], &["size"])).await);
        let filters = vec!["label.".to_owned()];
        let listed = match content.list(within("n", ListContentRequest { filters: filters.clone() })).await {
            Ok(listed) => listed.into_inner().message().await.map(|_| ()),
            Err(status) => Err(status),
        };
        answers.done("malformed filter", Code::InvalidArgument, listed);
        let listed = content.list_statuses(within("n", ListStatusesRequest { filters })).await;
        answers.done("malformed status filter", Code::InvalidArgument, listed);
    })
    .await;
}

#[tokio::test]
async fn lists_come_in_batches_and_pass_filters() {
    for daemon in Daemon::both() {
        let mut content = daemon.content().await;
        for n in 0..250 {
            let data = format!("blob {n}");
            let mut commit = kept(WriteContentRequest { data: data.into(), ..message(WriteAction::Commit, 0, "") });
            commit.r#ref = format!("r{n}");
            if n % 100 == 0 {
                commit.labels.insert("hundred".to_owned(), "yes".to_owned());
            }
            say(&mut content, "n", vec![commit]).await.1.unwrap();
        }
        for (filters, batches) in [
            (vec![], vec![100, 100, 50]),
            (vec![""], vec![100, 100, 50]),
            (vec!["labels.hundred==yes"], vec![3]),
            (vec!["labels.hundred"], vec![3]),
            (vec!["labels.hundred==no", "digest~=^sha256:", "digest==x"], vec![100, 100, 50]),
            (vec!["labels.hundred==yes,digest!~=x"], vec![]),
        ] {
            let filters = filters.into_iter().map(str::to_owned).collect::<Vec<_>>();
            let mut told = match content.list(within("n", ListContentRequest { filters: filters.clone() })).await {
                Ok(told) => told.into_inner(),
                Err(status) => {
                    assert_eq!(status.code(), Code::InvalidArgument, "{filters:?}");
                    continue;
                }
            };
            let mut sizes = Vec::new();
            let end = loop {
                match told.message().await {
                    Ok(Some(batch)) => sizes.push(batch.info.len()),
                    Ok(None) => break Code::Ok,
                    Err(status) => break status.code(),
                }
            };
            assert!(end == Code::Ok || end == Code::InvalidArgument);
            assert_eq!(sizes, batches, "{}: {filters:?}", daemon.name());
        }
        for (n, reference) in ["a", "b", "b/c"].into_iter().enumerate() {
            let write = WriteContentRequest { r#ref: reference.to_owned(), ..message(WriteAction::Write, 0, "x") };
            let (answers, end) = say(&mut content, "s", vec![write]).await;
            end.unwrap();
            assert_eq!((n, answers[0].offset), (n, 1));
        }
        for (filters, want) in
            [(vec![], "a,b,b/c"), (vec![""], "a,b,b/c"), (vec!["ref==b"], "b"), (vec!["ref~=^b", "ref==a"], "a,b,b/c")]
        {
            let filters = filters.into_iter().map(str::to_owned).collect();
            let listed = content.list_statuses(within("s", ListStatusesRequest { filters })).await.unwrap();
            let mut names: Vec<_> = listed.into_inner().statuses.into_iter().map(|status| status.r#ref).collect();
            names.sort();
            assert_eq!(names.join(","), want, "{}", daemon.name());
        }
    }
}

#[tokio::test]
async fn labels_come_with_the_commit() {
    for daemon in Daemon::both() {
        let mut content = daemon.content().await;
        let labels = client::labels(&["a=1", "containerd.io/gc.root=x"]);
        let commit = WriteContentRequest { labels, ..message(WriteAction::Commit, 0, "hello") };
        say(&mut content, "n", vec![commit]).await.1.unwrap();
        let info = content.info(within("n", InfoRequest { digest: HELLO.to_owned() })).await.unwrap();
        assert_eq!(client::shown(&info.into_inner().info.unwrap().labels), "a=1,containerd.io/gc.root=x");
        let labels = client::labels(&[&format!("k={}", "v".repeat(4096))]);
        let commit = WriteContentRequest { labels, ..message(WriteAction::Commit, 0, "other") };
        let (_, end) = say(&mut content, "n", vec![commit]).await;
        assert_eq!(end.unwrap_err().code(), Code::InvalidArgument, "{}", daemon.name());
    }
}

#[tokio::test]
async fn labels_change_by_mask() {
    for daemon in Daemon::both() {
        labels_change(&daemon).await;
    }
}

async fn labels_change(daemon: &Daemon) {
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
        let text = labels.map(|mut labels| {
            labels.remove("containerd.io/gc.root");
            labels
        });
        let text = text.map(|labels| labels.iter().map(|(k, v)| format!("{k}={v}")).collect::<Vec<_>>().join(","));
        assert_eq!(text.as_deref().map_err(Status::code), want);
    }
}

/// What is read, or how the reading ended.
async fn read(content: &mut Content, namespace: &str, digest: &str, offset: i64, size: i64) -> Result<String, Code> {
    let request = ReadContentRequest { digest: digest.to_owned(), offset, size };
    let told = content.read(within(namespace, request)).await.map_err(|status| status.code())?;
    let (mut told, mut read) = (told.into_inner(), Vec::new());
    loop {
        match told.message().await {
            Ok(Some(part)) => read.extend_from_slice(&part.data),
            Ok(None) => return Ok(String::from_utf8(read).unwrap()),
            Err(status) => return Err(status.code()),
        }
    }
}

#[tokio::test]
async fn parts_can_be_read() {
    for daemon in Daemon::both() {
        let mut content = daemon.content().await;
        put(&mut content, "n").await;
        for (offset, size, want) in [
            (0, 0, Ok("hello")),
            (1, 3, Ok("ell")),
            (3, 2, Ok("lo")),
            (-1, -1, Ok("hello")),
            (5, 0, Ok("")),
            (6, 0, Err(Code::OutOfRange)),
        ] {
            let end = read(&mut content, "n", HELLO, offset, size).await;
            assert_eq!(end.as_deref().map_err(|code| *code), want, "{}: {offset} {size}", daemon.name());
        }
        assert_eq!(read(&mut content, "n", OTHER, 0, 0).await, Err(Code::NotFound));
    }
}
