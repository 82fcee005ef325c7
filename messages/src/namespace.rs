//! Namespaces: one client's objects live apart from another's.

use crate::{Labels, Namespace};
use serde::{Deserialize, Serialize};

/// The label that names a namespace's default snapshotter.
pub const DEFAULT_SNAPSHOTTER_LABEL: &str = "containerd.io/defaults/snapshotter";
/// The label that names a namespace's default runtime.
pub const DEFAULT_RUNTIME_LABEL: &str = "containerd.io/defaults/runtime";

/// A namespace as it is kept. It need not exist before it is used: the first write of anything in it makes it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamespaceRecord {
    /// Its name.
    pub name: Namespace,
    /// Its labels.
    pub labels: Labels,
}

/// Makes a namespace. Refused with `AlreadyExists`.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct CreateNamespace {
    /// Its name.
    pub name: Namespace,
    /// Its labels.
    pub labels: Labels,
}

/// Changes a namespace's labels; makes the namespace if it is not there.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct UpdateNamespace {
    /// Its name.
    pub name: Namespace,
    /// New labels; an empty value deletes the label.
    pub labels: Labels,
    /// `labels` or `labels.KEY`; empty replaces all.
    pub mask: Vec<String>,
}

/// Removes an empty namespace. Refused with `NotFound`, or `FailedPrecondition` naming what is still in it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct DeleteNamespace {
    /// Its name.
    pub name: Namespace,
}

/// Reads one namespace; an unknown one answers with no labels, as in containerd.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct GetNamespace {
    /// Its name.
    pub name: Namespace,
}

/// Reads all namespaces, by name.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ListNamespaces {
    /// containerd filters on `name` and `labels`.
    pub filters: Vec<String>,
}
