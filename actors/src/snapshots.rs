//! Snapshots: routes each command to its snapshot's actor, and knows the snapshotters.
//!
//! - Parent root; permanent; children [`SnapshotActor`] by (namespace, snapshotter, key), transient, passivated when idle.
//! - Handles `snapshots.prepare|view|commit|remove|update` by routing, `snapshots.cleanup` itself; queries are reads.
//! - Jobs: the sweep at the start, before the first message: folders without a row go (a crash between folder and row
//!   leaves them); emptying the trash.
//!
//! Invariants:
//! - **SNAPSHOTS-1** A folder is made before the row that names it and moved away after the row is gone; so whatever
//!   has no row, and is not being made right now, may go.

use crate::{
    Wharf,
    drivers::{
        shim::ShimLauncher,
        snapshotter::{Placement, Snapshotter, backend_labels},
    },
    journal::Journal,
    root::Fixed,
    runtime::{Actor, Ask, ChildSpec, Ctx, Handler, Plural, Pool, Router, Supervised, blocking},
    snapshot::SnapshotActor,
};
use std::{
    collections::{BTreeMap, HashSet},
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
};
use wharf_messages::{
    Answer, Meta, Mount, Namespace, Refusal, SnapshotKey, SnapshotterName,
    gc::Resource,
    namespace::DEFAULT_SNAPSHOTTER_LABEL,
    snapshot::{
        CleanupSnapshots, CommitSnapshot, PrepareSnapshot, RemoveSnapshot, SnapshotKind, UpdateSnapshot, ViewSnapshot,
    },
};
use wharf_store::{Reader, SnapshotRow, Store, refuse};

/// The snapshotters there are, by name; cheap to clone.
#[derive(Clone)]
pub struct Snapshotters(Arc<Inner>);

struct Inner {
    backends: BTreeMap<SnapshotterName, Arc<dyn Snapshotter>>,
    default: SnapshotterName,
    /// The number of the next folder.
    next_id: AtomicU64,
    /// Numbers whose folder is being made and whose row is not committed yet: the sweep leaves them.
    in_making: Mutex<HashSet<u64>>,
}

/// A number for a new folder, kept from the sweep until it is dropped.
pub struct NewId {
    snapshotters: Snapshotters,
    /// The number.
    pub id: u64,
}

impl Drop for NewId {
    fn drop(&mut self) {
        self.snapshotters.in_making().remove(&self.id);
    }
}

impl Snapshotters {
    /// These backends; `default` must be one of them.
    ///
    /// # Errors
    /// `InvalidArgument` if it is not, and what reading the store says.
    pub fn new(backends: Vec<Arc<dyn Snapshotter>>, default: &str, store: &Store) -> Answer<Self> {
        let backends = backends
            .into_iter()
            .map(|backend| Ok((SnapshotterName::new(backend.name())?, backend)))
            .collect::<Answer<BTreeMap<_, _>>>()?;
        let default = SnapshotterName::new(default)?;
        if !backends.contains_key(&default) {
            return Err(unknown(&default));
        }
        let reader = store.read()?;
        let mut last = 0;
        for name in backends.keys() {
            last = last.max(reader.max_snapshot_id(name)?);
        }
        let next_id = AtomicU64::new(last + 1);
        Ok(Self(Arc::new(Inner { backends, default, next_id, in_making: Mutex::default() })))
    }

    /// The names there are.
    pub fn names(&self) -> impl Iterator<Item = &SnapshotterName> {
        self.0.backends.keys()
    }

    /// The backends there are.
    pub fn backends(&self) -> impl Iterator<Item = &Arc<dyn Snapshotter>> {
        self.0.backends.values()
    }

    /// One backend.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown one.
    pub fn backend(&self, name: &SnapshotterName) -> Answer<&Arc<dyn Snapshotter>> {
        self.0.backends.get(name).ok_or_else(|| unknown(name))
    }

    /// The snapshotter that a call means: the one it names, the namespace's default, or the daemon's.
    ///
    /// # Errors
    /// `InvalidArgument` for an unknown one, and what reading the store says.
    pub fn resolve(
        &self,
        reader: &Reader,
        namespace: &Namespace,
        named: Option<&SnapshotterName>,
    ) -> Answer<SnapshotterName> {
        let name = match named {
            Some(name) => name.clone(),
            None => {
                match reader.namespace(namespace)?.and_then(|row| row.labels.get(DEFAULT_SNAPSHOTTER_LABEL).cloned()) {
                    Some(label) => SnapshotterName::new(label)?,
                    None => self.0.default.clone(),
                }
            }
        };
        if self.backend(&name)?.is_served() {
            return Err(Refusal::invalid(format!("snapshotter {name} serves another daemon")));
        }
        Ok(name)
    }

