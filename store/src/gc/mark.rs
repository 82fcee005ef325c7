//! The mark: everything of a namespace at one moment, and what leads to it.

use super::{INGEST_KEPT_FOR, InUse};
use crate::reader::Reader;
use std::collections::{HashMap, VecDeque};
use wharf_messages::{
    Answer, Digest, ImageName, IngestRef, Labels, Namespace, SnapshotKey, SnapshotterName, Timestamp,
    gc::{self, FLAT_LABEL, ROOT_LABEL, Reason, Resource, Verdict},
    lease::LeaseResource,
};

/// Where a node is in the graph.
type Index = usize;

/// A thing and what is known of it.
struct Node {
    resource: Resource,
    size_bytes: u64,
    /// What it refers to, as its row says.
    refers: Vec<Resource>,
    /// What a lease on it alone protects besides: a snapshot's parent.
    parent: Option<Resource>,
    /// It protects, or is protected, without what follows by labels.
    flat: bool,
    /// Why it is a root.
    root: Option<Reason>,
    /// Until when it is kept if nothing else keeps it.
    until: Option<Timestamp>,
    /// Its time was over then.
    expired: Option<Timestamp>,
    reached: Option<Reached>,
}

/// How a node was reached.
#[derive(Clone, Copy)]
struct Reached {
    by: Index,
    root: Index,
    /// Only it, not what its labels refer to.
    flat: bool,
}

/// A marked namespace.
pub struct Marked {
    nodes: Vec<Node>,
    index: HashMap<Resource, Index>,
    /// Who is kept when something else is.
    back: HashMap<Resource, Vec<Index>>,
    next_expiry: Option<Timestamp>,
}

impl Reader {
    /// Marks what is kept in a namespace at this moment.
    ///
    /// # Errors
    /// As all reads.
    pub fn mark(&self, namespace: &Namespace, now: Timestamp, in_use: &InUse) -> Answer<Marked> {
        let mut marked = Marked { nodes: Vec::new(), index: HashMap::new(), back: HashMap::new(), next_expiry: None };
        self.read_graph(namespace, now, &mut marked)?;
        for (_, resource) in in_use.iter().filter(|(ns, _)| ns == namespace) {
            if let Some(&node) = marked.index.get(resource) {
                marked.nodes[node].root = Some(Reason::InUse);
            }
        }
        marked.mark(now);
        Ok(marked)
    }

    fn read_graph(&self, namespace: &Namespace, now: Timestamp, marked: &mut Marked) -> Answer<()> {
        for lease in self.leases(namespace)? {
            let lease = lease?;
            let mut refers = Vec::new();
            for resource in self.lease_resources(namespace, &lease.id)? {
                refers.extend(leased(&resource?));
            }
            let node = marked.add(Resource::Lease(lease.id), &Labels::new());
            node.refers = refers;
            node.flat = lease.labels.contains_key(FLAT_LABEL);
            node.live_until(gc::expires_at(&lease.labels), now);
        }
        for image in self.images(namespace)? {
            let image = image?;
            let node = marked.add(Resource::Image(image.name), &image.labels);
            node.refers.push(Resource::Content(image.target.digest));
            node.live_until(gc::expires_at(&image.labels), now);
        }
        for container in self.containers(namespace)? {
            let container = container?;
            let node = marked.add(Resource::Container(container.id), &container.labels);
            node.root = Some(Reason::Itself);
            if let (Some(snapshotter), Some(key)) = (container.snapshotter, container.snapshot_key) {
                node.refers.push(Resource::Snapshot(snapshotter, key));
            }
        }
        for content in self.contents(namespace)? {
            let content = content?;
            let node = marked.add(Resource::Content(content.digest), &content.labels);
            node.size_bytes = content.size_bytes;
        }
        for row in self.all_snapshots(namespace)? {
            let (snapshotter, row) = row?;
            let (info, parent) = (row.info, row.parent_id);
            let node = marked.add(Resource::Snapshot(snapshotter.clone(), info.key), &info.labels);
            node.size_bytes = row.usage.map_or(0, |usage| usage.size_bytes);
            node.parent = info.parent.filter(|_| parent.is_some()).map(|key| Resource::Snapshot(snapshotter, key));
        }
        for ingest in self.ingests(namespace)? {
            let ingest = ingest?;
            let node = marked.add(Resource::Ingest(ingest.reference), &Labels::new());
            node.refers.extend(ingest.expected.map(Resource::Content));
            node.until = Some(ingest.updated_at.plus(INGEST_KEPT_FOR));
        }
        Ok(())
    }
}

/// What a lease's entry names; nothing if that cannot be.
pub(crate) fn leased(resource: &LeaseResource) -> Option<Resource> {
    let id = resource.id.as_str();
    match resource.kind.split_once('/') {
        None if resource.kind == "content" => Digest::new(id).ok().map(Resource::Content),
        None if resource.kind == "ingests" => IngestRef::new(id).ok().map(Resource::Ingest),
        None if resource.kind == "images" => ImageName::new(id).ok().map(Resource::Image),
        Some(("snapshots", name)) => {
            Some(Resource::Snapshot(SnapshotterName::new(name).ok()?, SnapshotKey::new(id).ok()?))
        }
        _ => None,
    }
}

