//! Which servers speak for a registry: `hosts.toml`, Docker's `certs.d`, and the defaults without either.
//!
//! ```text
//! DIR/host_port_/   first folder that exists wins      hosts.toml   [host."URL"] mirrors in order, then `server`
//! DIR/host:port/                                       *.crt        authorities         } only without
//! DIR/_default/                                        *.cert+.key  client certificates } hosts.toml
//! ```
//!
//! # Spec
//! containerd docs/hosts.md; `core/remotes/docker/config/hosts.go`; Docker's "Verify repository client with
//! certificates".

use serde::Deserialize;
use std::{
    collections::BTreeMap,
    fs, io,
    io::Read,
    net::IpAddr,
    path::{Path, PathBuf},
    time::Duration,
};
use wharf_messages::{Answer, Refusal, image::RegistryOptions};

/// The largest hosts.toml, certificate or key file that is read.
const FILE_MAX_BYTES: u64 = 1 << 20;

/// How to reach a server.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Scheme {
    /// TLS.
    Https,
    /// Plain.
    Http,
    /// TLS, and plain if the server turns out not to speak it: for loopback, where nobody said which.
    HttpsOrHttp,
}

/// What a server may be asked.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Capabilities {
    /// Bytes by digest.
    pub(super) pull: bool,
    /// Tags.
    pub(super) resolve: bool,
    /// To take content.
    pub(super) push: bool,
}

impl Capabilities {
    const ALL: Self = Self { pull: true, resolve: true, push: true };
}

/// A client's certificate chain and key, PEM.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct ClientPem {
    pub(super) chain: Vec<u8>,
    pub(super) key: Vec<u8>,
}

/// One server to ask, with all that it takes to ask it.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) struct HostConfig {
    pub(super) scheme: Scheme,
    /// Host and port, as in a URL.
    pub(super) authority: String,
    /// What precedes the repository in paths: `/v2`.
    pub(super) path: String,
    pub(super) capabilities: Capabilities,
    pub(super) skip_verify: bool,
    pub(super) ca_pem: Vec<u8>,
    pub(super) clients: Vec<ClientPem>,
    /// Extra headers of every request.
    pub(super) headers: Vec<(String, String)>,
    pub(super) connect_timeout: Option<Duration>,
}

impl HostConfig {
    /// Whether it answers for a registry of another name, which it must then be told (`?ns=`).
    pub(super) fn is_mirror_of(&self, registry: &str) -> bool {
        self.authority != registry && !(registry == "docker.io" && self.authority == DOCKER_HUB)
    }
}

/// Where docker.io really is.
const DOCKER_HUB: &str = "registry-1.docker.io";

/// The servers for a registry, in the order to try them. Reads files: not for an arbiter or a tokio worker.
pub(super) fn load(registry: &str, dirs: &[PathBuf], options: &RegistryOptions) -> Answer<Vec<HostConfig>> {
    let mut hosts = Vec::new();
    match find_dir(registry, dirs)? {
        None => hosts.push(default_host(registry, Entry::default(), options)),
        Some(dir) => {
            let toml = dir.join("hosts.toml");
            match read_file(&toml) {
                Ok(text) if !text.is_empty() => {
                    hosts = parse_hosts(registry, &dir, &text, options)
                        .map_err(|e| e.context(format!("registry configuration {}", toml.display())))?
                }
                // Without one, or with an empty one, it is a folder of certificates as Docker has them.
                Ok(_) => hosts.push(default_host(registry, load_certificates(&dir)?, options)),
                Err(e) if e.kind() == io::ErrorKind::NotFound => {
                    hosts.push(default_host(registry, load_certificates(&dir)?, options));
                }
                Err(e) => return Err(Refusal::io(format!("registry configuration {}", toml.display()), &e)),
            }
        }
    }
    for host in &mut hosts {
        host.ca_pem.extend_from_slice(options.tls_ca_pem.as_deref().unwrap_or_default());
        if let Some((chain, key)) = options.tls_client_pem.as_ref().filter(|_| host.clients.is_empty()) {
            host.clients.push(ClientPem { chain: chain.clone(), key: key.clone() });
        }
    }
    Ok(hosts)
}

