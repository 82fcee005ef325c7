//! Leases: what protects new resources from garbage collection until something refers to them.

use crate::{Labels, LeaseId, Timestamp};
use serde::{Deserialize, Serialize};

/// The label that ends a lease at an RFC 3339 time.
pub const EXPIRE_LABEL: &str = "containerd.io/gc.expire";

/// A lease as it is kept.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// Its name.
    pub id: LeaseId,
    /// When it was made.
    pub created_at: Timestamp,
    /// Its labels.
    pub labels: Labels,
}

/// Something a lease protects.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct LeaseResource {
    /// `content`, `ingests`, `images`, `snapshots/NAME`.
    pub kind: String,
    /// A digest, a reference, a key.
    pub id: String,
}

/// Makes a lease. Refused with `AlreadyExists`.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct CreateLease {
    /// Its name; none means one made by the daemon.
    pub id: Option<LeaseId>,
    /// Its labels.
    pub labels: Labels,
}

/// Ends a lease. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteLease {
    /// Its name.
    pub id: LeaseId,
    /// Whether to answer only after what it alone protected is gone.
    pub sync: bool,
}

/// Reads leases, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListLeases {
    /// containerd filters on `id` and `labels`.
    pub filters: Vec<String>,
}

/// Adds a resource; adding it twice is fine. Refused with `NotFound` for the lease, `InvalidArgument` for the kind.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct AddLeaseResource {
    /// The lease.
    pub id: LeaseId,
    /// What it shall protect.
    pub resource: LeaseResource,
}

/// Takes a resource away. Refused with `NotFound` for the lease.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteLeaseResource {
    /// The lease.
    pub id: LeaseId,
    /// What it shall protect no longer.
    pub resource: LeaseResource,
}

/// Reads what a lease protects. Refused with `NotFound`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ListLeaseResources {
    /// The lease.
    pub id: LeaseId,
}
