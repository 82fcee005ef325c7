//! Authorisation at one registry: challenges answered with tokens, tokens kept until they expire.
//!
//! # Spec
//! Docker "Token Authentication Specification" and "Oauth2 Token Authentication"; containerd
//! `core/remotes/docker/authorizer.go`.

use super::{
    challenge::Challenge,
    credentials::{Credentials, DockerCredentials, Secret},
    host,
    hosts::is_loopback,
    retry::Failure,
    transport::{self, Exchange, Payload, Transport},
};
use base64::{Engine, engine::general_purpose::STANDARD};
use reqwest::{
    Method, StatusCode, Url,
    header::{AUTHORIZATION, CONTENT_TYPE, HeaderMap, HeaderValue},
};
use serde::Deserialize;
use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};
use tokio::time::Instant;
use wharf_messages::{Answer, Refusal};

/// The longest answer of a token server.
const TOKEN_MAX_BYTES: u64 = 1 << 20;
/// How long a token lives if its server does not say, by the specification.
const TOKEN_LIFE: Duration = Duration::from_secs(60);
/// How long a password is believed to be right before the credentials file is read again.
const BASIC_LIFE: Duration = Duration::from_secs(60);
/// Tokens kept per registry; one a repository and action is used.
const TOKENS_MAX: usize = 64;
/// What we are called where OAuth asks.
const CLIENT_ID: &str = "wharf";

/// The authorisation of one client at one registry.
pub(super) struct Authorizer {
    given: Option<Credentials>,
    stored: Arc<DockerCredentials>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    /// What the registry asked for last; later requests answer it before they are asked.
    challenge: Option<Challenge>,
    /// By the scopes, joined. The inner lock makes requests for the same scopes wait for one token.
    tokens: HashMap<String, Arc<Slot>>,
}

type Slot = tokio::sync::Mutex<Option<Grant>>;

struct Grant {
    header: HeaderValue,
    expires: Instant,
}

#[derive(Deserialize)]
struct TokenAnswer {
    token: Option<String>,
    access_token: Option<String>,
    expires_in: Option<u64>,
}

/// What a request is authorised for.
pub(super) struct Purpose<'a> {
    /// The registry's URL, against which a relative realm is read.
    pub(super) registry: &'a Url,
    /// Scopes of the token, such as `repository:library/busybox:pull`.
    pub(super) scopes: &'a [String],
    /// See [`Exchange::is_dumped`].
    pub(super) is_dumped: bool,
}

impl Authorizer {
    pub(super) fn new(given: Option<Credentials>, stored: Arc<DockerCredentials>) -> Self {
        Self { given, stored, state: Mutex::default() }
    }

    /// The header for a request, as far as the registry's wishes are known.
    pub(super) async fn header(
        &self,
        transport: &Transport,
        purpose: &Purpose<'_>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let (challenge, slot) = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let Some(challenge) = state.challenge.clone() else { return Ok(None) };
            (challenge, state.slot(purpose.scopes))
        };
        let mut grant = slot.lock().await;
        if let Some(grant) = grant.as_ref().filter(|grant| grant.expires > Instant::now()) {
            return Ok(Some(grant.header.clone()));
        }
        let new = self.obtain(transport, &challenge, purpose).await?;
        let header = new.header.clone();
        *grant = Some(new);
        Ok(Some(header))
    }

    /// Answers a 401: the header to try again with, or `None` if there is nothing else to say than `refused`.
    pub(super) async fn answer(
        &self,
        transport: &Transport,
        purpose: &Purpose<'_>,
        challenge: &HeaderMap,
        refused: Option<&HeaderValue>,
    ) -> Result<Option<HeaderValue>, Failure> {
        let Some(challenge) = Challenge::from_headers(challenge) else { return Ok(None) };
        self.state.lock().unwrap_or_else(PoisonError::into_inner).challenge = Some(challenge);
        self.forget(purpose.scopes, refused).await;
        Ok(self.header(transport, purpose).await?.filter(|header| Some(header) != refused))
    }

    /// Drops the token for these scopes, if it still is the refused one.
    pub(super) async fn forget(&self, scopes: &[String], refused: Option<&HeaderValue>) {
        let slot = self.state.lock().unwrap_or_else(PoisonError::into_inner).slot(scopes);
        let mut grant = slot.lock().await;
        if grant.as_ref().map(|grant| &grant.header) == refused {
            *grant = None;
        }
    }

    async fn obtain(
        &self,
        transport: &Transport,
        challenge: &Challenge,
        purpose: &Purpose<'_>,
    ) -> Result<Grant, Failure> {
        let authority = transport::origin(purpose.registry);
        let credentials = match &self.given {
            Some(given) => Some(given.clone()),
            None => self.stored.find(&authority).await?,
        };
        match (challenge, credentials) {
            (_, Some(Credentials::RegistryToken(token))) => bearer(token.reveal(), TOKEN_LIFE),
            (Challenge::Basic, Some(Credentials::Password { username, password })) => {
                Ok(Grant { header: basic(&username, &password)?, expires: Instant::now() + BASIC_LIFE })
            }
            (Challenge::Basic, Some(Credentials::IdentityToken(_))) => Err(Refusal::unauthenticated(format!(
                "registry {authority} wants a user and a password, and an identity token was given"
            ))
            .into()),
            (Challenge::Basic, None) => Err(Refusal::unauthenticated(format!(
                "registry {authority} wants a user and a password, and none are known for it"
            ))
            .into()),
            (Challenge::Bearer { realm, service, scope }, credentials) => {
                let request = TokenRequest {
                    transport,
                    realm: realm_url(purpose.registry, realm, credentials.is_some())?,
                    service: service.as_deref(),
                    scopes: union(purpose.scopes, scope.as_deref()),
                    is_dumped: purpose.is_dumped,
                };
                request.fetch(credentials).await.map_err(|e| e.context(format_args!("registry {authority}: token")))
            }
        }
    }
}

