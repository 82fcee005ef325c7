//! What a registry's `WWW-Authenticate` asks for.

use reqwest::header::{HeaderMap, WWW_AUTHENTICATE};

/// The ways to authorise that are known, in the order of preference.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Challenge {
    /// Get a token there.
    Bearer {
        /// The token server's URL.
        realm: String,
        /// Which service the token is for.
        service: Option<String>,
        /// What the token must allow.
        scope: Option<String>,
    },
    /// Say user and password.
    Basic,
}

impl Challenge {
    /// The best of the challenges of a response: Bearer before Basic, as containerd chooses.
    pub(super) fn from_headers(headers: &HeaderMap) -> Option<Self> {
        let challenges = headers.get_all(WWW_AUTHENTICATE).iter().filter_map(|v| v.to_str().ok()).flat_map(parse);
        let mut basic = None;
        for Parsed { scheme, parameters } in challenges {
            let parameter = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, v)| v.clone());
            match scheme.as_str() {
                "bearer" => {
                    if let Some(realm) = parameter("realm") {
                        return Some(Self::Bearer { realm, service: parameter("service"), scope: parameter("scope") });
                    }
                }
                "basic" => basic = Some(Self::Basic),
                _ => {}
            }
        }
        basic
    }
}

/// Reads a `WWW-Authenticate` header; answers whether it asks for something that is known.
#[must_use]
pub fn check_challenge(header: &[u8]) -> bool {
    let value = reqwest::header::HeaderValue::from_bytes(header);
    value.is_ok_and(|value| Challenge::from_headers(&HeaderMap::from_iter([(WWW_AUTHENTICATE, value)])).is_some())
}

struct Parsed {
    scheme: String,
    parameters: Vec<(String, String)>,
}

/// Splits `Scheme k=v, k="v, w", Scheme2 ...`. A word that no `=` follows starts a new challenge; what makes no sense
/// is skipped, for a challenge that is not understood is the same as none.
///
/// # Spec
/// RFC 9110, 11.6.1.
fn parse(header: &str) -> Vec<Parsed> {
    let mut found: Vec<Parsed> = Vec::new();
    let mut rest = header;
    loop {
        rest = rest.trim_start_matches([' ', '\t', ',']);
        let word_len = rest.find(|c: char| c.is_whitespace() || matches!(c, ',' | '=' | '"')).unwrap_or(rest.len());
        let (word, after) = rest.split_at(word_len);
        let tail = after.trim_start();
        if word.is_empty() {
            // A stray quote or equals sign: step over it.
            match after.chars().next() {
                Some(c) => rest = &after[c.len_utf8()..],
                None => return found,
            }
            continue;
        }
        let Some(value) = tail.strip_prefix('=') else {
            found.push(Parsed { scheme: word.to_ascii_lowercase(), parameters: Vec::new() });
            rest = after;
            continue;
        };
        let (value, after) = parse_value(value.trim_start());
        if let Some(challenge) = found.last_mut() {
            challenge.parameters.push((word.to_ascii_lowercase(), value));
        }
        rest = after;
    }
}

/// Reads a token or a quoted string with its escapes; returns what follows it.
fn parse_value(text: &str) -> (String, &str) {
    let Some(quoted) = text.strip_prefix('"') else {
        let end = text.find(|c: char| c.is_whitespace() || c == ',').unwrap_or(text.len());
        return (text[..end].to_owned(), &text[end..]);
    };
    let mut value = String::new();
    let mut chars = quoted.char_indices();
    while let Some((at, c)) = chars.next() {
        match c {
            '"' => return (value, &quoted[at + 1..]),
            '\\' => value.extend(chars.next().map(|(_, escaped)| escaped)),
            c => value.push(c),
        }
    }
    (value, "")
}

#[cfg(test)]
mod tests {
    use super::*;
    use reqwest::header::HeaderValue;

    fn challenge(values: &[&'static str]) -> Option<Challenge> {
        let mut headers = HeaderMap::new();
        for value in values {
            headers.append(WWW_AUTHENTICATE, HeaderValue::from_static(value));
        }
        Challenge::from_headers(&headers)
    }

    fn bearer(realm: &str, service: Option<&str>, scope: Option<&str>) -> Option<Challenge> {
        Some(Challenge::Bearer { realm: realm.into(), service: service.map(Into::into), scope: scope.map(Into::into) })
    }

    #[test]
    fn bearer_is_read_in_all_its_spellings() {
        let docker =
            bearer("https://auth.docker.io/token", Some("registry.docker.io"), Some("repository:a/b:pull,push"));
        for spelt in [
            r#"Bearer realm="https://auth.docker.io/token",service="registry.docker.io",scope="repository:a/b:pull,push""#,
            r#"bearer  REALM = "https://auth.docker.io/token" , service=registry.docker.io,scope="repository:a/b:pull,push",error="invalid_token""#,
            r#"Basic realm="x", Bearer realm="https://auth.docker.io/token", service="registry.docker.io", scope="repository:a/b:pull,push""#,
        ] {
            assert_eq!(challenge(&[spelt]), docker, "{spelt}");
        }
        assert_eq!(challenge(&[r#"Bearer realm="a\"b""#]), bearer("a\"b", None, None));
    }

    #[test]
    fn bearer_wins_over_basic_in_any_order() {
        let both = bearer("r", None, None);
        assert_eq!(challenge(&["Basic realm=\"x\"", "Bearer realm=r"]), both);
        assert_eq!(challenge(&["Bearer realm=r", "Basic realm=\"x\""]), both);
        assert_eq!(challenge(&["Basic realm=\"x\""]), Some(Challenge::Basic));
        assert_eq!(challenge(&["basic"]), Some(Challenge::Basic));
    }

    #[test]
    fn nonsense_is_no_challenge() {
        for nonsense in [
            "",
            ",,,",
            "=",
            "\"",
            "Bearer",
            "Bearer realm",
            "Negotiate abc==",
            "Bearer service=\"x",
            "Digest realm=\"x\"",
        ] {
            assert_eq!(challenge(&[nonsense]), None, "{nonsense}");
        }
    }
}
