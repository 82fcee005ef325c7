//! TLS as registries are spoken to: 1.2 and later, the system's authorities and the configured ones.

use super::hosts::{ClientPem, HostConfig};
use rustls::{
    ClientConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::{
        ResolvesClientCert, Resumption, WebPkiServerVerifier,
        danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    },
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
    pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject},
    server::ParsedCertificate,
    sign::CertifiedKey,
};
use std::sync::{Arc, Mutex, PoisonError, Weak};
use wharf_messages::{Answer, Refusal};

/// Sessions remembered per server; rustls keeps 256 by default, a registry has a handful of addresses.
const SESSIONS_MAX: usize = 8;

/// The system's authorities, loaded when first needed and dropped with their last user.
#[derive(Default)]
pub(super) struct SystemRoots(Mutex<Weak<RootCertStore>>);

impl SystemRoots {
    /// Reads the system's files: not for an arbiter or a tokio worker.
    fn load(&self) -> Arc<RootCertStore> {
        let mut cached = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(roots) = cached.upgrade() {
            return roots;
        }
        let found = rustls_native_certs::load_native_certs();
        let mut roots = RootCertStore::empty();
        let (usable, ignored) = roots.add_parsable_certificates(found.certs);
        if usable == 0 || !found.errors.is_empty() {
            let errors: Vec<_> = found.errors.iter().map(ToString::to_string).collect();
            tracing::warn!(
                usable,
                ignored,
                ?errors,
                "some or all of the system's certificate authorities are unusable"
            );
        }
        let roots = Arc::new(roots);
        *cached = Arc::downgrade(&roots);
        roots
    }
}

/// The TLS settings for one server. Reads the system's files: not for an arbiter or a tokio worker.
pub(super) fn client_config(host: &HostConfig, system: &SystemRoots) -> Answer<ClientConfig> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = if host.skip_verify {
        Arc::new(Unverified(provider.clone()))
    } else {
        let (mut roots, mut own) = (system.load(), Vec::new());
        if !host.ca_pem.is_empty() {
            let mut with_own = RootCertStore::clone(&roots);
            own = certificates(&host.ca_pem, "certificate authorities")?;
            for certificate in &own {
                with_own
                    .add(certificate.clone())
                    .map_err(|e| Refusal::invalid(format!("certificate authorities for {}: {e}", host.authority)))?;
            }
            roots = Arc::new(with_own);
        }
        if roots.is_empty() {
            return Err(Refusal::failed_precondition(format!(
                "verify registry {}: the system has no certificate authorities (install ca-certificates) and none are configured",
                host.authority
            )));
        }
        let chains = WebPkiServerVerifier::builder_with_provider(roots, provider.clone())
            .build()
            .map_err(|e| Refusal::internal(format!("certificate verifier for registry {}: {e}", host.authority)))?;
        Arc::new(Verified { chains, own })
    };
    let builder = ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .map_err(|e| Refusal::internal(format!("tls: {e}")))?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let mut config = match ClientIdentities::new(&host.clients, &provider)? {
        Some(identities) => builder.with_client_cert_resolver(Arc::new(identities)),
        None => builder.with_no_client_auth(),
    };
    config.resumption = Resumption::in_memory_sessions(SESSIONS_MAX);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(config)
}

/// The settings for servers that are never reached by TLS: trusts nobody.
pub(super) fn trusting_nobody() -> Answer<ClientConfig> {
    let builder = ClientConfig::builder_with_provider(Arc::new(rustls::crypto::ring::default_provider()))
        .with_safe_default_protocol_versions()
        .map_err(|e| Refusal::internal(format!("tls: {e}")))?;
    Ok(builder.with_root_certificates(RootCertStore::empty()).with_no_client_auth())
}

fn certificates(pem: &[u8], what: &str) -> Answer<Vec<CertificateDer<'static>>> {
    let found: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| Refusal::invalid(format!("{what}: not PEM: {e}")))?;
    if found.is_empty() {
        return Err(Refusal::invalid(format!("{what}: no certificate in the PEM text")));
    }
    Ok(found)
}

/// The client's certificates; the server's hints say which one is sent.
#[derive(Debug)]
struct ClientIdentities(Vec<Arc<CertifiedKey>>);

impl ClientIdentities {
    fn new(clients: &[ClientPem], provider: &CryptoProvider) -> Answer<Option<Self>> {
        let mut keys = Vec::with_capacity(clients.len());
        for client in clients {
            let chain = certificates(&client.chain, "client certificate")?;
            let key = PrivateKeyDer::from_pem_slice(&client.key)
                .map_err(|e| Refusal::invalid(format!("client key: not a PEM key: {e}")))?;
            let key = CertifiedKey::from_der(chain, key, provider)
                .map_err(|e| Refusal::invalid(format!("client certificate and key: {e}")))?;
            keys.push(Arc::new(key));
        }
        Ok((!keys.is_empty()).then_some(Self(keys)))
    }
}

impl ResolvesClientCert for ClientIdentities {
    fn resolve(&self, root_hint_subjects: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        // An issuer's name stands in the certificate byte for byte, so no X.509 parser is needed to find it.
        let issued_by = |key: &CertifiedKey, name: &[u8]| {
            !name.is_empty() && key.cert.iter().any(|der| der.windows(name.len()).any(|window| window == name))
        };
        let mut usable = self.0.iter().filter(|key| key.key.choose_scheme(schemes).is_some());
        let hinted = usable.clone().find(|key| root_hint_subjects.iter().any(|name| issued_by(key, name)));
        hinted.or_else(|| usable.next()).cloned()
    }

    fn has_certs(&self) -> bool {
        !self.0.is_empty()
    }
}

/// Verifies the server's chain; a configured certificate may also be the server's own, as the self-signed ones are that
/// most private registries have. webpki knows authorities and servers only, and refuses one that is both.
#[derive(Debug)]
struct Verified {
    chains: Arc<WebPkiServerVerifier>,
    /// Configured for this registry.
    own: Vec<CertificateDer<'static>>,
}

impl ServerCertVerifier for Verified {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        let verified = self.chains.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now);
        match verified {
            // The dates were looked at before; the handshake proves that the server has the key.
            Err(error) if is_ca_as_server(&error) && self.own.iter().any(|own| own == end_entity) => {
                let server = ParsedCertificate::try_from(end_entity)?;
                rustls::client::verify_server_name(&server, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            verified => verified,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        self.chains.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.chains.supported_verify_schemes()
    }
}

/// Whether a chain was refused for this alone: that the server's certificate is an authority's. rustls has no name for
/// it; webpki says it in words.
fn is_ca_as_server(error: &rustls::Error) -> bool {
    use rustls::{CertificateError::Other, Error::InvalidCertificate};
    matches!(error, InvalidCertificate(Other(other)) if format!("{other:?}").contains("CaUsedAsEndEntity"))
}

/// Takes any certificate (`skip_verify`), but still checks that the server holds its key.
#[derive(Debug)]
struct Unverified(Arc<CryptoProvider>);

impl ServerCertVerifier for Unverified {
    fn verify_server_cert(
        &self,
        _end_entity: &CertificateDer<'_>,
        _intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        _now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, cert, dss, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
