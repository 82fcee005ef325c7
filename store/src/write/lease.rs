//! Changes of leases and of what they protect.

use super::batch::{Done, Fault, Scope};
use crate::{change::Outcome, refuse, schema::Prefix};
use redb::ReadableTable;
use wharf_messages::{
    Digest, LeaseId, Namespace, Refusal, SnapshotterName,
    event::Event,
    gc::Resource,
    labels,
    lease::{AddLeaseResource, CreateLease, DeleteLeaseResource, Lease, LeaseResource},
};

impl Scope<'_, '_, '_> {
    pub fn create_lease(&mut self, ns: &Namespace, call: &CreateLease) -> Done {
        let id = call.id.clone().ok_or_else(|| Refusal::invalid("lease id must be provided"))?;
        if self.read_lease(ns, &id)?.is_some() {
            return Err(Refusal::already_exists(format!("lease {id:?}")).into());
        }
        let mut labels = call.labels.clone();
        labels::drop_empty(&mut labels);
        labels::validate("lease.Labels", &labels)?;
        let lease = Lease { id: id.clone(), created_at: self.now, labels };
        self.note(ns, || Resource::Lease(id.clone()));
        self.put2(|t| &mut t.leases, ns, id.as_str(), &lease)?;
        self.tell(Event::LeaseCreated { id });
        Ok(Outcome::Lease(lease))
    }

    pub fn delete_lease(&mut self, ns: &Namespace, id: &LeaseId) -> Done {
        let lease = self.read_lease(ns, id)?.ok_or_else(|| refuse::no_lease(id))?;
        self.drop_lease(ns, id.as_str())?;
        Ok(Outcome::Lease(lease))
    }

    pub fn add_lease_resource(&mut self, ns: &Namespace, call: &AddLeaseResource) -> Done {
        validate(&call.resource)?;
        self.require_lease(ns, &call.id)?;
        self.link(ns, &call.id, &call.resource)?;
        Ok(Outcome::Done)
    }

    pub fn delete_lease_resource(&mut self, ns: &Namespace, call: &DeleteLeaseResource) -> Done {
        validate(&call.resource)?;
        self.require_lease(ns, &call.id)?;
        self.unlink(ns, call.id.as_str(), &call.resource.kind, &call.resource.id)?;
        Ok(Outcome::Done)
    }

    /// Adds something to the commit's lease, if it has one.
    pub fn lease(&mut self, resource: LeaseResource) -> Result<(), Fault> {
        let (Some(ns), Some(lease)) = (&self.commit.namespace, &self.commit.lease) else { return Ok(()) };
        self.require_lease(ns, lease)?;
        self.link(ns, lease, &resource)
    }

    /// Takes something that is gone from the commit's lease, if it has one. Other leases keep the name, as in containerd:
    /// it protects what comes back under it.
    pub fn unlease(&mut self, resource: &LeaseResource) -> Result<(), Fault> {
        let (Some(ns), Some(lease)) = (&self.commit.namespace, &self.commit.lease) else { return Ok(()) };
        self.unlink(ns, lease.as_str(), &resource.kind, &resource.id)
    }

    /// Removes a lease and all its links.
    pub fn drop_lease(&mut self, ns: &Namespace, id: &str) -> Done<()> {
        let prefix = Prefix::new(id);
        let mut resources = Vec::new();
        for row in self.batch.tables.lease_resources.range(prefix.four_in(ns.as_str()))? {
            let key = row?.0;
            let (_, _, kind, resource) = key.value();
            resources.push((kind.to_owned(), resource.to_owned()));
        }
        for (kind, resource) in resources {
            self.unlink(ns, id, &kind, &resource)?;
        }
        self.remove(|t| &mut t.leases, (ns.as_str(), id))?;
        self.events.push((Some(ns.clone()), Event::LeaseDeleted { id: LeaseId::new(id)? }));
        Ok(())
    }

    fn read_lease(&mut self, ns: &Namespace, id: &LeaseId) -> Done<Option<Lease>> {
        self.get2(|t| &mut t.leases, ns, id.as_str())
    }

    fn require_lease(&mut self, ns: &Namespace, id: &LeaseId) -> Done<()> {
        match self.batch.tables.leases.get((ns.as_str(), id.as_str()))? {
            Some(_) => Ok(()),
            None => Err(refuse::no_lease(id).into()),
        }
    }

    fn link(&mut self, ns: &Namespace, lease: &LeaseId, resource: &LeaseResource) -> Done<()> {
        // The lease as a whole: the sweep looks at all that it protects.
        self.note(ns, || Resource::Lease(lease.clone()));
        let (ns, lease, kind, id) = (ns.as_str(), lease.as_str(), resource.kind.as_str(), resource.id.as_str());
        self.put(|t| &mut t.lease_resources, (ns, lease, kind, id), ())?;
        self.put(|t| &mut t.resource_leases, (ns, kind, id, lease), ())?;
        Ok(())
    }

    fn unlink(&mut self, ns: &Namespace, lease: &str, kind: &str, id: &str) -> Done<()> {
        self.remove(|t| &mut t.lease_resources, (ns.as_str(), lease, kind, id))?;
        self.remove(|t| &mut t.resource_leases, (ns.as_str(), kind, id, lease))?;
        Ok(())
    }
}

/// Checks a resource as a client names it.
fn validate(resource: &LeaseResource) -> Result<(), Refusal> {
    let LeaseResource { kind, id } = resource;
    match kind.split_once('/') {
        None if kind == "content" => {
            Digest::new(id).map_err(|e| Refusal::invalid(format!("invalid content resource id {id}: {}", e.detail)))?;
        }
        None if kind == "ingests" || kind == "images" => {}
        Some(("snapshots", name)) => {
            SnapshotterName::new(name)
                .map_err(|e| Refusal::invalid(format!("invalid snapshot resource type {kind}: {}", e.detail)))?;
        }
        None if kind == "snapshots" => {
            return Err(Refusal::invalid(format!("invalid snapshot resource type {kind}")));
        }
        Some(("content" | "ingests" | "images", _)) => {
            return Err(Refusal::invalid(format!("invalid resource type {kind}")));
        }
        _ => return Err(Refusal::not_implemented(format!("resource type {kind} not supported yet"))),
    }
    if id.is_empty() || id.len() > wharf_messages::id::NAME_MAX_BYTES || id.chars().any(char::is_control) {
        return Err(Refusal::invalid(format!("invalid resource id {id:?} of type {kind}")));
    }
    Ok(())
}
