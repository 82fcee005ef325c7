//! Values on their way between the wire and the vocabulary.

use crate::containerd::types as wire;
use wharf_messages::{
    Answer, Any, Descriptor, Digest, Mount, Platform, Refusal, Timestamp, descriptor::media_type::OCI_LAYER,
};

/// A time; none stands for one that is not set.
pub fn time(at: Timestamp) -> Option<prost_types::Timestamp> {
    (at != Timestamp::ZERO).then(|| prost_types::Timestamp { seconds: at.seconds(), nanos: at.nanos() })
}

/// A length. Files end before `i64` does.
pub fn size(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// A length from outside.
///
/// # Errors
/// `InvalidArgument` for a negative one; `what` names it.
pub fn size_in(what: &str, bytes: i64) -> Answer<u64> {
    u64::try_from(bytes).map_err(|_| Refusal::invalid(format!("{what} {bytes} is negative")))
}

/// An identifier that may be left out.
///
/// # Errors
/// As its own rules say.
pub fn optional<'a, T>(text: &'a str, parse: impl FnOnce(&'a str) -> Answer<T>) -> Answer<Option<T>> {
    if text.is_empty() { Ok(None) } else { parse(text).map(Some) }
}

/// What must be in a request; `what` names it.
///
/// # Errors
/// `InvalidArgument` if it is not there.
pub fn required<T>(what: &str, value: Option<T>) -> Answer<T> {
    value.ok_or_else(|| Refusal::invalid(format!("{what} is required")))
}

/// The paths of a field mask.
pub fn paths(mask: Option<prost_types::FieldMask>) -> Vec<String> {
    mask.unwrap_or_default().paths
}

/// A value that only the two ends understand.
pub fn any(value: Any) -> crate::Any {
    crate::Any { type_url: value.type_url, value: value.value }
}

/// Likewise, from outside.
pub fn any_in(value: crate::Any) -> Any {
    Any { type_url: value.type_url, value: value.value }
}

/// A descriptor. The wire's has no platform.
pub fn descriptor(descriptor: Descriptor) -> wire::Descriptor {
    let Descriptor { media_type, digest, size_bytes, annotations, platform: _ } = descriptor;
    wire::Descriptor { media_type, digest: digest.into(), size: size(size_bytes), annotations }
}

/// A descriptor from outside; `what` names it.
///
/// # Errors
/// `InvalidArgument` for one that is missing, or has a bad digest or size.
pub fn descriptor_in(what: &str, descriptor: Option<wire::Descriptor>) -> Answer<Descriptor> {
    let wire::Descriptor { media_type, digest, size, annotations } = required(what, descriptor)?;
    let digest = Digest::new(digest).map_err(|refusal| refusal.context(what))?;
    let size_bytes = size_in(&format!("{what}: size"), size)?;
    Ok(Descriptor { annotations, ..Descriptor::new(media_type, digest, size_bytes) })
}

/// What an applied layer is: a plain tar under its diff id.
pub fn applied(diff_id: Digest, size_bytes: u64) -> wire::Descriptor {
    descriptor(Descriptor::new(OCI_LAYER, diff_id, size_bytes))
}

/// Mounts.
pub fn mounts(mounts: Vec<Mount>) -> Vec<wire::Mount> {
    let mount = |Mount { kind, source, target, options }| wire::Mount { r#type: kind, source, target, options };
    mounts.into_iter().map(mount).collect()
}

/// Mounts from outside.
pub fn mounts_in(mounts: Vec<wire::Mount>) -> Vec<Mount> {
    let mount = |wire::Mount { r#type: kind, source, target, options }| Mount { kind, source, target, options };
    mounts.into_iter().map(mount).collect()
}

/// A platform.
pub fn platform(platform: Platform) -> wire::Platform {
    let Platform { os, architecture, variant, os_version } = platform;
    wire::Platform { os, architecture, variant, os_version, os_features: Vec::new() }
}
