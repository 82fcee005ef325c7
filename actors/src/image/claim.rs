//! What protects content and snapshots while a pull or an import is under way. Garbage collection knows no jobs, only
//! leases: everything that a job makes or finds is added to its caller's lease, or to one of its own that ends with it.
//!
//! CLAIM-1. A lease of a job's own ends in the commit that names what it protected, or when the job is dropped; what a
//! dead daemon left is ended by the next one.

use crate::{journal::Journal, names, runtime::blocking};
use wharf_messages::{Answer, Labels, LeaseId, Meta, Namespace, RefusalKind, lease::CreateLease};
use wharf_store::{Change, Commit, Committed, Store};

/// Marks the leases of jobs.
const JOB_LABEL: &str = "wharf.io/job";

/// A job's right to keep what it has.
pub struct Claim {
    journal: Journal,
    namespace: Namespace,
    meta: Meta,
    /// The lease, if it is the job's own.
    own: Option<LeaseId>,
}

impl Claim {
    /// Takes it; `job` is for people who look at leases.
    ///
    /// # Errors
    /// What the journal says: a daemon that cannot write begins nothing.
    pub async fn take(journal: &Journal, meta: Meta, job: &str) -> Answer<Self> {
        let (journal, namespace) = (journal.clone(), meta.namespace()?.clone());
        // The steps of the job are not its request: that is done with the last of them.
        let meta = Meta { request_id: 0, ..meta };
        let mut claim = Self { journal, namespace, meta, own: None };
        if claim.meta.lease.is_none() {
            let id = LeaseId::new(format!("{job}-{}", names::random()))?;
            let labels = Labels::from([(JOB_LABEL.to_owned(), job.to_owned())]);
            let lease = Change::CreateLease(CreateLease { id: Some(id.clone()), labels });
            // Before it is there: a claim that is dropped or lost in the middle is given back all the same.
            claim.own = Some(id.clone());
            claim.journal.commit(Commit::one(&claim.namespace, lease)).await?;
            wharf_failpoints::try_failpoint!("claim/taken");
            claim.meta.lease = Some(id);
        }
        Ok(claim)
    }

    /// The call, with the lease in it.
    pub fn meta(&self) -> &Meta {
        &self.meta
    }

    /// Commits what ends the job, and the claim with it.
    ///
    /// # Errors
    /// As the journal's.
    pub async fn conclude(&mut self, commit: Commit) -> Answer<Committed> {
        let commit = match &self.own {
            Some(own) => commit.change(Change::DeleteLease(own.clone())),
            None => commit.leased(self.meta.lease.clone()),
        };
        wharf_failpoints::try_failpoint!("claim/conclude");
        let committed = self.journal.commit(commit).await?;
        wharf_failpoints::failpoint!("claim/concluded");
        self.own = None;
        Ok(committed)
    }

    /// Ends the claim now if the job has failed, and answers as the job: what it has made may be collected from then on.
    pub async fn settled<T>(&mut self, done: Answer<T>) -> Answer<T> {
        if done.is_err()
            && let Some(own) = self.own.take()
        {
            end(&self.journal, &self.namespace, own).await;
        }
        done
    }
}

/// Deletes a job's lease.
async fn end(journal: &Journal, namespace: &Namespace, own: LeaseId) {
    let commit = Commit::one(namespace, Change::DeleteLease(own.clone()));
    if let Err(refusal) = journal.commit(commit).await
        && !refusal.is(RefusalKind::NotFound)
    {
        tracing::warn!(lease = %own, %refusal, "the lease of a job that failed stays until the next start");
    }
}

impl Drop for Claim {
    fn drop(&mut self) {
        let Some(own) = self.own.take() else { return };
        let (journal, namespace) = (self.journal.clone(), self.namespace.clone());
        // Without a runtime the daemon is ending, and the next one does it.
        let Ok(runtime) = tokio::runtime::Handle::try_current() else { return };
        runtime.spawn(async move { end(&journal, &namespace, own).await });
    }
}

/// Ends the leases of jobs of an earlier run.
///
/// # Errors
/// What reading and writing the store says.
pub async fn sweep(store: &Store, journal: &Journal) -> Answer<()> {
    let store = store.clone();
    let left = blocking("look for leases of jobs", move || {
        let reader = store.read()?;
        let mut left = Vec::new();
        for namespace in reader.namespaces()? {
            let namespace = namespace?.name;
            for lease in reader.leases(&namespace)? {
                let lease = lease?;
                if lease.labels.contains_key(JOB_LABEL) {
                    left.push((namespace.clone(), lease.id));
                }
            }
        }
        Ok(left)
    })
    .await?;
    for (namespace, lease) in left {
        journal.commit(Commit::one(&namespace, Change::DeleteLease(lease))).await?;
    }
    Ok(())
}
