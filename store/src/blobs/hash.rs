//! Hashing while writing.

use sha2::{Digest as _, Sha256, Sha512};
use wharf_messages::{Answer, Digest, id::DigestAlgorithm};

/// The state of a blob's hash.
#[derive(Clone)]
pub(crate) enum Hasher {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Hasher {
    pub fn new(algorithm: DigestAlgorithm) -> Self {
        match algorithm {
            DigestAlgorithm::Sha256 => Self::Sha256(Sha256::new()),
            DigestAlgorithm::Sha512 => Self::Sha512(Sha512::new()),
        }
    }

    pub fn algorithm(&self) -> DigestAlgorithm {
        match self {
            Self::Sha256(_) => DigestAlgorithm::Sha256,
            Self::Sha512(_) => DigestAlgorithm::Sha512,
        }
    }

    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Self::Sha256(state) => state.update(bytes),
            Self::Sha512(state) => state.update(bytes),
        }
    }

    /// What the bytes so far are called.
    pub fn digest(&self) -> Answer<Digest> {
        let hex = match self.clone() {
            Self::Sha256(state) => hex::encode(state.finalize()),
            Self::Sha512(state) => hex::encode(state.finalize()),
        };
        Digest::new(format!("{}:{hex}", self.algorithm().as_str()))
    }
}

impl std::fmt::Debug for Hasher {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.algorithm().as_str())
    }
}
