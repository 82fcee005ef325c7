//! A blob's bytes, through cuts, stalls and lost hosts.
//!
//! ```text
//!            connect: host, Range: bytes=OFFSET-          206 at OFFSET | 200: skip OFFSET bytes
//!   .------------------------------------------------------.
//!   v                                                      |
//! reading --- cut, stalled, too slow ---> pause, same host, or the next one ---> refusal
//!   |
//!   `--- size reached ---> end
//! ```
//!
//! A host that brings bytes may be cut as often as it likes; [`Limits::attempts`] in a row that bring nothing are the
//! end of it.

use super::{
    BlobStream, Limits,
    host::Host,
    pool::HttpRegistry,
    retry::{Failure, Fault, combine, pause},
    transport::{content_length, explain},
};
use bytes::Bytes;
use futures_util::{FutureExt, StreamExt, stream};
use reqwest::{
    Response, StatusCode,
    header::{CONTENT_RANGE, HeaderMap, HeaderValue, RANGE},
};
use std::{sync::Arc, time::Duration};
use tokio::time::Instant;
use wharf_messages::{Answer, Descriptor, Refusal, RefusalKind, descriptor::media_type, reference::Reference};

/// Fewer bytes than this are no progress that would earn a host another set of attempts.
const PROGRESS_MIN_BYTES: u64 = 64 << 10;

impl HttpRegistry {
    pub(super) async fn download(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        offset_bytes: u64,
    ) -> Answer<BlobStream> {
        let hosts = self.hosts(reference, |may| may.pull).await?;
        let mut download = Download {
            registry: self.clone(),
            reference: reference.clone(),
            descriptor: descriptor.clone(),
            hosts,
            at: 0,
            offset_bytes,
            response: None,
            skip_bytes: 0,
            gained_bytes: 0,
            has_gained: false,
            failures: 0,
            lost: Vec::new(),
            may_range: true,
            rate: Rate::default(),
            is_overdue: false,
        };
        if offset_bytes > descriptor.size_bytes {
            return Err(Refusal::out_of_range(format!(
                "{}: offset {offset_bytes} is beyond its {} bytes",
                download.doing(),
                descriptor.size_bytes
            )));
        }
        // The first connection is made here, so that what is wrong from the start is this call's refusal.
        if offset_bytes < descriptor.size_bytes {
            download.connect().await?;
        }
        let chunks = stream::try_unfold(download, |mut download| async move {
            Ok(download.next().await?.map(|chunk| (chunk, download)))
        });
        Ok(chunks.boxed())
    }
}

struct Download {
    registry: HttpRegistry,
    reference: Reference,
    descriptor: Descriptor,
    hosts: Vec<Arc<Host>>,
    /// Which of the hosts is asked.
    at: usize,
    /// The next byte to yield.
    offset_bytes: u64,
    response: Option<Response>,
    /// What to throw away of a response that began before the offset.
    skip_bytes: u64,
    /// What the last connection brought.
    gained_bytes: u64,
    /// Whether this host has brought anything yet.
    has_gained: bool,
    /// Attempts in a row that brought nothing.
    failures: u32,
    /// How the hosts before this one failed.
    lost: Vec<Failure>,
    /// Cleared when this host has no sense for ranges.
    may_range: bool,
    rate: Rate,
    /// The last chunk was good, but too long in coming.
    is_overdue: bool,
}

impl Download {
    fn doing(&self) -> String {
        format!("fetch {} of {}", self.descriptor.digest, self.reference.locator())
    }

    async fn next(&mut self) -> Answer<Option<Bytes>> {
        loop {
            if self.offset_bytes >= self.descriptor.size_bytes {
                self.finish();
                return Ok(None);
            }
            if std::mem::take(&mut self.is_overdue) {
                let slow = Failure::transient(Refusal::deadline_exceeded(self.at_byte("too slow")));
                self.lose(slow).await?;
            }
            let idle = self.limits().idle;
            let Some(response) = &mut self.response else {
                self.connect().await?;
                continue;
            };
            let asked = Instant::now();
            let outcome = match tokio::time::timeout(idle, response.chunk()).await {
                Ok(Ok(Some(chunk))) => self.take(chunk, asked.elapsed()),
                Ok(Ok(None)) => Err(Failure::transient(Refusal::unavailable(self.at_byte("the connection ended")))),
                Ok(Err(e)) => Err(explain(response.url(), &e).context(self.at_byte("cut"))),
                Err(_) => Err(Failure::transient(Refusal::deadline_exceeded(
                    self.at_byte(&format!("nothing came for {idle:?}")),
                ))),
            };
            match outcome {
                Ok(chunk) if chunk.is_empty() => {}
                Ok(chunk) => return Ok(Some(chunk)),
                Err(failure) => self.lose(failure).await?,
            }
        }
    }

