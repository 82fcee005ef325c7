//! JSON for people: indented, in the order it came, with the spellings of Go's encoder.

use std::fmt::Write as _;
use wharf_messages::{Answer, Any, Refusal};

/// Lays JSON text out with one value a line; objects keep the order of their keys and numbers their digits.
///
/// # Errors
/// `InvalidArgument` if it is not JSON.
pub fn indent(text: &[u8], step: &str) -> Answer<String> {
    // The parser proves that the text is JSON, so that the layout below may look at single characters only.
    serde_json::from_slice::<serde::de::IgnoredAny>(text)
        .map_err(|error| Refusal::invalid(format!("not JSON: {error}")))?;
    let text = std::str::from_utf8(text).map_err(|error| Refusal::invalid(format!("not UTF-8: {error}")))?;
    let mut out = String::with_capacity(text.len() * 2);
    let mut depth = 0_usize;
    let newline = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n(step, depth));
    };
    let mut position = 0;
    let bytes = text.as_bytes();
    while position < bytes.len() {
        match bytes[position] {
            b'"' => {
                let end = string_end(bytes, position);
                push_string(&mut out, &text[position..end]);
                position = end;
                continue;
            }
            open @ (b'{' | b'[') => {
                out.push(char::from(open));
                let next = bytes[position + 1..].iter().position(|b| !b.is_ascii_whitespace());
                let next = next.map_or(bytes.len(), |n| position + 1 + n);
                if let Some(close @ (b'}' | b']')) = bytes.get(next) {
                    out.push(char::from(*close));
                    position = next + 1;
                    continue;
                }
                depth += 1;
                newline(&mut out, depth);
            }
            close @ (b'}' | b']') => {
                depth = depth.saturating_sub(1);
                newline(&mut out, depth);
                out.push(char::from(close));
            }
            b',' => {
                out.push(',');
                newline(&mut out, depth);
            }
            b':' => out.push_str(": "),
            space if space.is_ascii_whitespace() => {}
            other => out.push(char::from(other)),
        }
        position += 1;
    }
    Ok(out)
}

/// Where the string that starts at `start` ends, past its closing quote.
fn string_end(bytes: &[u8], start: usize) -> usize {
    let mut at = start + 1;
    while at < bytes.len() {
        match bytes[at] {
            b'\\' => at += 2,
            b'"' => return at + 1,
            _ => at += 1,
        }
    }
    bytes.len()
}

/// Go's encoder escapes what could end a script in HTML, and two line separators.
fn push_string(out: &mut String, quoted: &str) {
    for c in quoted.chars() {
        match c {
            '<' | '>' | '&' | '\u{2028}' | '\u{2029}' => {
                // Writing to a String does not fail.
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
}

/// A JSON string with Go's escapes.
#[must_use]
pub fn string(text: &str) -> String {
    let mut out = String::with_capacity(text.len() + 2);
    push_string(&mut out, &serde_json::Value::from(text).to_string());
    out
}

/// An object under construction, with its keys in the order they are added.
#[derive(Debug, Default)]
pub struct Object {
    text: String,
}

impl Object {
    /// An empty object.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Adds a value that is JSON already.
    #[must_use]
    pub fn raw(mut self, key: &str, json: &str) -> Self {
        if !self.text.is_empty() {
            self.text.push(',');
        }
        self.text.push_str(&string(key));
        self.text.push(':');
        self.text.push_str(json);
        self
    }

    /// Adds a string.
    #[must_use]
    pub fn string(self, key: &str, value: &str) -> Self {
        self.raw(key, &string(value))
    }

    /// Adds a string unless it is empty: protobuf's rule for JSON.
    #[must_use]
    pub fn string_if(self, key: &str, value: &str) -> Self {
        if value.is_empty() { self } else { self.string(key, value) }
    }

    /// Adds a number unless it is zero.
    #[must_use]
    pub fn number_if(self, key: &str, value: u64) -> Self {
        if value == 0 { self } else { self.raw(key, &value.to_string()) }
    }

    /// Adds `true`, or nothing.
    #[must_use]
    pub fn flag_if(self, key: &str, value: bool) -> Self {
        if value { self.raw(key, "true") } else { self }
    }

    /// Adds a value that is JSON already, if there is one.
    #[must_use]
    pub fn raw_if(self, key: &str, json: Option<String>) -> Self {
        match json {
            Some(json) => self.raw(key, &json),
            None => self,
        }
    }

    /// Adds a map of strings unless it is empty.
    #[must_use]
    pub fn map_if<'a>(self, key: &str, map: impl IntoIterator<Item = (&'a String, &'a String)>) -> Self {
        let map = map.into_iter().fold(Self::new(), |object, (key, value)| object.string(key, value));
        if map.text.is_empty() { self } else { self.raw(key, &map.finish()) }
    }

    /// The object's text.
    #[must_use]
    pub fn finish(self) -> String {
        format!("{{{}}}", self.text)
    }
}

/// An array of values that are JSON already.
#[must_use]
pub fn array<S: AsRef<str>>(values: impl IntoIterator<Item = S>) -> String {
    let mut out = "[".to_owned();
    for value in values {
        if out.len() > 1 {
            out.push(',');
        }
        out.push_str(value.as_ref());
    }
    out.push(']');
    out
}

/// A typed blob as protobuf's JSON of its envelope: the value in base64.
#[must_use]
pub fn any(any: &Any) -> String {
    Object::new().string_if("type_url", &any.type_url).string_if("value", &base64(&any.value)).finish()
}

/// Standard base64, padded.
///
/// # Spec
/// RFC 4648, section 4.
#[must_use]
pub fn base64(bytes: &[u8]) -> String {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut out = String::with_capacity(bytes.len().div_ceil(3) * 4);
    for group in bytes.chunks(3) {
        let padded = [group[0], group.get(1).copied().unwrap_or(0), group.get(2).copied().unwrap_or(0)];
        let bits = padded.iter().fold(0_u32, |bits, byte| bits << 8 | u32::from(*byte));
        for place in 0..4 {
            let letter = LETTERS[(bits >> (18 - 6 * place) & 63) as usize];
            out.push(if place > group.len() { '=' } else { char::from(letter) });
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn base64_has_its_padding() {
        for (bytes, text) in [("", ""), ("f", "Zg=="), ("fo", "Zm8="), ("foo", "Zm9v"), ("foobar", "Zm9vYmFy")] {
            assert_eq!(base64(bytes.as_bytes()), text);
        }
    }

    #[test]
    fn the_layout_keeps_order_numbers_and_strings() {
        let text = r#"{"b": 18446744073709551615, "a" :[ 1,{}, [ ] ,"x, \"y\": [z] <ö>"],"n":null}"#;
        let laid_out = concat!(
            "{\n  \"b\": 18446744073709551615,\n  \"a\": [\n    1,\n    {},\n    [],\n",
            "    \"x, \\\"y\\\": [z] \\u003cö\\u003e\"\n  ],\n  \"n\": null\n}",
        );
        assert_eq!(indent(text.as_bytes(), "  ").unwrap(), laid_out);
        assert!(indent(b"{\"a\":", "  ").is_err());
        assert_eq!(indent(b" {} ", "  ").unwrap(), "{}");
    }

    #[test]
    fn objects_leave_empty_values_out() {
        let object = Object::new().string("id", "a&b").string_if("none", "").number_if("zero", 0).number_if("pid", 7);
        assert_eq!(object.finish(), r#"{"id":"a\u0026b","pid":7}"#);
        assert_eq!(Object::new().finish(), "{}");
        assert_eq!(array(["1", "2"]), "[1,2]");
    }
}
