//! The tables of a write transaction, and how a change of one is taken back.

use crate::schema::{self, Bytes, Key2, Key3, Key4};
use redb::{Key, ReadTransaction, ReadableTable, StorageError, Table, Value, WriteTransaction};

macro_rules! tables {
    ($($name:ident: $key:ty => $value:ty = $definition:ident;)*) => {
        /// Every table, open for writing.
        pub(crate) struct Tables<'t> {
            $(pub $name: Table<'t, $key, $value>,)*
        }

        impl<'t> Tables<'t> {
            /// Copies all rows into a database that has none.
            pub fn copy(from: &ReadTransaction, to: &WriteTransaction) -> Result<(), redb::Error> {
                $({
                    let rows = from.open_table(schema::$definition)?;
                    let mut copies = to.open_table(schema::$definition)?;
                    for row in rows.iter()? {
                        let (key, value) = row?;
                        copies.insert(key.value(), value.value())?;
                    }
                })*
                Ok(())
            }

            /// How many there are.
            pub const COUNT: usize = [$(stringify!($name)),*].len();

            /// Opens all, making those that are not there.
            pub fn open(transaction: &'t WriteTransaction) -> Result<Self, redb::Error> {
                Ok(Self { $($name: transaction.open_table(schema::$definition)?,)* })
            }
        }
    };
}

tables! {
    meta: &'static str => Bytes = META;
    events: u64 => Bytes = EVENTS;
    cursors: &'static str => Bytes = CURSORS;
    requests: u64 => u64 = REQUESTS;
    namespaces: &'static str => Bytes = NAMESPACES;
    images: Key2 => Bytes = IMAGES;
    containers: Key2 => Bytes = CONTAINERS;
    tasks: Key2 => Bytes = TASKS;
    restarts: Key2 => Bytes = RESTARTS;
    health: Key2 => Bytes = HEALTH;
    snapshots: Key3 => Bytes = SNAPSHOTS;
    snapshot_ids: (&'static str, u64) => (u64, &'static str, &'static str) = SNAPSHOT_IDS;
    snapshot_children: (&'static str, u64, u64) => () = SNAPSHOT_CHILDREN;
    content: Key2 => Bytes = CONTENT;
    blobs: Key2 => u64 = BLOBS;
    ingests: Key2 => Bytes = INGESTS;
    leases: Key2 => Bytes = LEASES;
    lease_resources: Key4 => () = LEASE_RESOURCES;
    resource_leases: Key4 => () = RESOURCE_LEASES;
}

/// Chooses a table.
pub(super) type Select<'t, K, V> = for<'a> fn(&'a mut Tables<'t>) -> &'a mut Table<'t, K, V>;

type Step<'t> = Box<dyn FnOnce(&mut Tables<'t>) -> Result<(), StorageError> + 't>;

/// What was done, so that it can be taken back.
#[derive(Default)]
pub(super) struct Undo<'t>(Vec<Step<'t>>);

impl<'t> Undo<'t> {
    /// A point to come back to.
    pub fn mark(&self) -> usize {
        self.0.len()
    }

    /// Takes back all that was done since a mark, last first.
    pub fn back_to(&mut self, mark: usize, tables: &mut Tables<'t>) -> Result<(), StorageError> {
        while self.0.len() > mark {
            if let Some(step) = self.0.pop() {
                step(tables)?;
            }
        }
        Ok(())
    }

    /// Writes a row; answers whether one was there.
    pub fn put<K: Key + 'static, V: Value + 'static>(
        &mut self,
        tables: &mut Tables<'t>,
        select: Select<'t, K, V>,
        key: K::SelfType<'_>,
        value: V::SelfType<'_>,
    ) -> Result<bool, StorageError> {
        let key_bytes = K::as_bytes(&key).as_ref().to_vec();
        let old = select(tables).insert(key, value)?.map(|old| V::as_bytes(&old.value()).as_ref().to_vec());
        let was_there = old.is_some();
        self.0.push(Box::new(move |tables| restore(select(tables), &key_bytes, old.as_deref())));
        Ok(was_there)
    }

    /// Removes a row; answers whether one was there.
    pub fn remove<K: Key + 'static, V: Value + 'static>(
        &mut self,
        tables: &mut Tables<'t>,
        select: Select<'t, K, V>,
        key: K::SelfType<'_>,
    ) -> Result<bool, StorageError> {
        let key_bytes = K::as_bytes(&key).as_ref().to_vec();
        let old = select(tables).remove(key)?.map(|old| V::as_bytes(&old.value()).as_ref().to_vec());
        let Some(old) = old else { return Ok(false) };
        self.0.push(Box::new(move |tables| restore(select(tables), &key_bytes, Some(&old))));
        Ok(true)
    }
}

fn restore<K: Key, V: Value>(table: &mut Table<'_, K, V>, key: &[u8], old: Option<&[u8]>) -> Result<(), StorageError> {
    match old {
        Some(old) => table.insert(K::from_bytes(key), V::from_bytes(old)).map(drop),
        None => table.remove(K::from_bytes(key)).map(drop),
    }
}

/// Whether a range of a table has any row.
pub(super) fn any<'k, K: Key + 'static, V: Value + 'static>(
    table: &impl ReadableTable<K, V>,
    range: std::ops::Range<K::SelfType<'k>>,
) -> Result<bool, StorageError>
where
    K::SelfType<'k>: std::borrow::Borrow<K::SelfType<'k>>,
{
    Ok(table.range(range)?.next().transpose()?.is_some())
}
