//! How texts are decoded: from where they lie, straight into what they become. serde's own way for a `String` has bincode
//! clear the room for it first, which takes longer than the rest of it, and an identifier would be made from a copy.
//!
//! For the fields of long lists: `#[serde(deserialize_with = "crate::text::string")]`.

use crate::{Labels, Refusal};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, Visitor},
};
use std::fmt;

/// Reads what a text is parsed into.
///
/// # Errors
/// The deserializer's own, and the parser's within one.
pub fn parse<'de, D: Deserializer<'de>, T>(
    deserializer: D,
    parse: impl FnOnce(&str) -> Result<T, Refusal>,
) -> Result<T, D::Error> {
    deserializer.deserialize_str(Text(parse))
}

/// Reads a text.
///
/// # Errors
/// The deserializer's own.
pub fn string<'de, D: Deserializer<'de>>(deserializer: D) -> Result<String, D::Error> {
    parse(deserializer, |text| Ok(text.to_owned()))
}

/// Reads labels.
///
/// # Errors
/// The deserializer's own.
pub fn labels<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Labels, D::Error> {
    deserializer.deserialize_map(Map)
}

struct Text<F>(F);

impl<T, F: FnOnce(&str) -> Result<T, Refusal>> Visitor<'_> for Text<F> {
    type Value = T;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("text")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<T, E> {
        self.0(text).map_err(E::custom)
    }
}

struct Map;

impl<'de> Visitor<'de> for Map {
    type Value = Labels;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("labels")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Labels, A::Error> {
        #[derive(Deserialize)]
        #[serde(transparent)]
        struct Owned(#[serde(deserialize_with = "string")] String);
        let mut labels = Labels::new();
        while let Some((Owned(key), Owned(value))) = map.next_entry()? {
            labels.insert(key, value);
        }
        Ok(labels)
    }
}

#[cfg(test)]
mod tests {
    use crate::{ContainerId, Labels, codec};
    use serde::{Deserialize, Serialize};

    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct Here {
        #[serde(deserialize_with = "super::string")]
        text: String,
        #[serde(deserialize_with = "super::labels")]
        labels: Labels,
        id: ContainerId,
    }

    #[derive(Serialize)]
    struct Plain {
        text: String,
        labels: Labels,
        id: String,
    }

    #[test]
    fn the_encoding_is_that_of_strings() {
        let (text, labels) = ("ä".repeat(200), Labels::from([("a".to_owned(), String::new())]));
        let plain = Plain { text: text.clone(), labels: labels.clone(), id: "c".to_owned() };
        let here = Here { text, labels, id: ContainerId::new("c").unwrap() };
        let bytes = codec::encode(&plain).unwrap();
        assert_eq!(codec::encode(&here).unwrap(), bytes);
        assert_eq!(codec::decode::<Here>(&bytes).unwrap(), here);
        let json = serde_json::to_string(&plain).unwrap();
        assert_eq!(serde_json::to_string(&here).unwrap(), json);
        assert_eq!(serde_json::from_str::<Here>(&json).unwrap(), here);
    }

    #[test]
    fn what_breaks_a_rule_says_which() {
        let bytes = codec::encode(&"-c").unwrap();
        assert!(codec::decode::<ContainerId>(&bytes).unwrap_err().detail.contains("must match"));
        // Not UTF-8.
        assert!(codec::decode::<ContainerId>(&[1, 0xff]).is_err());
    }
}
