//! Where a client remembers: in memory, or in an SQLite file that survives a restart.
//!
//! A list of changes is applied in one transaction, so the cursor never covers an event that is not
//! stored. It decides nothing; what to remember is the cores' matter.

mod memory;
mod sqlite;

use crate::change::{Change, Saved};
use memory::Memory;
use sqlite::Sqlite;
use std::path::{Path, PathBuf};

/// Why a store cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// The file cannot be opened or is in use by another client.
    #[error("open the store {path}")]
    Open {
        /// The file.
        path: PathBuf,
        /// What SQLite said.
        #[source]
        source: rusqlite::Error,
    },
    /// Reading or writing failed.
    #[error("use the store")]
    Sql(#[from] rusqlite::Error),
    /// Something stored is not what this version writes.
    #[error("the store holds {what} that this version cannot read")]
    Content {
        /// What.
        what: &'static str,
        /// Why not.
        #[source]
        source: Box<dyn std::error::Error + Send + Sync>,
    },
    /// The file was written by a later version.
    #[error("the store is of version {found}, this client knows {known}")]
    Version {
        /// The file's.
        found: u32,
        /// Ours.
        known: u32,
    },
    /// The task that held it panicked.
    #[error("the store was lost")]
    Lost,
}

/// A client's memory.
#[derive(Debug)]
pub struct Store(Inner);

#[derive(Debug)]
enum Inner {
    Memory(Memory),
    Sqlite(Sqlite),
}

impl Store {
    /// Remembers until it is dropped.
    #[must_use]
    pub fn memory() -> Self {
        Self(Inner::Memory(Memory::default()))
    }

    /// Opens or makes an SQLite file; one client at a time may hold it.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be opened, is held by another client, or is of a later version.
    pub fn open(path: &Path) -> Result<Self, StoreError> {
        Ok(Self(Inner::Sqlite(Sqlite::open(path)?)))
    }

    /// Everything remembered.
    ///
    /// # Errors
    /// [`StoreError`] if it cannot be read.
    pub fn load(&mut self) -> Result<Saved, StoreError> {
        match &mut self.0 {
            Inner::Memory(memory) => Ok(memory.load()),
            Inner::Sqlite(sqlite) => sqlite.load(),
        }
    }

    /// Remembers all of these or none; when it returns they survive a crash.
    ///
    /// # Errors
    /// [`StoreError`] if they could not be written.
    pub fn apply(&mut self, changes: &[Change]) -> Result<(), StoreError> {
        match &mut self.0 {
            Inner::Memory(memory) => {
                memory.apply(changes);
                Ok(())
            }
            Inner::Sqlite(sqlite) => sqlite.apply(changes),
        }
    }

    /// Whether [`Self::apply`] waits for a disk, so that a task must not call it itself.
    #[must_use]
    pub const fn blocks(&self) -> bool {
        matches!(self.0, Inner::Sqlite(_))
    }
}

#[cfg(test)]
mod tests;