impl State {
    fn slot(&mut self, scopes: &[String]) -> Arc<Slot> {
        if self.tokens.len() >= TOKENS_MAX {
            self.tokens.retain(|_, slot| Arc::strong_count(slot) > 1);
        }
        self.tokens.entry(scopes.join(" ")).or_default().clone()
    }
}

/// The scopes that are needed, and those that the registry asks for.
fn union<'a>(needed: &'a [String], asked: Option<&'a str>) -> Vec<&'a str> {
    let mut scopes: Vec<&str> = needed.iter().map(String::as_str).collect();
    for scope in asked.unwrap_or("").split(' ').filter(|scope| !scope.is_empty()) {
        if !scopes.contains(&scope) {
            scopes.push(scope);
        }
    }
    scopes
}

/// Where to ask for a token. A registry names it freely, so credentials do not follow it out of TLS.
fn realm_url(registry: &Url, realm: &str, has_credentials: bool) -> Answer<Url> {
    let url = transport::resolve_location(registry, realm)?;
    let is_exposed = url.scheme() == "http" && !is_loopback(&transport::origin(&url));
    if has_credentials && registry.scheme() == "https" && is_exposed {
        return Err(Refusal::permission_denied(format!(
            "registry {}: its token server {} would get the credentials unencrypted",
            transport::origin(registry),
            transport::origin(&url)
        )));
    }
    Ok(url)
}

struct TokenRequest<'a> {
    transport: &'a Transport,
    realm: Url,
    service: Option<&'a str>,
    scopes: Vec<&'a str>,
    is_dumped: bool,
}

impl TokenRequest<'_> {
    async fn fetch(&self, credentials: Option<Credentials>) -> Result<Grant, Failure> {
        let posted = match &credentials {
            None => return self.get(None).await,
            Some(Credentials::Password { username, password }) => {
                self.post(&[("grant_type", "password"), ("username", username), ("password", password.reveal())]).await
            }
            Some(Credentials::IdentityToken(token) | Credentials::RegistryToken(token)) => {
                self.post(&[("grant_type", "refresh_token"), ("refresh_token", token.reveal())]).await
            }
        };
        match (posted, credentials) {
            (Posted::Token(grant), _) => Ok(grant),
            // Servers of the older protocol know GET alone.
            (Posted::NotSpoken(_), Some(Credentials::Password { username, password })) => {
                self.get(Some((&username, &password))).await
            }
            (Posted::NotSpoken(failure) | Posted::Failed(failure), _) => Err(failure),
        }
    }

    /// OAuth 2 (POST), with the secret in the form.
    async fn post(&self, grant: &[(&str, &str)]) -> Posted {
        let form = form(
            grant.iter().copied().chain([("client_id", CLIENT_ID)]).chain(self.service.map(|s| ("service", s))).chain(
                // OAuth has one scope parameter with spaces in it.
                Some(("scope", self.scopes.join(" ").as_str())).filter(|(_, scopes)| !scopes.is_empty()),
            ),
        );
        let mut headers = HeaderMap::new();
        headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/x-www-form-urlencoded"));
        let exchange = Exchange {
            method: Method::POST,
            url: self.realm.clone(),
            headers,
            private_headers: HeaderMap::new(),
            payload: Payload::Bytes(form.into()),
            is_verified: false,
            is_dumped: self.is_dumped,
        };
        match self.send(exchange).await {
            Ok(grant) => Posted::Token(grant),
            Err((Some(status), failure)) if matches!(status.as_u16(), 400 | 401 | 404 | 405) => {
                Posted::NotSpoken(failure)
            }
            Err((_, failure)) => Posted::Failed(failure),
        }
    }

    /// Docker's protocol (GET), with the secret as Basic authorisation.
    async fn get(&self, user: Option<(&str, &Secret)>) -> Result<Grant, Failure> {
        let mut url = self.realm.clone();
        {
            let mut query = url.query_pairs_mut();
            query.extend_pairs(self.service.map(|service| ("service", service)));
            query.extend_pairs(self.scopes.iter().map(|scope| ("scope", scope)));
            query.extend_pairs(user.map(|(username, _)| ("account", username)));
        }
        let mut private_headers = HeaderMap::new();
        if let Some((username, password)) = user {
            private_headers.insert(AUTHORIZATION, basic(username, password)?);
        }
        let exchange = Exchange {
            method: Method::GET,
            url,
            headers: HeaderMap::new(),
            private_headers,
            payload: Payload::None,
            is_verified: false,
            is_dumped: self.is_dumped,
        };
        self.send(exchange).await.map_err(|(_, failure)| failure)
    }

    async fn send(&self, exchange: Exchange) -> Result<Grant, (Option<StatusCode>, Failure)> {
        let received = self.transport.send(&exchange).await.map_err(|failure| (None, failure))?;
        let response = received.response;
        let status = response.status();
        if !status.is_success() {
            return Err((Some(status), host::status_failure(self.transport, response).await));
        }
        let read = async {
            let body = self.transport.read(response, TOKEN_MAX_BYTES).await?;
            let bad = |why| Refusal::unauthenticated(format!("token server {}: {why}", transport::origin(&self.realm)));
            // The parser's error could quote the token.
            let answer: TokenAnswer =
                serde_json::from_slice(&body).map_err(|_| bad("the answer is not a token's JSON"))?;
            let token = answer.token.filter(|t| !t.is_empty()).or(answer.access_token).filter(|t| !t.is_empty());
            let token = token.ok_or_else(|| bad("the answer has no token"))?;
            bearer(&token, answer.expires_in.map_or(TOKEN_LIFE, Duration::from_secs))
        };
        read.await.map_err(|failure| (None, failure))
    }
}

