//! Namespaces and leases: small records whose every command is one commit.
//!
//! - Parent root; permanent; mailbox 1,024; one actor for all of them: they change rarely and have nothing going on.
//! - Handles `namespaces.create|update|delete`, `leases.create|delete|add|remove` -> record |
//!   refusals of the commit -> `Namespace*`, `Lease*`.
//! - No jobs; a restart reads nothing back.
//!
//! # Spec
//! API reference, section 3 "Namespaces" and "Leases".

use crate::{
    Wharf,
    commit::answer_after_commit,
    journal::Journal,
    root::Fixed,
    runtime::{Actor, Ask, ChildSpec, Ctx, Handler, Supervised},
};
use wharf_messages::{
    LeaseId,
    lease::{AddLeaseResource, CreateLease, DeleteLease, DeleteLeaseResource},
    namespace::{CreateNamespace, DeleteNamespace, UpdateNamespace},
};
use wharf_store::{Change, Commit, Committed};

/// The actor.
pub struct Namespaces {
    journal: Journal,
}

impl Namespaces {
    /// Over the journal.
    #[must_use]
    pub fn new(journal: Journal) -> Self {
        Self { journal }
    }
}

impl Actor for Namespaces {
    type Context = Ctx<Self>;
}

impl Supervised for Namespaces {}

impl Handler<Ask<CreateNamespace>> for Namespaces {
    type Result = ();

    fn handle(&mut self, ask: Ask<CreateNamespace>, ctx: &mut Ctx<Self>) {
        let commit =
            Commit::one(&ask.call.name.clone(), Change::CreateNamespace(ask.call)).request(ask.meta.request_id);
        answer_after_commit(&self.journal, commit, ask.reply, ctx, Committed::into_namespace);
    }
}

impl Handler<Ask<UpdateNamespace>> for Namespaces {
    type Result = ();

    fn handle(&mut self, ask: Ask<UpdateNamespace>, ctx: &mut Ctx<Self>) {
        let commit =
            Commit::one(&ask.call.name.clone(), Change::UpdateNamespace(ask.call)).request(ask.meta.request_id);
        answer_after_commit(&self.journal, commit, ask.reply, ctx, Committed::into_namespace);
    }
}

impl Handler<Ask<DeleteNamespace>> for Namespaces {
    type Result = ();

    fn handle(&mut self, ask: Ask<DeleteNamespace>, ctx: &mut Ctx<Self>) {
        let commit =
            Commit::one(&ask.call.name.clone(), Change::DeleteNamespace(ask.call.name)).request(ask.meta.request_id);
        answer_after_commit(&self.journal, commit, ask.reply, ctx, |_| Some(()));
    }
}

/// Commits one change of the call's namespace, or answers that there is none.
macro_rules! lease_commands {
    ($($call:ty, |$it:ident| $change:expr, $pick:expr;)*) => {$(
        impl Handler<Ask<$call>> for Namespaces {
            type Result = ();

            fn handle(&mut self, ask: Ask<$call>, ctx: &mut Ctx<Self>) {
                let Ask { meta, call: $it, reply } = ask;
                match meta.namespace() {
                    Ok(namespace) => {
                        let commit = Commit::one(namespace, $change).request(meta.request_id);
                        answer_after_commit(&self.journal, commit, reply, ctx, $pick);
                    }
                    Err(refusal) => reply.send(Err(refusal)),
                }
            }
        }
    )*};
}

lease_commands! {
    DeleteLease, |call| Change::DeleteLease(call.id), |_| Some(());
    AddLeaseResource, |call| Change::AddLeaseResource(call), |_| Some(());
    DeleteLeaseResource, |call| Change::DeleteLeaseResource(call), |_| Some(());
}

impl Handler<Ask<CreateLease>> for Namespaces {
    type Result = ();

    fn handle(&mut self, ask: Ask<CreateLease>, ctx: &mut Ctx<Self>) {
        let Ask { meta, mut call, reply } = ask;
        let prepared = meta.namespace().and_then(|namespace| {
            if call.id.is_none() {
                let name = match meta.request_id {
                    0 => crate::names::random(),
                    request => crate::names::of_request(request),
                };
                call.id = Some(LeaseId::new(name)?);
            }
            Ok(Commit::one(namespace, Change::CreateLease(call)).request(meta.request_id))
        });
        match prepared {
            Ok(commit) => answer_after_commit(&self.journal, commit, reply, ctx, Committed::into_lease),
            Err(refusal) => reply.send(Err(refusal)),
        }
    }
}

impl Fixed for Namespaces {
    const SPEC: &'static ChildSpec = &ChildSpec::permanent("namespaces");

    fn new(wharf: &Wharf) -> Self {
        Self::new(wharf.journal.clone())
    }
}

#[cfg(test)]
mod tests;