    /// Where the row is that a call about a snapshot means: in its own namespace, or, of a snapshotter that serves
    /// another daemon, in the one of the snapshotter's name. That daemon's calls come with whatever namespace its own
    /// clients work in, and with none when it collects garbage.
    ///
    /// # Errors
    /// As [`Self::resolve`].
    pub fn place(
        &self,
        reader: &Reader,
        meta: &Meta,
        named: Option<&SnapshotterName>,
    ) -> Answer<(Namespace, SnapshotterName)> {
        match named {
            Some(name) if self.backend(name)?.is_served() => Ok((Namespace::new(name.as_str())?, name.clone())),
            _ => {
                let namespace = meta.namespace()?.clone();
                let name = self.resolve(reader, &namespace, named)?;
                Ok((namespace, name))
            }
        }
    }

    /// Every snapshot that another daemon's metadata refers to, and none of ours can: garbage collection must leave it.
    ///
    /// # Errors
    /// What reading the store says.
    pub fn owned_elsewhere(&self, reader: &Reader) -> Answer<Vec<(Namespace, Resource)>> {
        let mut owned = Vec::new();
        for (name, _) in self.0.backends.iter().filter(|(_, backend)| backend.is_served()) {
            let namespace = Namespace::new(name.as_str())?;
            for row in reader.snapshots(&namespace, name)? {
                owned.push((namespace.clone(), Resource::Snapshot(name.clone(), row?.info.key)));
            }
        }
        Ok(owned)
    }

    /// How to mount an active snapshot or a view.
    ///
    /// # Errors
    /// `NotFound`, `FailedPrecondition` for a committed one, and what the backend says.
    pub fn mounts(
        &self,
        reader: &Reader,
        namespace: &Namespace,
        snapshotter: &SnapshotterName,
        key: &SnapshotKey,
    ) -> Answer<Vec<Mount>> {
        let row = find(reader, namespace, snapshotter, key)?;
        if row.info.kind == SnapshotKind::Committed {
            return Err(refuse::no_mounts(key));
        }
        let ancestors = reader.ancestors(snapshotter, &row)?;
        let labels = backend_labels(&row.info.labels);
        let place = Placement::new(row.id, row.info.kind, &ancestors);
        self.backend(snapshotter)?.mounts(&Placement { namespace: namespace.as_str(), labels: &labels, ..place })
    }

    /// Moves a removed snapshot's folder away.
    ///
    /// # Errors
    /// What the backend says; the sweep at the next start gets what is left.
    pub fn discard(&self, snapshotter: &SnapshotterName, row: &SnapshotRow) -> Answer<()> {
        self.backend(snapshotter)?.remove(row.id)
    }

    /// A number for a new folder.
    #[must_use]
    pub fn new_id(&self) -> NewId {
        let id = self.0.next_id.fetch_add(1, Ordering::Relaxed);
        self.in_making().insert(id);
        NewId { snapshotters: self.clone(), id }
    }

    fn in_making(&self) -> std::sync::MutexGuard<'_, HashSet<u64>> {
        // A set of numbers is whole at any moment, also after a panic beside it.
        self.0.in_making.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Removes the folders that no row names (SNAPSHOTS-1).
    ///
    /// # Errors
    /// What the store and the backends say.
    pub(crate) fn sweep(&self, store: &Store) -> Answer<()> {
        let mut first = Ok(());
        for (name, backend) in &self.0.backends {
            // The numbers in making are read first: one that finishes in between has its row by then.
            let in_making = self.in_making().clone();
            let known = store.read()?.snapshot_ids(name)?.collect::<Answer<HashSet<u64>>>()?;
            match backend.sweep(&|id| known.contains(&id) || in_making.contains(&id)) {
                Ok(swept) if swept.is_empty() => {}
                Ok(swept) => {
                    tracing::info!(snapshotter = %name, folders = swept.len(), "removed folders that no snapshot names");
                }
                // One that fails, another daemon's that is away, must not keep the rest.
                Err(refusal) => first = first.and(Err(refusal)),
            }
        }
        first
    }
}

impl fmt::Debug for Snapshotters {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.names()).finish()
    }
}

fn unknown(name: &SnapshotterName) -> Refusal {
    Refusal::invalid(format!("snapshotter not loaded: {name}"))
}