enum Posted {
    Token(Grant),
    /// The server may not know this protocol.
    NotSpoken(Failure),
    Failed(Failure),
}

fn form<'a>(pairs: impl Iterator<Item = (&'a str, &'a str)>) -> String {
    // The query of a URL is written as a form is.
    let mut url = Url::parse("form:").ok();
    if let Some(url) = &mut url {
        url.query_pairs_mut().extend_pairs(pairs);
    }
    url.and_then(|url| url.query().map(str::to_owned)).unwrap_or_default()
}

fn basic(username: &str, password: &Secret) -> Answer<HeaderValue> {
    secret_header(format!("Basic {}", STANDARD.encode(format!("{username}:{}", password.reveal()))))
}

fn bearer(token: &str, life: Duration) -> Result<Grant, Failure> {
    // A tenth less than promised, for the time that the request needs.
    let life = life.min(Duration::from_secs(86_400)) * 9 / 10;
    Ok(Grant { header: secret_header(format!("Bearer {token}"))?, expires: Instant::now() + life })
}

fn secret_header(text: String) -> Answer<HeaderValue> {
    let mut header = HeaderValue::try_from(text)
        .map_err(|_| Refusal::unauthenticated("the token or password has characters that no http header can have"))?;
    header.set_sensitive(true);
    Ok(header)
}

#[cfg(test)]
mod unit {
    use super::*;

    #[test]
    fn credentials_do_not_leave_tls_for_a_realm() {
        let url = |text: &str| Url::parse(text).unwrap();
        for (registry, realm, has_credentials, expected) in [
            ("https://r.example/v2/", "https://auth.example/token", true, Some("https://auth.example/token")),
            ("https://r.example/v2/", "/token", true, Some("https://r.example/token")),
            ("https://r.example/v2/", "http://auth.example/token", true, None),
            ("https://r.example/v2/", "http://auth.example/token", false, Some("http://auth.example/token")),
            ("https://r.example/v2/", "http://127.0.0.1:5001/token", true, Some("http://127.0.0.1:5001/token")),
            ("http://r.example/v2/", "http://auth.example/token", true, Some("http://auth.example/token")),
            ("https://r.example/v2/", "https://me:pw@auth.example/token", true, Some("https://auth.example/token")),
            ("https://r.example/v2/", "file:///etc/shadow", false, None),
        ] {
            let found = realm_url(&url(registry), realm, has_credentials).ok();
            assert_eq!(found, expected.map(url), "{registry} {realm}");
        }
    }

    #[test]
    fn scopes_are_asked_for_once() {
        let needed = ["repository:a:pull".to_owned()];
        assert_eq!(union(&needed, None), ["repository:a:pull"]);
        assert_eq!(union(&needed, Some("repository:a:pull")), ["repository:a:pull"]);
        assert_eq!(union(&needed, Some("x  y:z repository:a:pull")), ["repository:a:pull", "x", "y:z"]);
    }
}
