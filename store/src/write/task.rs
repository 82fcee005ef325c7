//! Changes of tasks. Their events come with the commit: only the task's actor knows what happened.

use super::batch::{Done, Scope};
use crate::{change::Outcome, refuse, row::TaskRow};
use redb::ReadableTable;
use wharf_messages::{ContainerId, Namespace, Refusal};

impl Scope<'_, '_, '_> {
    pub fn create_task(&mut self, ns: &Namespace, row: &TaskRow) -> Done {
        let key = (ns.as_str(), row.container_id.as_str());
        if self.batch.tables.containers.get(key)?.is_none() {
            return Err(refuse::no_container(ns, &row.container_id).into());
        }
        if self.batch.tables.tasks.get(key)?.is_some() {
            return Err(Refusal::already_exists(format!("task {}", row.container_id)).into());
        }
        self.write_task(ns, TaskRow { created_at: self.now, ..row.clone() })
    }

    pub fn put_task(&mut self, ns: &Namespace, row: &TaskRow) -> Done {
        let old = self.task(ns, &row.container_id)?.ok_or_else(|| refuse::no_task(&row.container_id))?;
        self.write_task(ns, TaskRow { created_at: old.created_at, ..row.clone() })
    }

    pub fn delete_task(&mut self, ns: &Namespace, id: &ContainerId) -> Done {
        let row = self.task(ns, id)?.ok_or_else(|| refuse::no_task(id))?;
        self.remove(|t| &mut t.tasks, (ns.as_str(), id.as_str()))?;
        self.remove(|t| &mut t.health, (ns.as_str(), id.as_str()))?;
        Ok(Outcome::Task(row))
    }

    fn task(&mut self, ns: &Namespace, id: &ContainerId) -> Done<Option<TaskRow>> {
        self.get2(|t| &mut t.tasks, ns, id.as_str())
    }

    fn write_task(&mut self, ns: &Namespace, row: TaskRow) -> Done {
        if row.namespace != *ns {
            let why = format!("task {} of namespace {:?} in a commit of {ns:?}", row.container_id, row.namespace);
            return Err(Refusal::invalid(why).into());
        }
        self.put2(|t| &mut t.tasks, ns, row.container_id.as_str(), &row)?;
        Ok(Outcome::Task(row))
    }
}
