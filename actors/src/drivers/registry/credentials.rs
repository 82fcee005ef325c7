//! Credentials from Docker's `config.json` and its credential helpers.
//!
//! # Spec
//! docker/cli `config/configfile`; docker/docker-credential-helpers, "Development".

use base64::{Engine, engine::general_purpose::STANDARD};
use serde::Deserialize;
use std::{collections::BTreeMap, ffi::OsString, fmt, io, path::PathBuf, process::Stdio, sync::Arc, time::Duration};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use wharf_messages::{Answer, Refusal, image::RegistryOptions};

/// The largest config.json.
const CONFIG_MAX_BYTES: u64 = 1 << 20;
/// The longest answer of a helper.
const HELPER_MAX_BYTES: u64 = 64 << 10;
/// A helper may ask a keychain or a cloud; longer than this it hangs.
const HELPER_TIMEOUT: Duration = Duration::from_secs(15);
/// The key of Docker Hub, for historical reasons.
const HUB_KEY: &str = "https://index.docker.io/v1/";

/// Who the client is to a registry.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) enum Credentials {
    /// A user and a password (or an access token used like one).
    Password {
        /// The user.
        username: String,
        /// The password.
        password: Secret,
    },
    /// An OAuth refresh token, traded for access tokens at the registry's token server.
    IdentityToken(Secret),
    /// A bearer token that the registry takes as it is.
    RegistryToken(Secret),
}

impl Credentials {
    /// What a request gives: a name and a password, or a refresh token in the place of the name.
    pub(super) fn from_options(options: &RegistryOptions) -> Option<Self> {
        let (username, password) = options.user.as_ref()?;
        Some(if password.is_empty() {
            Self::IdentityToken(Secret::new(username.as_str()))
        } else {
            Self::Password { username: username.clone(), password: Secret::new(password.as_str()) }
        })
    }
}

/// A text that no log shows.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct Secret(Arc<str>);

impl Secret {
    /// Wraps it.
    pub(super) fn new(text: impl Into<Arc<str>>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub(super) fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(..)")
    }
}

/// Where credentials are looked up, anew each time: people log in while the daemon runs.
#[derive(Debug, Default)]
pub(super) struct DockerCredentials {
    pub(super) config: Option<PathBuf>,
    pub(super) helper_dirs: Vec<PathBuf>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ConfigFile {
    auths: BTreeMap<String, AuthEntry>,
    creds_store: Option<String>,
    cred_helpers: BTreeMap<String, String>,
}

#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "lowercase", default)]
struct AuthEntry {
    auth: Option<String>,
    username: Option<String>,
    password: Option<String>,
    identitytoken: Option<String>,
    registrytoken: Option<String>,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct HelperAnswer {
    username: String,
    secret: String,
}

impl ConfigFile {
    /// The credentials that the file itself has under one of the names.
    fn kept(self, names: &[&str]) -> Result<Option<Credentials>, String> {
        match self.auths.into_iter().find(|(key, _)| names.contains(&host_of(key))) {
            Some((key, entry)) => entry.credentials().map_err(|why| format!("entry {key:?}: {why}")),
            None => Ok(None),
        }
    }
}

/// Reads a `config.json`; answers whether it has credentials for a registry itself. Asks no helper.
///
/// # Errors
/// `FailedPrecondition` for a file that cannot be understood.
pub fn check_docker_config(text: &[u8], authority: &str) -> Answer<bool> {
    let bad = |why: String| Refusal::failed_precondition(format!("credentials file: {why}"));
    let config: ConfigFile = serde_json::from_slice(text).map_err(|e| bad(e.to_string()))?;
    Ok(config.kept(&names(authority)).map_err(bad)?.is_some())
}

impl DockerCredentials {
    /// The credentials for a registry's host and port; `None` if nobody knows any.
    ///
    /// # Errors
    /// `FailedPrecondition` for a file that cannot be understood or a helper that fails: going on without
    /// credentials would end in a puzzling refusal by the registry.
    pub(super) async fn find(&self, authority: &str) -> Answer<Option<Credentials>> {
        let Some(path) = &self.config else { return Ok(None) };
        let bad = |why: String| Refusal::failed_precondition(format!("credentials file {}: {why}", path.display()));
        let mut text = Vec::new();
        match tokio::fs::File::open(path).await {
            Ok(file) => {
                file.take(CONFIG_MAX_BYTES + 1).read_to_end(&mut text).await.map_err(|e| bad(e.to_string()))?;
            }
            Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => return Ok(None),
            Err(e) => return Err(bad(e.to_string())),
        }
        if text.len() as u64 > CONFIG_MAX_BYTES {
            return Err(bad(format!("larger than {CONFIG_MAX_BYTES} bytes")));
        }
        let config: ConfigFile = serde_json::from_slice(&text).map_err(|e| bad(e.to_string()))?;

        let names = names(authority);
        let helper =
            config.cred_helpers.iter().find(|(key, _)| names.contains(&host_of(key))).map(|(_, helper)| helper);
        if let Some(helper) = helper.or(config.creds_store.as_ref()).filter(|helper| !helper.is_empty()) {
            let key = if names.len() > 1 { HUB_KEY } else { authority };
            if let Some(found) = self.ask_helper(helper, key).await? {
                return Ok(Some(found));
            }
        }
        config.kept(&names).map_err(bad)
    }