impl Node {
    /// A root until that time, or for ever.
    fn live_until(&mut self, end: Option<Timestamp>, now: Timestamp) {
        match end {
            None => self.root = Some(Reason::Itself),
            Some(end) if end < now => self.expired = Some(end),
            Some(end) => self.root = Some(Reason::Until(end)),
        }
    }
}

impl Marked {
    fn add(&mut self, resource: Resource, labels: &Labels) -> &mut Node {
        let node = self.nodes.len();
        for target in gc::back_references(labels) {
            self.back.entry(target).or_default().push(node);
        }
        self.index.insert(resource.clone(), node);
        // A label makes a root only of what has none of its own to be one.
        let labelled = matches!(resource, Resource::Content(_) | Resource::Snapshot(..));
        self.nodes.push(Node {
            resource,
            size_bytes: 0,
            refers: gc::references(labels).collect(),
            parent: None,
            flat: false,
            root: (labelled && labels.contains_key(ROOT_LABEL)).then_some(Reason::Labelled),
            until: None,
            expired: None,
            reached: None,
        });
        &mut self.nodes[node]
    }

    fn mark(&mut self, now: Timestamp) {
        let roots: Vec<Index> = (0..self.nodes.len()).filter(|node| self.nodes[*node].root.is_some()).collect();
        for node in &self.nodes {
            if let Some(Reason::Until(end)) = node.root {
                self.next_expiry = Some(self.next_expiry.map_or(end, |next| next.min(end)));
            }
        }
        self.spread(roots);
        // Last, what only its age keeps: so it is known which ends matter.
        let mut young = Vec::new();
        for (index, node) in self.nodes.iter_mut().enumerate() {
            if let Some(end) = node.until
                && node.reached.is_none()
                && end >= now
            {
                node.root = Some(Reason::Until(end));
                self.next_expiry = Some(self.next_expiry.map_or(end, |next| next.min(end)));
                young.push(index);
            }
        }
        self.spread(young);
    }

    /// Reaches what the roots lead to.
    fn spread(&mut self, roots: Vec<Index>) {
        let mut queue: VecDeque<Index> = VecDeque::new();
        for root in roots {
            self.nodes[root].reached = Some(Reached { by: root, root, flat: false });
            queue.push_back(root);
        }
        while let Some(from) = queue.pop_front() {
            let Some(reached) = self.nodes[from].reached else { continue };
            for (to, flat) in self.leads_to(from, reached.flat) {
                let known = &mut self.nodes[to].reached;
                // What was reached flat is looked at again when it is reached as a whole.
                if known.is_none_or(|known| known.flat && !flat) {
                    // One that asks to be kept as long as itself is kept by who reached it first.
                    let by = if to == from { reached.by } else { from };
                    *known = Some(Reached { by, root: reached.root, flat });
                    queue.push_back(to);
                }
            }
        }
    }

    /// What a node that was reached keeps, and whether flat.
    fn leads_to(&self, from: Index, reached_flat: bool) -> Vec<(Index, bool)> {
        let node = &self.nodes[from];
        let parent = node.parent.iter().map(|parent| (parent, reached_flat));
        // A flat lease's entries are reached flat; what is reached flat has only a parent.
        let refers = node.refers.iter().filter(|_| !reached_flat).map(|target| (target, node.flat));
        let forward = parent.chain(refers).filter_map(|(target, flat)| Some((*self.index.get(target)?, flat)));
        let back = self.back.get(&node.resource).into_iter().flatten().map(|waiting| (*waiting, false));
        forward.chain(back).collect()
    }

    /// What nothing leads to.
    pub fn garbage(&self) -> impl Iterator<Item = &Resource> {
        self.nodes.iter().filter(|node| node.reached.is_none()).map(|node| &node.resource)
    }

    /// What is kept without what its labels refer to.
    pub fn flat(&self) -> impl Iterator<Item = &Resource> {
        let flat = |node: &&Node| node.reached.is_some_and(|reached| reached.flat);
        self.nodes.iter().filter(flat).map(|node| &node.resource)
    }

    /// When the first of what only its age keeps will be kept no longer.
    #[must_use]
    pub fn next_expiry(&self) -> Option<Timestamp> {
        self.next_expiry
    }

    /// What is to be said of each thing.
    pub fn verdicts(&self) -> impl Iterator<Item = Verdict> {
        self.nodes.iter().enumerate().map(|(index, node)| {
            let reason = match (&node.root, node.reached, node.expired) {
                (Some(root), _, _) => root.clone(),
                (None, Some(reached), _) if reached.by != index => Reason::Referred {
                    by: self.nodes[reached.by].resource.clone(),
                    root: self.nodes[reached.root].resource.clone(),
                },
                (None, _, Some(end)) => Reason::Expired(end),
                _ => node.until.map_or(Reason::Unreferenced, Reason::Expired),
            };
            Verdict { resource: node.resource.clone(), size_bytes: node.size_bytes, reason }
        })
    }
}