/// A snapshot's row.
///
/// # Errors
/// `NotFound`, and what reading the store says.
pub fn find(
    reader: &Reader,
    namespace: &Namespace,
    snapshotter: &SnapshotterName,
    key: &SnapshotKey,
) -> Answer<SnapshotRow> {
    reader.snapshot(namespace, snapshotter, key)?.ok_or_else(|| refuse::no_snapshot(key))
}

/// What snapshots need from the rest of the system.
pub struct SnapshotDeps {
    /// For reading rows.
    pub store: Store,
    /// For changing them.
    pub journal: Journal,
    /// The backends.
    pub snapshotters: Snapshotters,
    /// For measuring, copying and deleting trees.
    pub pool: Pool,
    /// Told of containers' roots, for their tasks.
    pub shims: Arc<dyn ShimLauncher>,
}

/// Names one snapshot.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct SnapshotPath {
    /// Where.
    pub namespace: Namespace,
    /// Whose.
    pub snapshotter: SnapshotterName,
    /// Its key.
    pub key: SnapshotKey,
}

impl fmt::Display for SnapshotPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}/{}", self.namespace, self.snapshotter, self.key)
    }
}

/// The actor.
pub struct Snapshots {
    deps: Arc<SnapshotDeps>,
    router: Router<Self>,
}

impl Snapshots {
    /// Without children yet.
    #[must_use]
    pub fn new(deps: Arc<SnapshotDeps>) -> Self {
        Self { deps, router: Router::default() }
    }

    fn path(&self, meta: &Meta, named: Option<&SnapshotterName>, key: &SnapshotKey) -> Answer<SnapshotPath> {
        let (namespace, snapshotter) = self.deps.snapshotters.place(&self.deps.store.read()?, meta, named)?;
        Ok(SnapshotPath { namespace, snapshotter, key: key.clone() })
    }
}

impl Actor for Snapshots {
    type Context = Ctx<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        let deps = Arc::clone(&self.deps);
        let sweep = blocking("sweep snapshots", move || deps.snapshotters.sweep(&deps.store));
        ctx.exclusive(sweep, |_, swept, _| {
            if let Err(refusal) = swept {
                // Left-over folders take space and harm nobody; the next start tries again.
                tracing::warn!(%refusal, "snapshot folders could not be swept");
            }
        });
    }
}

impl Supervised for Snapshots {
    fn restarting(&mut self, _: &mut Self::Context) {
        *self = Self::new(Arc::clone(&self.deps));
    }
}

impl Plural for Snapshots {
    type Key = SnapshotPath;
    type Child = SnapshotActor;
    const CHILD: &'static ChildSpec = &ChildSpec::transient("snapshot");

    fn router(&mut self) -> &mut Router<Self> {
        &mut self.router
    }

    fn child(&mut self, key: &Self::Key) -> SnapshotActor {
        SnapshotActor::new(Arc::clone(&self.deps), key.clone())
    }
}

crate::route!(Snapshots: |this, meta, call| this.path(meta, call.snapshotter.as_ref(), &call.key);
    PrepareSnapshot, ViewSnapshot, CommitSnapshot, RemoveSnapshot, UpdateSnapshot);

impl Handler<Ask<CleanupSnapshots>> for Snapshots {
    type Result = ();

    fn handle(&mut self, ask: Ask<CleanupSnapshots>, ctx: &mut Ctx<Self>) {
        let Ask { meta, call, reply } = ask;
        let deps = Arc::clone(&self.deps);
        let work = async move {
            let pool = deps.pool.clone();
            pool.run("empty the trash", move || {
                let reader = deps.store.read()?;
                let (_, name) = deps.snapshotters.place(&reader, &meta, call.snapshotter.as_ref())?;
                deps.snapshotters.backend(&name)?.empty_trash()
            })
            .await
        };
        ctx.job("clean up snapshots", |_| work, move |_, end, _| reply.send(end));
    }
}

impl Fixed for Snapshots {
    const SPEC: &'static ChildSpec = &ChildSpec::permanent("snapshots");
    const CHILD: Option<&'static ChildSpec> = Some(<Self as Plural>::CHILD);

    fn new(wharf: &Wharf) -> Self {
        Self::new(Arc::new(SnapshotDeps {
            store: wharf.store.clone(),
            journal: wharf.journal.clone(),
            snapshotters: wharf.drivers.snapshotters.clone(),
            pool: wharf.pool.clone(),
            shims: Arc::clone(&wharf.drivers.shims),
        }))
    }
}
