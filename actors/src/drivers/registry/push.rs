//! Content to a registry: what it has is not sent, what it can mount neither.
//!
//! # Spec
//! OCI distribution specification 1.1, "Push"; containerd `core/remotes/docker/pusher.go`.

use super::{
    BlobSource, Pushed,
    host::{Call, Host, Place},
    pool::HttpRegistry,
    resolve::place,
    retry::{Failure, combine, retry},
    transport::{Payload, origin, resolve_location},
};
use bytes::Bytes;
use reqwest::{
    Method, Response, StatusCode, Url,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue, LOCATION},
};
use std::sync::Arc;
use wharf_messages::{Answer, Descriptor, Refusal, RefusalKind, reference::Reference};

impl HttpRegistry {
    pub(super) async fn send_blob(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        mount_from: Option<&str>,
        source: BlobSource,
    ) -> Answer<Pushed> {
        let doing = || format!("push {} to {}", descriptor.digest, reference.locator());
        let host = self.push_host(reference).await.map_err(|e| e.context(doing()))?;
        let upload = Upload { registry: self, host: &host, reference, descriptor };
        retry(self.limits(), self.limits().attempts, || upload.blob(mount_from, &source))
            .await
            .or_else(|failure| combine(doing(), vec![failure]))
    }

    pub(super) async fn send_manifest(
        &self,
        reference: &Reference,
        descriptor: &Descriptor,
        bytes: Bytes,
    ) -> Answer<Pushed> {
        let doing = || format!("push manifest {} to {reference}", descriptor.digest);
        if bytes.len() as u64 != descriptor.size_bytes {
            return Err(Refusal::invalid(format!(
                "{}: {} bytes were given, the descriptor says {}",
                doing(),
                bytes.len(),
                descriptor.size_bytes
            )));
        }
        let host = self.push_host(reference).await.map_err(|e| e.context(doing()))?;
        let upload = Upload { registry: self, host: &host, reference, descriptor };
        retry(self.limits(), self.limits().attempts, || upload.manifest(&bytes))
            .await
            .or_else(|failure| combine(doing(), vec![failure]))
    }

    /// The one server that content is sent to.
    async fn push_host(&self, reference: &Reference) -> Answer<Arc<Host>> {
        let mut hosts = self.hosts(reference, |may| may.push).await?;
        if hosts.is_empty() {
            return Err(Refusal::failed_precondition(format!("no host of {} may be pushed to", reference.host)));
        }
        Ok(hosts.swap_remove(0))
    }
}

struct Upload<'a> {
    registry: &'a HttpRegistry,
    host: &'a Host,
    reference: &'a Reference,
    descriptor: &'a Descriptor,
}

impl Upload<'_> {
    async fn blob(&self, mount_from: Option<&str>, source: &BlobSource) -> Result<Pushed, Failure> {
        let digest = &self.descriptor.digest;
        let head = self.call(Method::HEAD, place(self.host, self.reference, &format!("blobs/{digest}")));
        if self.is_there(&head).await?.is_some() {
            return Ok(Pushed::Existed);
        }
        let started = match self.start(mount_from).await {
            // Registries differ in how they refuse a mount; a plain upload is always right.
            Err(failure) if mount_from.is_some() && !failure.refusal.is(RefusalKind::Unavailable) => {
                self.start(None).await?
            }
            outcome => outcome?,
        };
        if started.status() == StatusCode::CREATED {
            return Ok(Pushed::Mounted);
        }
        let mut location = self.location(&started)?;
        self.host.transport().drain(started).await;
        location.query_pairs_mut().append_pair("digest", digest.as_str());
        let mut put = self.call(Method::PUT, Place::Url(location));
        put.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        put.payload = Payload::Blob { source: source.clone(), size_bytes: self.descriptor.size_bytes };
        let response = self.host.ask(&put).await?;
        self.host.transport().drain(response).await;
        Ok(Pushed::Sent)
    }

    /// Opens an upload; the answer's status says whether it was a mount.
    async fn start(&self, mount_from: Option<&str>) -> Result<Response, Failure> {
        let mut at = place(self.host, self.reference, "blobs/uploads/");
        if let (Some(from), Place::Path { query, .. }) = (mount_from, &mut at) {
            query.push(("mount", self.descriptor.digest.to_string()));
            query.push(("from", from.to_owned()));
        }
        let mut post = self.call(Method::POST, at);
        post.scopes.extend(mount_from.map(|from| format!("repository:{from}:pull")));
        // An empty body: some servers want its length told.
        post.payload = Payload::Bytes(Bytes::new());
        self.host.ask(&post).await
    }

    fn location(&self, started: &Response) -> Answer<Url> {
        let base = started.url();
        let location = started.headers().get(LOCATION).ok_or_else(|| {
            Refusal::failed_precondition(format!("registry {}: opened an upload without a location", origin(base)))
        })?;
        let url = resolve_location(base, &String::from_utf8_lossy(location.as_bytes()))?;
        if base.scheme() == "https" && url.scheme() == "http" {
            return Err(Refusal::failed_precondition(format!(
                "registry {}: wants the upload sent to insecure {}",
                origin(base),
                origin(&url)
            )));
        }
        Ok(url)
    }

    async fn manifest(&self, bytes: &Bytes) -> Result<Pushed, Failure> {
        let digest = &self.descriptor.digest;
        let object = self.reference.tag.as_deref().unwrap_or(digest.as_str());
        let at = place(self.host, self.reference, &format!("manifests/{object}"));
        let media_type = HeaderValue::try_from(&self.descriptor.media_type)
            .map_err(|_| Refusal::invalid(format!("media type {:?}", self.descriptor.media_type)))?;
        let mut head = self.call(Method::HEAD, at.clone());
        head.headers.insert(ACCEPT, media_type.clone());
        let named = |headers: &HeaderMap| headers.get("docker-content-digest").map(|v| v.as_bytes().to_vec());
        if let Some(there) = self.is_there(&head).await?
            && named(there.headers()).as_deref() == Some(digest.as_str().as_bytes())
        {
            return Ok(Pushed::Existed);
        }
        let mut put = self.call(Method::PUT, at);
        put.headers.insert(CONTENT_TYPE, media_type);
        put.payload = Payload::Bytes(bytes.clone());
        let response = self.host.ask(&put).await?;
        if let Some(named) = named(response.headers()).filter(|named| named != digest.as_str().as_bytes()) {
            return Err(Refusal::failed_precondition(format!(
                "registry {}: stored the manifest as {:?} instead",
                self.host.config().authority,
                String::from_utf8_lossy(&named)
            ))
            .into());
        }
        self.host.transport().drain(response).await;
        Ok(Pushed::Sent)
    }

    async fn is_there(&self, head: &Call) -> Result<Option<Response>, Failure> {
        match self.host.ask(head).await {
            Ok(response) => Ok(Some(response)),
            Err(failure) if failure.refusal.is(RefusalKind::NotFound) => Ok(None),
            Err(failure) => Err(failure),
        }
    }

    fn call(&self, method: Method, place: Place) -> Call {
        Call {
            method,
            place,
            headers: HeaderMap::new(),
            scopes: vec![format!("repository:{}:pull,push", self.reference.repository)],
            payload: Payload::None,
            is_verified: false,
            is_dumped: self.registry.is_dumped,
        }
    }
}
