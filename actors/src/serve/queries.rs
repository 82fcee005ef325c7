//! Calls that only read: each gets a moment of the store on a blocking thread and no actor waits for it.

use super::{CallIo, Serve};
use crate::{
    Wharf,
    image::resolve::resolve,
    image_graph,
    runtime::{Scoped, blocking},
    snapshots::find,
    task::{ReadFigures, machine::no_process},
};
use futures_util::future::join_all;
use std::collections::BTreeMap;
use wharf_messages::{
    Answer, Descriptor, Digest, Labels, Meta, Namespace, Platform, Refusal, SnapshotKey, Stored,
    container::{GetContainer, ListContainers},
    content::{GetContent, GetIngest, IngestStatus, ListContent, ListIngests},
    descriptor::media_type,
    filter::{Fields, Filters},
    health::{GetHealth, ListHealth},
    image::{GetImage, Image, ImageSummary, ListImages, ResolveImage, ResolvedImage, SummarizeImages},
    lease::{ListLeaseResources, ListLeases},
    namespace::{GetNamespace, ListNamespaces, NamespaceRecord},
    restart::{GetRestart, Policy},
    snapshot::{GetSnapshotMounts, GetSnapshotUsage, ListSnapshots, SnapshotKind, StatSnapshot, Usage},
    system::{DaemonInfo, GetDaemonInfo, ListPlugins, PluginInfo, SetLogLevel},
    task::{GetMetrics, GetTask, ListTasks, TaskMetrics, TaskStatus},
};
use wharf_store::{IngestRow, Reader, Rows, refuse};

/// Reads with `$read(call, wharf, meta, reader)`: what may look at many rows on a blocking thread, what looks for one
/// where it is asked. A look touches a few pages, which are in memory but for the first time; a client that makes a
/// thousand of them would wait for the way to another thread and back longer than for the answers.
macro_rules! to_store {
    ($($how:ident $call:ty => |$this:ident, $wharf:ident, $meta:ident, $reader:ident| $read:expr;)+) => {$(
        impl Serve for $call {
            async fn serve(self, wharf: Wharf, meta: Meta, _: CallIo<()>) -> Answer<Self::Reply> {
                let read = move || {
                    #[allow(unused_variables, reason = "not every query needs all of them")]
                    let ($this, $wharf, $meta, $reader) = (self, &wharf, &meta, wharf.store.read()?);
                    $read
                };
                to_store!(@ $how $call, read)
            }
        }
    )+};
    (@ look $call:ty, $read:ident) => { $read() };
    (@ scan $call:ty, $read:ident) => { blocking(<$call as wharf_messages::Call>::NAME, $read).await };
}

/// The rows that the filters let through.
fn filtered<T: Fields>(rows: Rows<T>, filters: &[String]) -> Answer<Vec<T>> {
    let filters = Filters::parse(filters)?;
    rows.filter(|row| row.as_ref().map_or(true, |row| filters.matches(row))).collect()
}

