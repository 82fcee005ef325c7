//! Labels: their limits, and how a field mask changes them.

use crate::{Labels, Refusal};

/// The most bytes that a label's key and value may have together.
///
/// # Spec
/// containerd `labels.Validate` (1.6).
pub const LABEL_MAX_BYTES: usize = 4096;

/// On a compressed layer: the digest of what it is uncompressed.
pub const UNCOMPRESSED: &str = "containerd.io/uncompressed";

/// How much of a key that is too long is shown.
const SHOWN_KEY_MAX_BYTES: usize = 64;

/// Checks every label's key and size; `what` names the field, as containerd's texts do (`image.Labels`).
///
/// # Errors
/// `InvalidArgument` that names the first label beyond [`LABEL_MAX_BYTES`]; `Unknown`, as by containerd, for a value
/// without a key.
pub fn validate(what: &str, labels: &Labels) -> Result<(), Refusal> {
    for (key, value) in labels {
        let size = key.len() + value.len();
        if size > LABEL_MAX_BYTES {
            let mut end = key.len().min(SHOWN_KEY_MAX_BYTES);
            while !key.is_char_boundary(end) {
                end -= 1;
            }
            return Err(Refusal::invalid(format!(
                "{what}: label key and value length ({size} bytes) greater than maximum size ({LABEL_MAX_BYTES} bytes), key: {}",
                &key[..end]
            )));
        }
        // With an empty value it is no label at all.
        if key.is_empty() && !value.is_empty() {
            return Err(Refusal::unknown(format!("failed to set label {key:?}={value:?}: key required")));
        }
    }
    Ok(())
}

/// One path of a mask, as far as it is about labels.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LabelPath<'a> {
    /// All of them.
    All,
    /// This one.
    One(&'a str),
    /// Something else.
    Other,
}

/// Reads a mask's path: `FIELD` or `FIELD.KEY`, where `field` is `labels`, `annotations` and the like.
#[must_use]
pub fn path<'a>(field: &str, path: &'a str) -> LabelPath<'a> {
    match path.strip_prefix(field) {
        Some("") => LabelPath::All,
        Some(rest) => rest.strip_prefix('.').map_or(LabelPath::Other, LabelPath::One),
        None => LabelPath::Other,
    }
}

/// Sets one label, or deletes it if `update` has no value or an empty one for it.
pub fn set_one(labels: &mut Labels, update: &Labels, key: &str) {
    match update.get(key) {
        Some(value) if !value.is_empty() => labels.insert(key.to_owned(), value.clone()),
        _ => labels.remove(key),
    };
}

/// Replaces all labels; those with an empty value are left out.
pub fn set_all(labels: &mut Labels, update: &Labels) {
    *labels = update.clone();
    drop_empty(labels);
}

/// Leaves out labels with an empty value: for containerd, and so for us, they are not there.
pub fn drop_empty(labels: &mut Labels) {
    labels.retain(|_, value| !value.is_empty());
}

/// Applies an update of labels alone: paths `labels` and `labels.KEY`; an empty mask replaces all. `what` names the object,
/// as in `snapshot "x"`.
///
/// # Errors
/// `InvalidArgument` for any other path; then `labels` may be changed in part and must be thrown away.
pub fn apply(
    labels: &mut Labels,
    update: &Labels,
    mask: &[String],
    what: impl std::fmt::Display,
) -> Result<(), Refusal> {
    if mask.is_empty() {
        set_all(labels, update);
    }
    for field in mask {
        match path("labels", field) {
            LabelPath::All => set_all(labels, update),
            LabelPath::One(key) => set_one(labels, update, key),
            LabelPath::Other => return Err(Refusal::invalid(format!("cannot update {field:?} field on {what}"))),
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn labels(pairs: &[(&str, &str)]) -> Labels {
        pairs.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect()
    }

    fn applied(update: &[(&str, &str)], mask: &[&str]) -> Result<Labels, Refusal> {
        let mut now = labels(&[("a", "1"), ("b.c", "2")]);
        let mask: Vec<String> = mask.iter().map(|m| (*m).to_owned()).collect();
        apply(&mut now, &labels(update), &mask, "snapshot \"x\"").map(|()| now)
    }

    #[test]
    fn a_mask_changes_what_it_names() {
        for (update, mask, want) in [
            (&[("n", "9")][..], &[][..], &[("n", "9")][..]),
            (&[("n", "9")], &["labels"], &[("n", "9")]),
            (&[("n", "9"), ("m", "8")], &["labels.n"], &[("a", "1"), ("b.c", "2"), ("n", "9")]),
            (&[("b.c", "3")], &["labels.b.c"], &[("a", "1"), ("b.c", "3")]),
            (&[("a", "")], &["labels.a"], &[("b.c", "2")]),
            (&[], &["labels.a"], &[("b.c", "2")]),
            (&[("e", ""), ("f", "1")], &[], &[("f", "1")]),
            (&[], &[], &[]),
        ] {
            assert_eq!(applied(update, mask).unwrap(), labels(want), "{update:?} {mask:?}");
        }
        for path in ["size", "label", "labelsx", ""] {
            let refusal = applied(&[], &[path]).unwrap_err();
            assert_eq!(
                refusal.to_string(),
                format!("cannot update {path:?} field on snapshot \"x\": invalid argument"),
                "{path}"
            );
        }
    }

    #[test]
    fn a_value_has_a_key() {
        let refusal = validate("image.Labels", &labels(&[("", "v")])).unwrap_err();
        assert_eq!(refusal.to_string(), "failed to set label \"\"=\"v\": key required");
        validate("image.Labels", &labels(&[("", ""), ("k", "")])).unwrap();
    }

    #[test]
    fn sizes_are_limited() {
        let fits = labels(&[("k", &"v".repeat(LABEL_MAX_BYTES - 1))]);
        validate("image.Labels", &fits).unwrap();
        let too_long = labels(&[(&"é".repeat(LABEL_MAX_BYTES / 2), "v")]);
        let refusal = validate("image.Labels", &too_long).unwrap_err();
        assert_eq!(
            refusal.detail,
            format!(
                "image.Labels: label key and value length (4097 bytes) greater than maximum size (4096 bytes), key: {}",
                "é".repeat(32)
            )
        );
    }
}