fn find_dir(registry: &str, dirs: &[PathBuf]) -> Answer<Option<PathBuf>> {
    let with_port = registry.rsplit_once(':').filter(|(_, port)| !port.ends_with(']'));
    let names = with_port
        .map(|(host, port)| format!("{host}_{port}_"))
        .into_iter()
        .chain([registry.to_owned(), "_default".to_owned()])
        .collect::<Vec<_>>();
    for dir in dirs {
        for name in &names {
            let candidate = dir.join(name);
            match fs::metadata(&candidate) {
                Ok(meta) if meta.is_dir() => return Ok(Some(candidate)),
                Ok(_) => {}
                Err(e) if matches!(e.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {}
                Err(e) => return Err(Refusal::io(format!("registry configuration {}", candidate.display()), &e)),
            }
        }
    }
    Ok(None)
}

fn read_file(path: &Path) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(FILE_MAX_BYTES + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > FILE_MAX_BYTES {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, format!("larger than {FILE_MAX_BYTES} bytes")));
    }
    Ok(bytes)
}

/// The registry itself, when no configuration names another server for it.
fn default_host(registry: &str, entry: Entry, options: &RegistryOptions) -> HostConfig {
    let (scheme, skip_default) = if registry == "docker.io" {
        (Scheme::Https, false)
    } else if options.plain_http {
        (Scheme::Http, false)
    } else if is_loopback(registry) {
        // Nobody else can listen there, so an unverified certificate is no risk; 80 and 443 say what they speak.
        match port(registry) {
            Some("80") => (Scheme::Http, false),
            None | Some("443") => (Scheme::Https, true),
            Some(_) => (Scheme::HttpsOrHttp, true),
        }
    } else {
        (Scheme::Https, false)
    };
    HostConfig {
        scheme,
        authority: if registry == "docker.io" { DOCKER_HUB.to_owned() } else { registry.to_owned() },
        path: "/v2".to_owned(),
        capabilities: entry.capabilities,
        skip_verify: entry.skip_verify.unwrap_or(options.skip_verify || skip_default),
        ca_pem: entry.ca_pem,
        clients: entry.clients,
        headers: entry.headers,
        connect_timeout: entry.connect_timeout,
    }
}

/// Whether an authority is this machine by name or address.
pub(super) fn is_loopback(authority: &str) -> bool {
    let host = match port(authority) {
        Some(port) => &authority[..authority.len() - port.len() - 1],
        None => authority,
    };
    let address = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
    host == "localhost" || address.parse::<IpAddr>().is_ok_and(|ip| ip.is_loopback())
}

fn port(authority: &str) -> Option<&str> {
    authority.rsplit_once(':').map(|(_, port)| port).filter(|port| !port.ends_with(']'))
}

/// Docker's layout: every `*.crt` is an authority, every `*.cert` a client's certificate with its `*.key`.
fn load_certificates(dir: &Path) -> Answer<Entry> {
    let doing = || format!("registry certificates in {}", dir.display());
    let mut names = fs::read_dir(dir)
        .and_then(|entries| entries.map(|e| e.map(|e| e.path())).collect::<io::Result<Vec<_>>>())
        .map_err(|e| Refusal::io(doing(), &e))?;
    names.sort();
    let read = |path: &Path| read_file(path).map_err(|e| Refusal::io(doing(), &e).context(path.display()));
    let mut entry = Entry::default();
    for path in &names {
        match path.extension().and_then(|e| e.to_str()) {
            Some("crt") => append_pem(&mut entry.ca_pem, &read(path)?),
            Some("cert") => {
                let key = path.with_extension("key");
                if !names.contains(&key) {
                    return Err(Refusal::invalid(format!("{}: missing key {}", doing(), key.display())));
                }
                entry.clients.push(ClientPem { chain: read(path)?, key: read(&key)? });
            }
            _ => {}
        }
    }
    Ok(entry)
}