to_store! {
    look GetNamespace => |call, wharf, meta, reader| {
        // An unknown one answers with no labels, as in containerd: it would be made by its first use.
        Ok(reader.namespace(&call.name)?.unwrap_or(NamespaceRecord { name: call.name, labels: BTreeMap::new() }))
    };
    scan ListNamespaces => |call, wharf, meta, reader| filtered(reader.namespaces()?, &call.filters);

    look GetImage => |call, wharf, meta, reader| image(&reader, meta.namespace()?, &call.name);
    scan ListImages => |call, wharf, meta, reader| filtered(reader.images(meta.namespace()?)?, &call.filters);
    scan SummarizeImages => |call, wharf, meta, reader| {
        let namespace = meta.namespace()?;
        let images = filtered(reader.images(namespace)?, &call.filters)?;
        let mut graphs = Graphs { wharf, reader: &reader, namespace, known: BTreeMap::new() };
        images.into_iter().map(|image| graphs.summary(image)).collect()
    };
    scan ResolveImage => |call, wharf, meta, reader| resolve_image(wharf, &reader, meta.namespace()?, &call);

    look GetContent => |call, wharf, meta, reader| {
        reader.content(meta.namespace()?, &call.digest)?.ok_or_else(|| refuse::no_content(&call.digest))
    };
    scan ListContent => |call, wharf, meta, reader| filtered(reader.contents(meta.namespace()?)?, &call.filters);
    scan GetIngest => |call, wharf, meta, reader| {
        let row = reader.ingest(meta.namespace()?, &call.reference)?;
        status(wharf, row.ok_or_else(|| refuse::no_ingest(&call.reference))?)
    };
    scan ListIngests => |call, wharf, meta, reader| {
        let filters = Filters::parse(&call.filters)?;
        let statuses = reader.ingests(meta.namespace()?)?.map(|row| status(wharf, row?));
        statuses.filter(|status| status.as_ref().map_or(true, |status| filters.matches(status))).collect()
    };

    // Another daemon may have to be asked.
    scan GetSnapshotMounts => |call, wharf, meta, reader| {
        let snapshotters = &wharf.drivers.snapshotters;
        let (namespace, name) = snapshotters.place(&reader, meta, call.snapshotter.as_ref())?;
        snapshotters.mounts(&reader, &namespace, &name, &call.key)
    };
    look StatSnapshot => |call, wharf, meta, reader| {
        let (namespace, name) = wharf.drivers.snapshotters.place(&reader, meta, call.snapshotter.as_ref())?;
        find(&reader, &namespace, &name, &call.key).map(|row| row.info)
    };
    scan ListSnapshots => |call, wharf, meta, reader| {
        let (namespace, name) = wharf.drivers.snapshotters.place(&reader, meta, call.snapshotter.as_ref())?;
        let rows = reader.snapshots(&namespace, &name)?.map(|row| row.map(|row| row.info));
        filtered(Box::new(rows), &call.filters)
    };
    scan GetSnapshotUsage => |call, wharf, meta, reader| {
        let snapshotters = &wharf.drivers.snapshotters;
        let (namespace, name) = snapshotters.place(&reader, meta, call.snapshotter.as_ref())?;
        let row = find(&reader, &namespace, &name, &call.key)?;
        match row.usage {
            Some(usage) => Ok(usage),
            // Nothing can be written into one.
            None if row.info.kind == SnapshotKind::View => Ok(Usage::default()),
            None => snapshotters.backend(&name)?.usage(row.id),
        }
    };

    look GetContainer => |call, wharf, meta, reader| {
        let namespace = meta.namespace()?;
        reader.container(namespace, &call.id)?.ok_or_else(|| refuse::no_container(namespace, &call.id))
    };
    scan ListContainers => |call, wharf, meta, reader| {
        let filters = Filters::parse(&call.filters)?;
        let rows = reader.containers_in_place(meta.namespace()?)?;
        if filters.is_empty() {
            return rows.collect();
        }
        let matched = |row: Answer<Stored<_>>| row.and_then(|row| Ok(filters.matches(&row.get()?).then_some(row))).transpose();
        rows.filter_map(matched).collect()
    };

    look GetTask => |call, wharf, meta, reader| {
        let row = reader.task(meta.namespace()?, &call.container_id)?;
        let row = row.ok_or_else(|| refuse::no_task(&call.container_id))?;
        let process = row.process(call.exec_id.as_ref()).ok_or_else(|| match &call.exec_id {
            None => refuse::no_task(&call.container_id),
            Some(exec) => no_process(exec),
        });
        let mut process = process?.to_process(&call.container_id);
        if row.init.status == TaskStatus::Paused {
            // With the task all that is in it is frozen, whatever it was doing.
            process.status = TaskStatus::Paused;
        }
        Ok(process)
    };
    scan ListTasks => |call, wharf, meta, reader| {
        let rows = reader.tasks(meta.namespace()?)?.map(|row| row.map(|row| row.init.to_process(&row.container_id)));
        filtered(Box::new(rows), &call.filters)
    };

    look GetRestart => |call, wharf, meta, reader| {
        let (namespace, id) = (meta.namespace()?, &call.container_id);
        reader.container(namespace, id)?.ok_or_else(|| refuse::no_container(namespace, id))?;
        reader.restart(namespace, id)
    };
    look GetHealth => |call, wharf, meta, reader| {
        let (namespace, id) = (meta.namespace()?, &call.container_id);
        reader.container(namespace, id)?.ok_or_else(|| refuse::no_container(namespace, id))?;
        reader.health(namespace, id)
    };
    scan ListHealth => |call, wharf, meta, reader| reader.healths(meta.namespace()?)?.collect();

    scan ListLeases => |call, wharf, meta, reader| filtered(reader.leases(meta.namespace()?)?, &call.filters);
    scan ListLeaseResources => |call, wharf, meta, reader| {
        let namespace = meta.namespace()?;
        reader.lease(namespace, &call.id)?.ok_or_else(|| refuse::no_lease(&call.id))?;
        reader.lease_resources(namespace, &call.id)?.collect()
    };

    look GetDaemonInfo => |call, wharf, meta, reader| Ok(DaemonInfo {
        version: env!("CARGO_PKG_VERSION").to_owned(),
        revision: wharf.config.revision.to_owned(),
        uuid: wharf.store.uuid().to_owned(),
        pid: wharf.drivers.pid,
        started_at: wharf.started_at,
        root: wharf.config.root.to_string_lossy().into_owned(),
        state: wharf.config.state.to_string_lossy().into_owned(),
    });
    look ListPlugins => |call, wharf, meta, reader| {
        let filters = Filters::parse(&call.filters)?;
        Ok(plugins(wharf).into_iter().filter(|plugin| filters.matches(plugin)).collect())
    };
}

