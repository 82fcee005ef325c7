//! Which requests were done: so that a retry finds its first attempt, after a panic as after a crash.
//!
//! A commit that names its request writes a row beside its changes, and is refused if the row is there already. The newest
//! [`REQUESTS_MAX`] are kept; whoever retries does so within seconds.

use crate::schema;
use redb::{Database, ReadableDatabase, ReadableTable, TableError};
use std::{
    collections::{HashMap, VecDeque},
    sync::{Mutex, MutexGuard, PoisonError},
};
use wharf_messages::event::Seq;

/// How many requests are remembered: some seconds of the busiest daemon.
pub(crate) const REQUESTS_MAX: usize = 8192;

/// The rows, in memory.
#[derive(Debug, Default)]
pub(crate) struct Requests(Mutex<Known>);

#[derive(Debug, Default)]
struct Known {
    done: HashMap<u64, Seq>,
    /// Oldest first.
    order: VecDeque<u64>,
}

impl Requests {
    /// Reads the rows anew.
    pub fn load(&self, database: &Database) -> Result<(), redb::Error> {
        let mut rows: Vec<(Seq, u64)> = match database.begin_read()?.open_table(schema::REQUESTS) {
            Ok(table) => {
                let rows = table.iter()?.map(|row| row.map(|(id, seq)| (Seq(seq.value()), id.value())));
                rows.collect::<Result<_, _>>()?
            }
            // A root of an earlier version, not written to yet.
            Err(TableError::TableDoesNotExist(_)) => Vec::new(),
            Err(error) => return Err(error.into()),
        };
        rows.sort_unstable();
        let order = rows.iter().map(|(_, id)| *id).collect();
        *self.known() = Known { done: rows.into_iter().map(|(seq, id)| (id, seq)).collect(), order };
        Ok(())
    }

    /// Where the log ended after a request was done, if it was.
    pub fn done(&self, id: u64) -> Option<Seq> {
        self.known().done.get(&id).copied()
    }

    /// Which requests to forget when so many more are written.
    pub fn surplus(&self, more: usize) -> Vec<u64> {
        let known = self.known();
        let surplus = (known.order.len() + more).saturating_sub(REQUESTS_MAX);
        known.order.iter().take(surplus).copied().collect()
    }

    /// Takes in what a transaction has made durable.
    pub fn remember(&self, written: Vec<(u64, Seq)>) {
        let mut known = self.known();
        for (id, seq) in written {
            if known.done.insert(id, seq).is_none() {
                known.order.push_back(id);
            }
        }
        while known.order.len() > REQUESTS_MAX {
            if let Some(id) = known.order.pop_front() {
                known.done.remove(&id);
            }
        }
    }

    fn known(&self) -> MutexGuard<'_, Known> {
        // Each change of it is whole before the lock is given back: a panic elsewhere cannot leave it half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
