//! Changes of cursors. They tell no event: the log does not speak of who reads it.

use super::batch::{Done, Scope};
use crate::{change::Outcome, record, refuse};
use redb::{ReadableTable, ReadableTableMetadata};
use wharf_messages::{
    CursorName, Refusal,
    cursor::{CURSORS_MAX, Cursor},
    event::Seq,
};

impl Scope<'_, '_, '_> {
    pub fn create_cursor(&mut self, cursor: &Cursor) -> Done {
        if self.cursor(&cursor.name)?.is_some() {
            return Err(Refusal::already_exists(format!("cursor {:?}", cursor.name)).into());
        }
        if self.batch.tables.cursors.len()? >= CURSORS_MAX as u64 {
            let why = format!("cursor {:?}: there are {CURSORS_MAX} already, the most there may be", cursor.name);
            return Err(Refusal::resource_exhausted(why).into());
        }
        self.write_cursor(&Cursor { created_at: self.now, moved_at: self.now, ..cursor.clone() })
    }

    pub fn move_cursor(&mut self, name: &CursorName, acked: Seq) -> Done {
        let cursor = self.cursor(name)?.ok_or_else(|| refuse::no_cursor(name))?;
        if acked <= cursor.acked {
            return Ok(Outcome::Done);
        }
        self.write_cursor(&Cursor { acked, moved_at: self.now, ..cursor })
    }

    pub fn delete_cursor(&mut self, name: &CursorName) -> Done {
        if !self.remove(|t| &mut t.cursors, name.as_str())? {
            return Err(refuse::no_cursor(name).into());
        }
        Ok(Outcome::Done)
    }

    fn cursor(&self, name: &CursorName) -> Done<Option<Cursor>> {
        let row = self.batch.tables.cursors.get(name.as_str())?;
        Ok(row.map(|row| record::decode(row.value())).transpose()?)
    }

    fn write_cursor(&mut self, cursor: &Cursor) -> Done {
        let bytes = record::encode(cursor)?;
        self.put(|t| &mut t.cursors, cursor.name.as_str(), bytes.as_slice())?;
        Ok(Outcome::Done)
    }
}