    async fn ask_helper(&self, helper: &str, server: &str) -> Answer<Option<Credentials>> {
        let bad =
            |why: String| Refusal::failed_precondition(format!("credential helper {helper:?} for {server}: {why}"));
        if !helper.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.')) {
            return Err(bad("the name must be letters, digits, - _ and .".to_owned()));
        }
        let name = format!("docker-credential-{helper}");
        let program = self.helper_dirs.iter().map(|dir| dir.join(&name)).find(|path| path.is_file());
        if program.is_none() && !self.helper_dirs.is_empty() {
            return Err(bad(format!("{name} is not installed")));
        }
        let mut child = tokio::process::Command::new(program.map_or(OsString::from(&name), OsString::from))
            .arg("get")
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .kill_on_drop(true)
            .spawn()
            .map_err(|e| bad(format!("cannot run {name}: {e}")))?;
        let talk = async {
            if let Some(mut stdin) = child.stdin.take() {
                match stdin.write_all(server.as_bytes()).await {
                    // A helper that needs no input may be gone already.
                    Err(e) if e.kind() != io::ErrorKind::BrokenPipe => return Err(e),
                    _ => {}
                }
            }
            let mut said = Vec::new();
            if let Some(stdout) = child.stdout.take() {
                stdout.take(HELPER_MAX_BYTES).read_to_end(&mut said).await?;
            }
            Ok((child.wait().await?, said))
        };
        let (status, said) = tokio::time::timeout(HELPER_TIMEOUT, talk)
            .await
            .map_err(|_| bad(format!("no answer within {HELPER_TIMEOUT:?}")))?
            .map_err(|e| bad(e.to_string()))?;
        if !status.success() {
            let said = super::host::printable(&said);
            // The protocol's words for "none", on stdout, with exit code 1.
            return if said.contains("credentials not found") {
                Ok(None)
            } else {
                Err(bad(format!("{status}: {said}")))
            };
        }
        // The parser's error would quote the secret.
        let answer: HelperAnswer = serde_json::from_slice(&said)
            .map_err(|_| bad("the answer is not the JSON of a credential helper".into()))?;
        let secret = Secret::new(answer.secret);
        Ok(Some(match answer.username.as_str() {
            "<token>" => Credentials::IdentityToken(secret),
            _ => Credentials::Password { username: answer.username, password: secret },
        }))
    }
}

impl AuthEntry {
    fn credentials(self) -> Result<Option<Credentials>, &'static str> {
        let given = |text: Option<String>| text.filter(|text| !text.is_empty());
        if let Some(token) = given(self.registrytoken) {
            return Ok(Some(Credentials::RegistryToken(Secret::new(token))));
        }
        if let Some(token) = given(self.identitytoken) {
            return Ok(Some(Credentials::IdentityToken(Secret::new(token))));
        }
        if let Some(auth) = given(self.auth) {
            let decoded = STANDARD.decode(auth.trim()).map_err(|_| "auth is not base64")?;
            let text = String::from_utf8(decoded).map_err(|_| "auth is not UTF-8 inside")?;
            let (username, password) = text.split_once(':').ok_or("auth is not user:password inside")?;
            // Docker pads with NULs.
            let password = Secret::new(password.trim_matches('\0'));
            return Ok(Some(Credentials::Password { username: username.to_owned(), password }));
        }
        match (given(self.username), given(self.password)) {
            (Some(username), Some(password)) => {
                Ok(Some(Credentials::Password { username, password: Secret::new(password) }))
            }
            // An entry without anything is how Docker notes a login that a helper keeps.
            _ => Ok(None),
        }
    }
}

/// The host of a key, which may be a host or a URL.
fn host_of(key: &str) -> &str {
    let rest = key.strip_prefix("https://").or_else(|| key.strip_prefix("http://")).unwrap_or(key);
    rest.split('/').next().unwrap_or(rest)
}

/// The names under which a registry's credentials may be kept.
fn names(authority: &str) -> Vec<&str> {
    const HUB: [&str; 3] = ["index.docker.io", "docker.io", "registry-1.docker.io"];
    if HUB.contains(&authority) { HUB.to_vec() } else { vec![authority] }
}

#[cfg(test)]
#[path = "tests/credentials.rs"]
mod tests;
