//! Changes of restarts and of health: what a container's policy and its check have come to.

use super::batch::{Done, Scope};
use crate::{change::Outcome, refuse};
use redb::ReadableTable;
use wharf_messages::{
    ContainerId, Namespace, Refusal,
    container::{Container, UpdateContainer},
    health::HealthRecord,
    restart::{COUNT_LABEL, RestartRecord, Wish},
};

impl Scope<'_, '_, '_> {
    pub fn put_restart(&mut self, ns: &Namespace, record: &RestartRecord) -> Done {
        self.container(ns, &record.container_id)?.ok_or_else(|| refuse::no_container(ns, &record.container_id))?;
        self.put2(|t| &mut t.restarts, ns, record.container_id.as_str(), record)?;
        Ok(Outcome::Done)
    }

    pub fn begin_restart(&mut self, ns: &Namespace, record: &RestartRecord) -> Done {
        let id = &record.container_id;
        let container = self.container(ns, id)?.ok_or_else(|| refuse::no_container(ns, id))?;
        // What was decided may be overtaken by what a user has done since.
        if !Wish::of(&container.labels)?.is_some_and(|wish| wish.running && !wish.stopped_by_user) {
            let why = format!("container {id:?} in namespace {ns:?} is not to be started again");
            return Err(Refusal::failed_precondition(why).into());
        }
        let labels = [(COUNT_LABEL.to_owned(), record.restarts.to_string())].into();
        let counted = Container { labels, ..container };
        self.update_container(
            ns,
            &UpdateContainer { container: counted, mask: vec![format!("labels.{COUNT_LABEL}")] },
        )?;
        self.put_restart(ns, record)
    }

    pub fn delete_restart(&mut self, ns: &Namespace, id: &ContainerId) -> Done {
        self.remove(|t| &mut t.restarts, (ns.as_str(), id.as_str()))?;
        Ok(Outcome::Done)
    }

    pub fn put_health(&mut self, ns: &Namespace, record: &HealthRecord) -> Done {
        let id = &record.container_id;
        if self.batch.tables.tasks.get((ns.as_str(), id.as_str()))?.is_none() {
            return Err(refuse::no_task(id).into());
        }
        self.put2(|t| &mut t.health, ns, id.as_str(), record)?;
        Ok(Outcome::Done)
    }
}
