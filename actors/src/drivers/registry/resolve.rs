//! Tags to descriptors, and manifests: the small, whole, verified reads.

use super::{
    MANIFEST_MAX_BYTES,
    host::{Call, Host, Place},
    pool::HttpRegistry,
    retry::{Failure, Fault, combine, is_transient, retry},
    transport::{Payload, content_length},
};
use bytes::Bytes;
use reqwest::{
    Method, StatusCode,
    header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Deserialize;
use sha2::Digest as _;
use wharf_messages::{
    Answer, Descriptor, Digest, Refusal, RefusalKind, descriptor::media_type, id::DigestAlgorithm, reference::Reference,
};

/// What is understood, newest first; the wildcard lets a registry say what it has instead of 404.
const ACCEPT_MANIFESTS: &str = "application/vnd.oci.image.index.v1+json, application/vnd.oci.image.manifest.v1+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, application/vnd.docker.distribution.manifest.v2+json, */*";

impl HttpRegistry {
    pub(super) async fn resolve_anywhere(&self, reference: &Reference) -> Answer<Descriptor> {
        let doing = || format!("resolve {reference}");
        let object = match (&reference.digest, &reference.tag) {
            (Some(digest), _) => digest.as_str(),
            (None, Some(tag)) => tag,
            (None, None) => return Err(Refusal::invalid(format!("{}: a tag or a digest is required", doing()))),
        };
        // What a digest names can be checked, so any server that has bytes will do.
        let is_pinned = reference.digest.is_some();
        let hosts = self.hosts(reference, if is_pinned { |may| may.pull } else { |may| may.resolve }).await?;
        let mut failures = Vec::new();
        for (at, host) in hosts.iter().enumerate() {
            let attempts = if at + 1 == hosts.len() { self.limits().attempts } else { 1 };
            let failure = match retry(self.limits(), attempts, || self.resolve_manifest(host, reference, object)).await
            {
                Ok(descriptor) => return Ok(descriptor),
                Err(failure) => failure,
            };
            // A digest may name a blob that is no manifest. Asked last, for a registry has its manifests as blobs too
            // and does not know their type there; asked after any refusal, for some answer 500 to such a manifest.
            if let Some(digest) = &reference.digest
                && failure.fault != Fault::Connect
                && let Ok(descriptor) = self.resolve_blob(host, reference, digest).await
            {
                return Ok(descriptor);
            }
            failures.push(failure);
        }
        combine(doing(), failures)
    }

    async fn resolve_manifest(&self, host: &Host, reference: &Reference, object: &str) -> Result<Descriptor, Failure> {
        let mut call = self.read_call(host, reference, &format!("manifests/{object}"), ACCEPT_MANIFESTS);
        call.is_verified = reference.digest.is_some();
        call.method = Method::HEAD;
        let response = host.send(&call).await?.response;
        let status = response.status();
        if status.is_success() {
            let headers = response.headers();
            if let (Some(media_type), Some(digest), Some(size_bytes)) = (
                manifest_type(headers)?,
                content_digest(headers)?.or(reference.digest.clone()),
                content_length(headers),
            ) && size_bytes > 0
            {
                check_pin(reference, &digest)?;
                return Ok(Descriptor::new(media_type, digest, size_bytes));
            }
        } else if status == StatusCode::NOT_FOUND || is_transient(status) {
            host.judge(response).await?;
        }
        // Either the headers do not say everything, or HEAD is not to be had, or the error's text is in the body.
        call.method = Method::GET;
        let response = host.ask(&call).await?;
        let (typed, named) = (manifest_type(response.headers())?, content_digest(response.headers())?);
        let body = host.transport().read(response, MANIFEST_MAX_BYTES).await?;
        let algorithm = named.as_ref().or(reference.digest.as_ref()).map_or(DigestAlgorithm::Sha256, Digest::algorithm);
        let digest = hash(algorithm, &body)?;
        if let Some(named) = named.filter(|named| *named != digest) {
            return Err(Refusal::failed_precondition(format!(
                "registry {}: calls the manifest {named}, but its digest is {digest}",
                host.config().authority
            ))
            .into());
        }
        check_pin(reference, &digest)?;
        let media_type = match typed {
            Some(media_type) => media_type,
            None => sniff(&body).map_err(|e| e.context(format!("registry {}", host.config().authority)))?,
        };
        Ok(Descriptor::new(media_type, digest, body.len() as u64))
    }

    async fn resolve_blob(&self, host: &Host, reference: &Reference, digest: &Digest) -> Result<Descriptor, Failure> {
        let mut call = self.read_call(host, reference, &format!("blobs/{digest}"), "*/*");
        call.method = Method::HEAD;
        let response = host.ask(&call).await?;
        let size_bytes = content_length(response.headers()).ok_or_else(|| {
            Refusal::not_found(format!("registry {}: does not tell the blob's size", host.config().authority))
        })?;
        Ok(Descriptor::new("application/octet-stream", digest.clone(), size_bytes))
    }

    pub(super) async fn manifest_anywhere(&self, reference: &Reference, descriptor: &Descriptor) -> Answer<Bytes> {
        let doing = || format!("fetch manifest {} of {}", descriptor.digest, reference.locator());
        if descriptor.size_bytes > MANIFEST_MAX_BYTES {
            return Err(Refusal::resource_exhausted(format!(
                "{}: {} bytes long, the limit is {MANIFEST_MAX_BYTES}",
                doing(),
                descriptor.size_bytes
            )));
        }
        let hosts = self.hosts(reference, |may| may.pull).await?;
        let mut failures = Vec::new();
        for (at, host) in hosts.iter().enumerate() {
            let attempts = if at + 1 == hosts.len() { self.limits().attempts } else { 1 };
            match retry(self.limits(), attempts, || self.manifest_at(host, reference, descriptor)).await {
                Ok(bytes) => return Ok(bytes),
                Err(failure) => failures.push(failure),
            }
        }
        combine(doing(), failures)
    }

    async fn manifest_at(&self, host: &Host, reference: &Reference, descriptor: &Descriptor) -> Result<Bytes, Failure> {
        let accept = format!("{}, */*", descriptor.media_type);
        let get = async |kind: &str| {
            let mut call = self.read_call(host, reference, &format!("{kind}/{}", descriptor.digest), &accept);
            call.is_verified = true;
            let response = host.ask(&call).await?;
            host.transport().read(response, MANIFEST_MAX_BYTES).await
        };
        let bytes = match get("manifests").await {
            Err(failure) if failure.refusal.is(RefusalKind::NotFound) => get("blobs").await.map_err(|_| failure)?,
            outcome => outcome?,
        };
        let authority = &host.config().authority;
        if bytes.len() as u64 != descriptor.size_bytes {
            return Err(Refusal::failed_precondition(format!(
                "registry {authority}: sent {} bytes, the descriptor says {}",
                bytes.len(),
                descriptor.size_bytes
            ))
            .into());
        }
        let digest = hash(descriptor.digest.algorithm(), &bytes)?;
        if digest != descriptor.digest {
            return Err(Refusal::failed_precondition(format!(
                "registry {authority}: sent content with the digest {digest} instead"
            ))
            .into());
        }
        Ok(bytes)
    }

    /// A GET below the reference's repository.
    pub(super) fn read_call(&self, host: &Host, reference: &Reference, what: &str, accept: &str) -> Call {
        let mut headers = HeaderMap::new();
        // Built of the types of descriptors, which come from outside: an odd one asks for anything.
        let accept = HeaderValue::try_from(accept).unwrap_or(HeaderValue::from_static("*/*"));
        headers.insert(ACCEPT, accept);
        Call {
            method: Method::GET,
            place: place(host, reference, what),
            headers,
            scopes: vec![format!("repository:{}:pull", reference.repository)],
            payload: Payload::None,
            is_verified: false,
            is_dumped: self.is_dumped,
        }
    }
}

/// A path below the reference's repository; a mirror is told whose repository it is.
pub(super) fn place(host: &Host, reference: &Reference, what: &str) -> Place {
    let query = host.config().is_mirror_of(&reference.host).then(|| ("ns", reference.host.clone()));
    Place::Path { path: format!("/{}/{what}", reference.repository), query: query.into_iter().collect() }
}

/// The digest of bytes.
pub(super) fn hash(algorithm: DigestAlgorithm, bytes: &[u8]) -> Answer<Digest> {
    match algorithm {
        DigestAlgorithm::Sha256 => Ok(Digest::from_sha256(&sha2::Sha256::digest(bytes).into())),
        DigestAlgorithm::Sha512 => {
            let hex =
                sha2::Sha512::digest(bytes).iter().fold(String::with_capacity(128), |hex, b| format!("{hex}{b:02x}"));
            Digest::new(format!("sha512:{hex}"))
        }
    }
}

fn check_pin(reference: &Reference, found: &Digest) -> Answer<()> {
    match &reference.digest {
        Some(pinned) if pinned != found => {
            Err(Refusal::failed_precondition(format!("the registry answered {found} where {pinned} was asked for")))
        }
        _ => Ok(()),
    }
}

fn content_digest(headers: &HeaderMap) -> Answer<Option<Digest>> {
    match headers.get("docker-content-digest") {
        None => Ok(None),
        Some(value) => Digest::new(String::from_utf8_lossy(value.as_bytes()).trim())
            .map(Some)
            .map_err(|e| Refusal { kind: RefusalKind::FailedPrecondition, ..e.context("docker-content-digest") }),
    }
}

/// The type of a manifest as the headers say; `None` if they say something vague.
fn manifest_type(headers: &HeaderMap) -> Answer<Option<String>> {
    let Some(value) = headers.get(CONTENT_TYPE) else { return Ok(None) };
    let value = String::from_utf8_lossy(value.as_bytes());
    let essence = value.split(';').next().unwrap_or("").trim().to_ascii_lowercase();
    if essence.starts_with("application/vnd.docker.distribution.manifest.v1") {
        return Err(schema1());
    }
    let is_known = media_type::is_manifest(&essence) || media_type::is_index(&essence);
    Ok(is_known.then_some(essence))
}

fn schema1() -> Refusal {
    Refusal::not_implemented("the image is in docker's schema 1, which is obsolete (push it again with a current tool)")
}

/// The type of a manifest that the headers do not tell: its own word, or what it looks like.
fn sniff(body: &[u8]) -> Answer<String> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Shape {
        media_type: Option<String>,
        schema_version: Option<u32>,
        manifests: Option<serde::de::IgnoredAny>,
        config: Option<serde::de::IgnoredAny>,
    }
    let shape: Shape = serde_json::from_slice(body)
        .map_err(|e| Refusal::failed_precondition(format!("what it calls a manifest is none: {e}")))?;
    match shape {
        Shape { schema_version: Some(1), .. } => Err(schema1()),
        Shape { media_type: Some(own), .. } if media_type::is_manifest(&own) || media_type::is_index(&own) => Ok(own),
        Shape { manifests: Some(_), config: None, .. } => Ok(media_type::OCI_INDEX.to_owned()),
        Shape { manifests: None, config: Some(_), .. } => Ok(media_type::OCI_MANIFEST.to_owned()),
        _ => Err(Refusal::failed_precondition("what it calls a manifest is neither a manifest nor an index")),
    }
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn a_manifest_without_a_type_is_known_by_its_shape() {
        for (body, expected) in [
            (
                r#"{"schemaVersion":2,"mediaType":"application/vnd.docker.distribution.manifest.v2+json","config":{}}"#,
                media_type::DOCKER_MANIFEST,
            ),
            (r#"{"schemaVersion":2,"config":{},"layers":[]}"#, media_type::OCI_MANIFEST),
            (r#"{"schemaVersion":2,"manifests":[]}"#, media_type::OCI_INDEX),
        ] {
            assert_eq!(sniff(body.as_bytes()).unwrap(), expected);
        }
        for bad in ["", "[]", "{}", "{\"schemaVersion\":2,\"manifests\":[],\"config\":{}}", "{\"schemaVersion\":1}"] {
            assert!(sniff(bad.as_bytes()).is_err(), "{bad}");
        }
    }

    #[test]
    fn hashes_have_their_names() {
        let of_nothing = hash(DigestAlgorithm::Sha256, b"").unwrap();
        assert_eq!(of_nothing.hex(), "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
        assert!(hash(DigestAlgorithm::Sha512, b"").unwrap().hex().starts_with("cf83e1357eefb8bd"));
    }
}