fn image(reader: &Reader, namespace: &Namespace, name: &wharf_messages::ImageName) -> Answer<Image> {
    reader.image(namespace, name)?.ok_or_else(|| refuse::no_image(name))
}

/// An ingest with what its file says.
fn status(wharf: &Wharf, row: IngestRow) -> Answer<IngestStatus> {
    let (offset, updated) = wharf.store.blobs().ingest_status(&row.file_id)?.unwrap_or((0, row.updated_at));
    Ok(row.to_status(offset, updated))
}

/// What images are made of; each blob is read once, however many images share it.
struct Graphs<'a> {
    wharf: &'a Wharf,
    reader: &'a Reader,
    namespace: &'a Namespace,
    known: BTreeMap<Digest, Option<Vec<Descriptor>>>,
}

impl Graphs<'_> {
    /// What a blob points to; none if it is not here.
    fn children(&mut self, of: &Descriptor) -> Answer<Option<Vec<Descriptor>>> {
        if let Some(known) = self.known.get(&of.digest) {
            return Ok(known.clone());
        }
        let here = self.reader.content(self.namespace, &of.digest)?.is_some();
        let leads = media_type::is_index(&of.media_type) || media_type::is_manifest(&of.media_type);
        let children = match (here, leads) {
            (false, _) => None,
            (true, false) => Some(Vec::new()),
            (true, true) => {
                let bytes = self.wharf.store.blobs().read_all(&of.digest, image_graph::DOCUMENT_MAX_BYTES as u64)?;
                // A name may point to anything; what cannot be read as a manifest has no children.
                Some(image_graph::children(of, &bytes).unwrap_or_default())
            }
        };
        self.known.insert(of.digest.clone(), children.clone());
        Ok(children)
    }

    fn platform(&self, config: &Descriptor) -> Option<Platform> {
        let bytes = self.wharf.store.blobs().read_all(&config.digest, image_graph::DOCUMENT_MAX_BYTES as u64).ok()?;
        image_graph::ImageConfig::parse(config, &bytes).ok().map(|config| config.platform)
    }

    fn summary(&mut self, image: Image) -> Answer<ImageSummary> {
        let (mut sizes, mut platforms, mut missing) = (BTreeMap::new(), Vec::new(), Vec::new());
        let mut to_visit = vec![(image.target.clone(), 0)];
        while let Some((blob, depth)) = to_visit.pop() {
            let Some(children) = self.children(&blob)? else {
                // An index lists platforms that nobody asked for: what counts as missing is what a manifest here needs.
                if depth == 0 || !media_type::is_manifest(&blob.media_type) {
                    missing.push(blob.digest);
                }
                continue;
            };
            if media_type::is_config(&blob.media_type)
                && let Some(platform) = self.platform(&blob)
                && !platforms.contains(&platform)
            {
                platforms.push(platform);
            }
            sizes.insert(blob.digest, blob.size_bytes);
            if depth < image_graph::DEPTH_MAX {
                to_visit.extend(children.into_iter().map(|child| (child, depth + 1)));
            }
        }
        platforms.sort();
        Ok(ImageSummary { image, size_bytes: sizes.values().sum(), platforms, missing })
    }
}

fn resolve_image(wharf: &Wharf, reader: &Reader, namespace: &Namespace, call: &ResolveImage) -> Answer<ResolvedImage> {
    let image = image(reader, namespace, &call.name)?;
    let resolved = resolve(&wharf.store, reader, namespace, &image.target, call.platform.as_ref())
        .map_err(|refusal| refusal.context(format!("image {}", call.name)))?;
    let chain_id = resolved.chain_id()?;
    let snapshotter = wharf.drivers.snapshotters.resolve(reader, namespace, call.snapshotter.as_ref())?;
    let unpacked = reader.snapshot(namespace, &snapshotter, &SnapshotKey::new(chain_id.as_str())?)?.is_some();
    Ok(ResolvedImage {
        image,
        manifest: resolved.manifest,
        config: resolved.config,
        config_json: resolved.config_json,
        layers: resolved.layers,
        diff_ids: resolved.diff_ids,
        chain_id,
        unpacked,
    })
}