fn append_pem(all: &mut Vec<u8>, more: &[u8]) {
    all.extend_from_slice(more);
    all.push(b'\n');
}

/// The keys that the root of a hosts.toml and its `[host]` tables share, as they are written.
#[derive(Debug, Default, Deserialize)]
struct RawEntry {
    capabilities: Option<Vec<String>>,
    ca: Option<OneOrMany<String>>,
    client: Option<OneOrMany<OneOrMany<String>>>,
    skip_verify: Option<bool>,
    header: Option<BTreeMap<String, OneOrMany<String>>>,
    #[serde(default)]
    override_path: bool,
    dial_timeout: Option<String>,
}

#[derive(Debug, Deserialize)]
struct RawFile {
    server: Option<String>,
    #[serde(flatten)]
    root: RawEntry,
}

/// Only the tables, apart from the root: positions in the text do not survive `flatten`.
#[derive(Debug, Deserialize)]
struct RawHosts {
    #[serde(default)]
    host: BTreeMap<toml::Spanned<String>, RawEntry>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
enum OneOrMany<T> {
    One(T),
    Many(Vec<T>),
}

impl<T> OneOrMany<T> {
    fn into_vec(self) -> Vec<T> {
        match self {
            Self::One(one) => vec![one],
            Self::Many(many) => many,
        }
    }
}

/// The same, checked, with the files read.
struct Entry {
    capabilities: Capabilities,
    skip_verify: Option<bool>,
    ca_pem: Vec<u8>,
    clients: Vec<ClientPem>,
    headers: Vec<(String, String)>,
    connect_timeout: Option<Duration>,
}

impl Default for Entry {
    fn default() -> Self {
        Self {
            capabilities: Capabilities::ALL,
            skip_verify: None,
            ca_pem: Vec::new(),
            clients: Vec::new(),
            headers: Vec::new(),
            connect_timeout: None,
        }
    }
}

fn parse_hosts(registry: &str, dir: &Path, text: &[u8], options: &RegistryOptions) -> Answer<Vec<HostConfig>> {
    let text = std::str::from_utf8(text).map_err(|_| Refusal::invalid("not UTF-8"))?;
    let toml_error = |e: toml::de::Error| Refusal::invalid(e.to_string().trim_end().replace('\n', " | "));
    let file: RawFile = toml::from_str(text).map_err(toml_error)?;
    let tables: RawHosts = toml::from_str(text).map_err(toml_error)?;
    // Mirrors are tried in the order in which they are written.
    let mut mirrors: Vec<_> = tables.host.into_iter().collect();
    mirrors.sort_by_key(|(url, _)| url.span().start);

    let mut hosts = Vec::with_capacity(mirrors.len() + 1);
    for (url, raw) in mirrors {
        let url = url.into_inner();
        let override_path = raw.override_path;
        let entry = check_entry(raw, dir).map_err(|e| e.context(format!("host {url:?}")))?;
        hosts.push(configured_host(&url, override_path, entry, options)?);
    }
    let override_path = file.root.override_path;
    let root = check_entry(file.root, dir)?;
    hosts.push(match file.server.filter(|server| !server.is_empty()) {
        Some(server) => configured_host(&server, override_path, root, options)?,
        None => default_host(registry, root, options),
    });
    Ok(hosts)
}

/// Reads a `hosts.toml` in a folder, with the files that it names; answers how many servers there are to ask.
///
/// # Errors
/// `InvalidArgument` that names what cannot be understood, and what reading the files says.
pub fn check_hosts(registry: &str, dir: &Path, text: &[u8]) -> Answer<usize> {
    parse_hosts(registry, dir, text, &RegistryOptions::default()).map(|hosts| hosts.len())
}

fn configured_host(server: &str, override_path: bool, entry: Entry, options: &RegistryOptions) -> Answer<HostConfig> {
    let bad = |why: &str| Refusal::invalid(format!("server {server:?}: {why}"));
    let spelt = if server.starts_with("http") { server.to_owned() } else { format!("https://{server}") };
    let url = reqwest::Url::parse(&spelt).map_err(|e| bad(&e.to_string()))?;
    let scheme = match url.scheme() {
        "https" => Scheme::Https,
        "http" => Scheme::Http,
        _ => return Err(bad("the scheme must be http or https")),
    };
    let host = url.host_str().ok_or_else(|| bad("a host is required"))?;
    let authority = match url.port() {
        Some(port) => format!("{host}:{port}"),
        None => host.to_owned(),
    };
    let path = url.path().trim_end_matches('/');
    let path = if override_path || path.ends_with("/v2") { path.to_owned() } else { format!("{path}/v2") };
    Ok(HostConfig {
        scheme,
        authority,
        path,
        capabilities: entry.capabilities,
        skip_verify: entry.skip_verify.unwrap_or(options.skip_verify),
        ca_pem: entry.ca_pem,
        clients: entry.clients,
        headers: entry.headers,
        connect_timeout: entry.connect_timeout,
    })
}

fn check_entry(raw: RawEntry, dir: &Path) -> Answer<Entry> {
    let read = |name: &str| {
        let path = dir.join(name);
        read_file(&path).map_err(|e| Refusal::io(path.display(), &e))
    };
    let mut entry = Entry { skip_verify: raw.skip_verify, ..Entry::default() };
    if let Some(words) = raw.capabilities.filter(|words| !words.is_empty()) {
        entry.capabilities = Capabilities { pull: false, resolve: false, push: false };
        for word in words {
            match word.to_ascii_lowercase().as_str() {
                "pull" => entry.capabilities.pull = true,
                "resolve" => entry.capabilities.resolve = true,
                "push" => entry.capabilities.push = true,
                _ => return Err(Refusal::invalid(format!("unknown capability {word:?}"))),
            }
        }
    }
    for name in raw.ca.map(OneOrMany::into_vec).unwrap_or_default() {
        append_pem(&mut entry.ca_pem, &read(&name)?);
    }
    // A string is one file with certificate and key; a list has an item a client, which is such a string or a pair.
    for client in raw.client.map(OneOrMany::into_vec).unwrap_or_default() {
        let files: Vec<_> = client.into_vec().into_iter().filter(|name| !name.is_empty()).collect();
        match files.as_slice() {
            [both] => {
                let pem = read(both)?;
                entry.clients.push(ClientPem { chain: pem.clone(), key: pem });
            }
            [chain, key] => entry.clients.push(ClientPem { chain: read(chain)?, key: read(key)? }),
            _ => return Err(Refusal::invalid("client must be a file, files, or pairs of a certificate and a key")),
        }
    }
    for (name, values) in raw.header.unwrap_or_default() {
        entry.headers.extend(values.into_vec().into_iter().map(|value| (name.clone(), value)));
    }
    if let Some(text) = raw.dial_timeout {
        let timeout = parse_duration(&text).ok_or_else(|| {
            Refusal::invalid(format!("dial_timeout {text:?} is no duration, as in \"5s\" or \"300ms\""))
        })?;
        entry.connect_timeout = Some(timeout);
    }
    Ok(entry)
}

/// Reads Go's spelling of durations, `1m30s`, `1.5s`, `300ms`; one that is not positive is none.
fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text;
    let mut seconds = 0.0;
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let (number, tail) = rest.split_at(digits);
        let unit_len = tail.find(|c: char| c.is_ascii_digit() || c == '.').unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_len);
        let unit_seconds = match unit {
            "h" => 3600.0,
            "m" => 60.0,
            "s" => 1.0,
            "ms" => 1e-3,
            "us" | "µs" => 1e-6,
            "ns" => 1e-9,
            _ => return None,
        };
        seconds += number.parse::<f64>().ok()? * unit_seconds;
        rest = tail;
    }
    Duration::try_from_secs_f64(seconds).ok().filter(|d| !d.is_zero())
}

#[cfg(test)]
#[path = "tests/hosts.rs"]
mod tests;