    fn limits(&self) -> &Limits {
        self.registry.limits()
    }

    fn at_byte(&self, what: &str) -> String {
        let host = self.hosts.get(self.at).map_or("?", |host| host.config().authority.as_str());
        format!("registry {host}: {what} at byte {} of {}", self.offset_bytes, self.descriptor.size_bytes)
    }

    /// Accounts for a chunk and cuts off what was not asked for.
    fn take(&mut self, mut chunk: Bytes, waited: Duration) -> Result<Bytes, Failure> {
        let is_slow = self.rate.add(chunk.len(), waited, self.registry.limits());
        let skipped = self.skip_bytes.min(chunk.len() as u64);
        self.skip_bytes -= skipped;
        // No larger than the chunk, so it fits.
        let chunk = chunk.split_off(usize::try_from(skipped).unwrap_or(usize::MAX));
        let length = chunk.len() as u64;
        if length > self.descriptor.size_bytes - self.offset_bytes {
            return Err(Refusal::failed_precondition(self.at_byte("sends more than the descriptor's size")).into());
        }
        self.offset_bytes += length;
        self.gained_bytes += length;
        self.has_gained |= length > 0;
        self.is_overdue |= is_slow;
        Ok(chunk)
    }

    /// Drops the connection, or hands it back if the response is at its end.
    fn finish(&mut self) {
        if let Some(mut response) = self.response.take() {
            // Polled once: an end that has come already lets the pool have the connection. Anything else that may be
            // there is nobody's.
            drop(response.chunk().now_or_never());
        }
    }

    async fn connect(&mut self) -> Answer<()> {
        loop {
            match self.open().await {
                Ok(response) => {
                    self.response = Some(response);
                    self.gained_bytes = 0;
                    self.rate = Rate::default();
                    return Ok(());
                }
                Err(failure) => self.lose(failure).await?,
            }
        }
    }

    /// Asks the current host for the rest.
    async fn open(&mut self) -> Result<Response, Failure> {
        let Some(host) = self.hosts.get(self.at).cloned() else {
            return Err(Refusal::failed_precondition("no configured host may be asked for it").into());
        };
        let (offset, size) = (self.offset_bytes, self.descriptor.size_bytes);
        let is_manifest =
            media_type::is_manifest(&self.descriptor.media_type) || media_type::is_index(&self.descriptor.media_type);
        let kind = if is_manifest { "manifests" } else { "blobs" };
        let accept = format!("{}, */*", self.descriptor.media_type);
        let what = format!("{kind}/{}", self.descriptor.digest);
        let mut call = self.registry.read_call(&host, &self.reference, &what, &accept);
        call.is_verified = true;
        let is_ranged = offset > 0 && self.may_range;
        if is_ranged {
            call.headers.insert(
                RANGE,
                HeaderValue::try_from(format!("bytes={offset}-"))
                    .map_err(|_| Failure::from(Refusal::internal(format!("offset {offset} makes no range header"))))?,
            );
        }
        let response = match host.ask(&call).await {
            Err(failure) if is_ranged && failure.refusal.is(RefusalKind::OutOfRange) => {
                self.may_range = false;
                return Err(Failure { fault: Fault::Transient, ..failure });
            }
            outcome => outcome?,
        };
        let bad = |why: String| {
            Failure::from(Refusal::failed_precondition(format!("registry {}: {why}", host.config().authority)))
        };
        let length = content_length(response.headers());
        self.skip_bytes = if response.status() == StatusCode::PARTIAL_CONTENT {
            match content_range(response.headers()) {
                Some((start, total)) if is_ranged && start == offset && total.is_none_or(|total| total == size) => {}
                Some((_, Some(total))) if total != size => {
                    return Err(bad(format!("has {total} bytes, the descriptor says {size}")));
                }
                _ => {
                    self.may_range = false;
                    return Err(Failure::transient(bad("answered another range than was asked for".into()).refusal));
                }
            }
            0
        } else {
            if let Some(length) = length.filter(|length| *length != size) {
                return Err(bad(format!("has {length} bytes, the descriptor says {size}")));
            }
            offset
        };
        Ok(response)
    }

