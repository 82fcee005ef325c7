//! Changes of containers.

use super::batch::{Done, Scope};
use crate::{change::Outcome, refuse};
use redb::ReadableTable;
use wharf_messages::{
    ContainerId, Namespace, Refusal,
    container::{Container, UpdateContainer},
    event::Event,
    gc::Resource,
    labels::{self, LabelPath},
};

/// What an update without a mask replaces.
const MUTABLE: [&str; 5] = ["labels", "spec", "extensions", "image", "snapshotkey"];

impl Scope<'_, '_, '_> {
    pub fn create_container(&mut self, ns: &Namespace, container: &Container) -> Done {
        if self.container(ns, &container.id)?.is_some() {
            return Err(Refusal::already_exists(format!("container {:?}", container.id)).into());
        }
        let mut container = Container { created_at: self.now, updated_at: self.now, ..container.clone() };
        labels::drop_empty(&mut container.labels);
        validate(&container).map_err(|e| e.context("create container failed validation"))?;
        self.note(ns, || Resource::Container(container.id.clone()));
        self.put2(|t| &mut t.containers, ns, container.id.as_str(), &container)?;
        self.tell(Event::ContainerCreated {
            id: container.id.clone(),
            image: container.image.clone(),
            runtime: container.runtime.clone(),
        });
        Ok(Outcome::Container(container))
    }

    pub fn update_container(&mut self, ns: &Namespace, call: &UpdateContainer) -> Done {
        let new = &call.container;
        let mut container = self.container(ns, &new.id)?.ok_or_else(|| refuse::no_container(ns, &new.id))?;
        let all = MUTABLE.map(str::to_owned);
        let mask = if call.mask.is_empty() {
            // Only then are the other fields given at all, and may be seen to differ.
            if container.snapshotter != new.snapshotter {
                return Err(Refusal::invalid("container.Snapshotter field is immutable").into());
            }
            if container.runtime.name != new.runtime.name {
                return Err(Refusal::invalid("container.Runtime.Name field is immutable").into());
            }
            &all[..]
        } else {
            &call.mask
        };
        for path in mask {
            match (labels::path("labels", path), labels::path("extensions", path), path.as_str()) {
                (LabelPath::All, ..) => labels::set_all(&mut container.labels, &new.labels),
                (LabelPath::One(key), ..) => labels::set_one(&mut container.labels, &new.labels, key),
                (_, LabelPath::All, _) => container.extensions.clone_from(&new.extensions),
                (_, LabelPath::One(key), _) => {
                    match new.extensions.get(key) {
                        Some(value) => container.extensions.insert(key.to_owned(), value.clone()),
                        None => container.extensions.remove(key),
                    };
                }
                (.., "spec") => container.spec.clone_from(&new.spec),
                (.., "image") => container.image.clone_from(&new.image),
                (.., "snapshotkey") => container.snapshot_key.clone_from(&new.snapshot_key),
                _ => {
                    let why = format!("cannot update {path:?} field on {:?}", new.id);
                    return Err(Refusal::invalid(why).into());
                }
            }
        }
        container.updated_at = self.now;
        validate(&container).map_err(|e| e.context("update failed validation"))?;
        self.note(ns, || Resource::Container(container.id.clone()));
        self.put2(|t| &mut t.containers, ns, container.id.as_str(), &container)?;
        self.tell(Event::ContainerUpdated {
            id: container.id.clone(),
            image: container.image.clone(),
            labels: container.labels.clone(),
            snapshot_key: container.snapshot_key.clone(),
        });
        Ok(Outcome::Container(container))
    }

    pub fn delete_container(&mut self, ns: &Namespace, id: &ContainerId) -> Done {
        let container = self.container(ns, id)?.ok_or_else(|| refuse::no_container(ns, id))?;
        let key = (ns.as_str(), id.as_str());
        if self.batch.tables.tasks.get(key)?.is_some() {
            let why = format!("container {id:?} in namespace {ns:?} has a task, which must be deleted first");
            return Err(Refusal::failed_precondition(why).into());
        }
        self.remove(|t| &mut t.containers, key)?;
        self.remove(|t| &mut t.restarts, key)?;
        self.tell(Event::ContainerDeleted { id: id.clone() });
        Ok(Outcome::Container(container))
    }

    pub fn container(&mut self, ns: &Namespace, id: &ContainerId) -> Done<Option<Container>> {
        self.get2(|t| &mut t.containers, ns, id.as_str())
    }
}

fn validate(container: &Container) -> Result<(), Refusal> {
    if container.extensions.contains_key("") {
        return Err(Refusal::invalid("container.Extension keys must not be zero-length"));
    }
    labels::validate("containers.Labels", &container.labels)?;
    if container.runtime.name.is_empty() {
        return Err(Refusal::invalid("container.Runtime.Name must be set"));
    }
    if container.spec.is_none() {
        return Err(Refusal::invalid("container.Spec must be set"));
    }
    if container.snapshot_key.is_some() && container.snapshotter.is_none() {
        return Err(Refusal::invalid("container.Snapshotter must be set if container.SnapshotKey is set"));
    }
    Ok(())
}