/// The services of containerd's API that the daemon serves, by the ids that containerd's plugins have.
pub const SERVICES: &[&str] = &[
    "containers",
    "content",
    "diff",
    "events",
    "healthcheck",
    "images",
    "introspection",
    "leases",
    "namespaces",
    "snapshots",
    "tasks",
    "version",
];

/// The parts of the daemon as containerd's introspection names them: only what is there.
fn plugins(wharf: &Wharf) -> Vec<PluginInfo> {
    let host = Platform::host().to_string();
    let plugin = |kind: &str, id: &str, platforms: &[&str]| PluginInfo {
        kind: format!("io.containerd.{kind}"),
        id: id.to_owned(),
        platforms: platforms.iter().map(|p| (*p).to_owned()).collect(),
        exports: Labels::new(),
        capabilities: Vec::new(),
        problem: None,
    };
    let root = |folder: &str| {
        let path = wharf.config.root.join(folder).to_string_lossy().into_owned();
        Labels::from([("root".to_owned(), path)])
    };
    let mut plugins = vec![
        PluginInfo { exports: root("content"), ..plugin("content.v1", "content", &[]) },
        plugin("metadata.v1", "redb", &[]),
        plugin("differ.v1", "walking", &[&host]),
        plugin("event.v1", "exchange", &[]),
        plugin("gc.v1", "scheduler", &[]),
        plugin("lease.v1", "manager", &[]),
        plugin("runtime.v2", "task", &[&host]),
    ];
    let path = wharf.config.opt.to_string_lossy().into_owned();
    plugins
        .push(PluginInfo { exports: Labels::from([("path".to_owned(), path)]), ..plugin("internal.v1", "opt", &[]) });
    plugins.extend(SERVICES.iter().map(|id| plugin("grpc.v1", id, &[])));
    // Clients look for a policy among these before they set it.
    let capabilities = Policy::NAMES.map(str::to_owned).to_vec();
    plugins.push(PluginInfo { capabilities, ..plugin("internal.v1", "restart", &[]) });
    plugins.extend(wharf.drivers.snapshotters.names().map(|name| {
        let exports = root(&format!("snapshotters/{name}"));
        PluginInfo { exports, ..plugin("snapshotter.v1", name.as_str(), &[&host]) }
    }));
    plugins
}

impl Serve for SetLogLevel {
    async fn serve(self, wharf: Wharf, _: Meta, _: CallIo<()>) -> Answer<String> {
        match &wharf.config.log_control {
            Some(control) => (control.0)(&self.level),
            None => Err(Refusal::not_implemented("what is logged cannot be changed here")),
        }
    }
}

impl Serve for GetMetrics {
    async fn serve(self, wharf: Wharf, meta: Meta, _: CallIo<()>) -> Answer<Vec<TaskMetrics>> {
        // Other than by lists a malformed filter is refused without a code of its own, as by containerd.
        let filters = Filters::parse(&self.filters).map_err(|refusal| Refusal::unknown(refusal.to_string()))?;
        let namespace = meta.namespace()?.clone();
        let (store, clock) = (wharf.store.clone(), wharf.clock.clone());
        let tasks = blocking("list tasks", move || {
            let rows = store.read()?.tasks(&namespace)?;
            rows.map(|row| Ok(Scoped { namespace: namespace.clone(), id: row?.container_id }))
                .collect::<Answer<Vec<_>>>()
        })
        .await?;
        let asked = tasks.into_iter().filter_map(|task| {
            let empty = wharf_messages::Any::default();
            let probe = TaskMetrics { container_id: task.id.clone(), at: clock.now(), data: empty };
            filters.matches(&probe).then(|| {
                let figures = wharf.actors.tasks.ask(meta.clone(), ReadFigures { container_id: task.id });
                async move { figures.await.map(|data| TaskMetrics { data, ..probe }) }
            })
        });
        // One that comes or goes while it is asked has none: the others' figures are the answer.
        let answered = join_all(asked).await.into_iter().filter_map(|figures| match figures {
            Ok(figures) => Some(figures),
            Err(refusal) => {
                tracing::debug!(%refusal, "a task has no figures");
                None
            }
        });
        Ok(answered.collect())
    }
}