    /// After a failure: pauses and stays with the host, goes on to the next one, or gives up.
    async fn lose(&mut self, failure: Failure) -> Answer<()> {
        self.response = None;
        if self.gained_bytes >= PROGRESS_MIN_BYTES {
            self.failures = 0;
        }
        let has_progressed = self.gained_bytes > 0;
        self.gained_bytes = 0;
        self.failures += 1;
        let may_recover = match failure.fault {
            Fault::Transient => true,
            // It was there before; registries restart.
            Fault::Connect | Fault::NotTls => self.has_gained,
            Fault::Final => false,
        };
        let is_last = self.at + 1 >= self.hosts.len();
        if may_recover && self.failures < self.limits().attempts && (is_last || has_progressed) {
            let pause = pause(self.limits(), self.failures, failure.retry_after);
            tracing::debug!(error = %failure.refusal, failures = self.failures, ?pause, "download will be resumed");
            tokio::time::sleep(pause).await;
            return Ok(());
        }
        let failures = self.failures;
        self.lost.push(if failures > 1 { failure.context(format_args!("{failures} attempts")) } else { failure });
        if is_last {
            return combine(self.doing(), std::mem::take(&mut self.lost));
        }
        self.at += 1;
        self.failures = 0;
        self.has_gained = false;
        self.may_range = true;
        Ok(())
    }
}

/// How fast bytes come, counting only the time that is spent waiting for them: a slow reader is not a slow server.
#[derive(Default)]
struct Rate {
    bytes: u64,
    waited: Duration,
}

impl Rate {
    /// Adds a chunk; says whether a full window was too slow.
    fn add(&mut self, length: usize, waited: Duration, limits: &Limits) -> bool {
        self.bytes += length as u64;
        self.waited += waited;
        if self.waited < limits.rate_window {
            return false;
        }
        let is_slow = u128::from(self.bytes) * 1000 < u128::from(limits.rate_min_bytes_per_s) * self.waited.as_millis();
        *self = Self::default();
        is_slow
    }
}

/// Reads `bytes START-END/TOTAL`: the start, and the total if it is told.
fn content_range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(CONTENT_RANGE)?.to_str().ok()?.trim().strip_prefix("bytes ")?;
    let (range, total) = text.split_once('/')?;
    let start = range.split_once('-')?.0.trim().parse().ok()?;
    match total.trim() {
        "*" => Some((start, None)),
        total => Some((start, Some(total.parse().ok()?))),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn content_ranges_are_read() {
        let read = |text: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(CONTENT_RANGE, HeaderValue::from_static(text));
            content_range(&headers)
        };
        assert_eq!(read("bytes 5-9/10"), Some((5, Some(10))));
        assert_eq!(read("bytes 5-9/*"), Some((5, None)));
        for bad in ["", "bytes */10", "bytes 5/10", "5-9/10", "bytes 5-9", "bytes 5-9/x", "bytes -9/10"] {
            assert_eq!(read(bad), None, "{bad}");
        }
    }

    #[test]
    fn only_waiting_counts_against_the_rate() {
        let limits = Limits { rate_min_bytes_per_s: 100, rate_window: Duration::from_secs(10), ..Limits::default() };
        let second = Duration::from_secs(1);
        let mut rate = Rate::default();
        assert!((0..9).all(|_| !rate.add(1, second, &limits)));
        assert!(rate.add(1, second, &limits));
        // A new window.
        assert!(!rate.add(1, second, &limits));
        let mut rate = Rate::default();
        assert!((0..100).all(|_| !rate.add(101, second, &limits)));
        assert!((0..100).all(|_| !rate.add(0, Duration::ZERO, &limits)));
    }
}
