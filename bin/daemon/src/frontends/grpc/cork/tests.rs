use super::*;
use std::future::poll_fn;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream as Stream,
};

fn pair() -> (Corked, Cork, Stream) {
    let (ours, theirs) = Stream::pair().unwrap();
    let (corked, cork) = cork(ours).unwrap();
    (corked, cork, theirs)
}

#[tokio::test]
async fn what_is_written_in_a_turn_goes_out_at_once_and_in_order() {
    let (mut corked, cork, mut client) = pair();
    corked.write_all(b"headers ").await.unwrap();
    corked.flush().await.unwrap();
    let slices = [IoSlice::new(b"data "), IoSlice::new(b"trailers")];
    assert_eq!(poll_fn(|cx| Pin::new(&mut corked).poll_write_vectored(cx, &slices)).await.unwrap(), 13);
    let mut got = [0; 64];
    assert_eq!(client.try_read(&mut got).unwrap_err().kind(), ErrorKind::WouldBlock, "nothing left before the flush");
    poll_fn(|cx| cork.poll_flush(cx)).await;
    let read = client.read(&mut got).await.unwrap();
    assert_eq!(&got[..read], b"headers data trailers");
    assert_eq!(cork.out().gathered.capacity(), 0);
}

#[tokio::test]
async fn a_client_that_does_not_read_holds_up_the_writer_and_loses_nothing() {
    let (mut corked, cork, mut client) = pair();
    let sent: Vec<u8> = (0..1 << 20_u32).map(|n| (n % 251) as u8).collect();
    let expected = sent.clone();
    let writer = tokio::spawn(async move {
        corked.write_all(&sent).await.unwrap();
        poll_fn(|cx| cork.poll_flush(cx)).await;
        assert!(cork.out().full.is_none());
        corked.shutdown().await.unwrap();
    });
    tokio::task::yield_now().await;
    assert!(!writer.is_finished(), "the socket does not hold a mebibyte");
    let mut got = Vec::new();
    client.read_to_end(&mut got).await.unwrap();
    assert!(got == expected);
    writer.await.unwrap();
}

#[tokio::test]
async fn what_the_client_says_is_read_to_its_end() {
    let (mut corked, _cork, mut client) = pair();
    let reader = tokio::spawn(async move {
        let mut got = Vec::new();
        corked.read_to_end(&mut got).await.unwrap();
        got
    });
    for part in ["one ", "two ", "three"] {
        client.write_all(part.as_bytes()).await.unwrap();
        tokio::task::yield_now().await;
    }
    client.shutdown().await.unwrap();
    assert_eq!(reader.await.unwrap(), b"one two three");
}

#[tokio::test]
async fn a_client_that_is_gone_is_told_by_the_next_write_or_read() {
    let (mut corked, cork, client) = pair();
    drop(client);
    corked.write_all(b"to nobody").await.unwrap();
    poll_fn(|cx| cork.poll_flush(cx)).await;
    assert_eq!(corked.write_all(b"more").await.unwrap_err().kind(), ErrorKind::BrokenPipe);
}
