//! Answers that are encoded when they are given.
//!
//! HTTP/2 asks an answer for its bytes when its client has room for them, which may be never. Until then it would keep what
//! it is made of: a list of containers has pages of its moment of the database, and no page that was free then could be
//! used again.

use hyper::body::{Body as _, Frame, SizeHint};
use std::{
    future::poll_fn,
    pin::Pin,
    task::{Context, Poll},
};
use tonic::{
    Status,
    body::Body,
    codegen::{Bytes, http::Response},
};

/// What was there at once, and the rest.
struct Begun {
    first: Option<Result<Frame<Bytes>, Status>>,
    rest: Body,
}

/// Has the answer make what it can make without waiting for anything.
pub async fn begin(answer: Response<Body>) -> Response<Body> {
    let (head, mut rest) = answer.into_parts();
    if rest.is_end_stream() {
        return Response::from_parts(head, rest);
    }
    let body = match poll_fn(|cx| Poll::Ready(Pin::new(&mut rest).poll_frame(cx))).await {
        Poll::Ready(Some(first)) => Body::new(Begun { first: Some(first), rest }),
        Poll::Ready(None) => Body::empty(),
        Poll::Pending => rest,
    };
    Response::from_parts(head, body)
}

impl hyper::body::Body for Begun {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        match self.first.take() {
            Some(first) => Poll::Ready(Some(first)),
            None => Pin::new(&mut self.rest).poll_frame(cx),
        }
    }

    fn is_end_stream(&self) -> bool {
        self.first.is_none() && self.rest.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        // What is first here is no longer in the rest's.
        if self.first.is_some() { SizeHint::default() } else { self.rest.size_hint() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::{Arc, Weak};

    /// Of a few pieces, which are gone when they are told.
    struct Pieces(Vec<Arc<str>>);

    impl hyper::body::Body for Pieces {
        type Data = Bytes;
        type Error = Status;

        fn poll_frame(mut self: Pin<&mut Self>, _: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
            let piece = self.0.pop();
            Poll::Ready(piece.map(|piece| Ok(Frame::data(Bytes::copy_from_slice(piece.as_bytes())))))
        }
    }

    async fn read(body: &mut Body) -> Option<Bytes> {
        let frame = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).await;
        frame.map(|frame| frame.unwrap().into_data().unwrap())
    }

    #[tokio::test]
    async fn what_an_answer_is_made_of_goes_before_its_client_reads() {
        let pieces = vec![Arc::from("second"), Arc::from("first")];
        let known: Vec<Weak<str>> = pieces.iter().map(Arc::downgrade).collect();
        let mut body = begin(Response::new(Body::new(Pieces(pieces)))).await.into_body();
        assert_eq!(known.iter().map(Weak::strong_count).collect::<Vec<_>>(), [1, 0]);
        assert!(!body.is_end_stream());
        assert_eq!(read(&mut body).await.unwrap(), "first");
        assert_eq!(read(&mut body).await.unwrap(), "second");
        assert_eq!(read(&mut body).await, None);
    }

    #[tokio::test]
    async fn an_answer_without_bytes_stays_one() {
        for body in [Body::empty(), Body::new(Pieces(Vec::new()))] {
            let body = begin(Response::new(body)).await.into_body();
            assert!(body.is_end_stream());
        }
    }
}
