//! All SQL of natter, one statement a constant, beside the function that runs it.
//!
//! Reads of one answer share one [`Snapshot`]: a transaction that sees the tables as of one position
//! of the log. Writes happen in [`write`] only.

pub mod catch_up;
pub mod checkpoint;
pub mod cursor;
pub mod examine;
pub mod heads;
pub mod look_up;
pub mod page;
pub mod people;
pub mod room;
pub mod rooms;
pub mod text;
pub mod thread;
pub mod unread;
pub mod verify;
pub mod write;

use protocol::{LogId, RoomId, Seq, StreamSeq, Timestamp, UserId};
use sqlx::postgres::PgRow;
use sqlx::{PgPool, Postgres, Row as _, Transaction};

/// A statement failed.
#[derive(Debug, thiserror::Error)]
#[error("{doing} failed")]
pub struct StoreError {
    /// What the statement does.
    pub doing: &'static str,
    /// Why it failed.
    #[source]
    pub source: sqlx::Error,
}

impl StoreError {
    /// The violated constraint or unique index, if it is one.
    #[must_use]
    pub fn constraint(&self) -> Option<&str> {
        self.source.as_database_error()?.constraint()
    }

    /// Whether the tables are not there (`undefined_table`): nobody has run the migrations.
    #[must_use]
    pub fn is_missing_table(&self) -> bool {
        self.source
            .as_database_error()
            .and_then(|error| error.code())
            .as_deref()
            == Some("42P01")
    }
}

/// Names the operation of a failed statement.
pub(crate) trait Doing<T> {
    /// The same result, with the operation in its error.
    fn doing(self, doing: &'static str) -> Result<T, StoreError>;
}

impl<T> Doing<T> for Result<T, sqlx::Error> {
    fn doing(self, doing: &'static str) -> Result<T, StoreError> {
        self.map_err(|source| StoreError { doing, source })
    }
}

/// A column holds what no row of ours can hold: written by hand, or by a later version.
fn odd<E>(column: &'static str) -> impl FnOnce(E) -> sqlx::Error
where
    E: Into<Box<dyn std::error::Error + Send + Sync>>,
{
    move |error| sqlx::Error::ColumnDecode {
        index: column.to_owned(),
        source: error.into(),
    }
}

/// A position as a column holds it; what no column can hold counts as the greatest.
pub(crate) fn int(value: u64) -> i64 {
    i64::try_from(value).unwrap_or(i64::MAX)
}

/// Columns as the types that their text must parse into.
pub(crate) trait Columns {
    /// A `bigint` that is a position or a count.
    fn number(&self, column: &'static str) -> Result<u64, sqlx::Error>;
    /// The same, nullable.
    fn number_or_null(&self, column: &'static str) -> Result<Option<u64>, sqlx::Error>;
    /// A room id.
    fn room(&self, column: &'static str) -> Result<RoomId, sqlx::Error>;
    /// A user id.
    fn user(&self, column: &'static str) -> Result<UserId, sqlx::Error>;
    /// A text by people.
    fn words(&self, column: &'static str) -> Result<String, sqlx::Error>;
    /// One of the words of an enum with serde names.
    fn word<T: serde::de::DeserializeOwned>(&self, column: &'static str) -> Result<T, sqlx::Error>;
    /// A hash.
    fn hash(&self, column: &'static str) -> Result<protocol::chain::Hash, sqlx::Error>;
    /// A seq.
    fn seq(&self, column: &'static str) -> Result<Seq, sqlx::Error> {
        self.number(column).map(Seq)
    }
    /// A position in the log.
    fn position(&self, column: &'static str) -> Result<StreamSeq, sqlx::Error> {
        self.number(column).map(StreamSeq)
    }
}

impl Columns for PgRow {
    fn number(&self, column: &'static str) -> Result<u64, sqlx::Error> {
        let value: i64 = self.try_get(column)?;
        u64::try_from(value).map_err(odd(column))
    }

    fn number_or_null(&self, column: &'static str) -> Result<Option<u64>, sqlx::Error> {
        let value: Option<i64> = self.try_get(column)?;
        value
            .map(|value| u64::try_from(value).map_err(odd(column)))
            .transpose()
    }

    fn room(&self, column: &'static str) -> Result<RoomId, sqlx::Error> {
        let value: &str = self.try_get(column)?;
        RoomId::parse(value).map_err(odd(column))
    }

    fn user(&self, column: &'static str) -> Result<UserId, sqlx::Error> {
        let value: &str = self.try_get(column)?;
        UserId::parse(value).map_err(odd(column))
    }

    fn words(&self, column: &'static str) -> Result<String, sqlx::Error> {
        let value: &str = self.try_get(column)?;
        Ok(text::decode(value).into_owned())
    }

    fn word<T: serde::de::DeserializeOwned>(&self, column: &'static str) -> Result<T, sqlx::Error> {
        let value: &str = self.try_get(column)?;
        let word = serde::de::value::StrDeserializer::<serde::de::value::Error>::new(value);
        T::deserialize(word).map_err(odd(column))
    }

    fn hash(&self, column: &'static str) -> Result<protocol::chain::Hash, sqlx::Error> {
        let value: &[u8] = self.try_get(column)?;
        let bytes = value.try_into().map_err(odd(column))?;
        Ok(protocol::chain::Hash(bytes))
    }
}

const BEGIN: &str = "begin isolation level repeatable read read only";

/// The tables as of one position of the log.
#[derive(Debug)]
pub struct Snapshot {
    /// The transaction that sees them.
    pub(crate) tx: Transaction<'static, Postgres>,
    /// Which life of the log; `None` before the first record.
    pub log: Option<LogId>,
    /// The last applied record.
    pub applied: StreamSeq,
    /// When the broker stored it.
    pub time: Timestamp,
}

impl Snapshot {
    /// Begins a snapshot, waiting for a connection as long as the pool is told to.
    ///
    /// # Errors
    /// If Postgres does not answer, or has no tables.
    pub async fn begin(pool: &PgPool) -> Result<Self, StoreError> {
        let mut tx = pool.begin_with(BEGIN).await.doing("beginning a snapshot")?;
        let cursor = cursor::read(&mut tx).await?;
        Ok(match cursor {
            Some(cursor) => Self {
                tx,
                log: Some(cursor.log),
                applied: cursor.applied,
                time: cursor.time,
            },
            None => Self {
                tx,
                log: None,
                applied: StreamSeq(0),
                time: Timestamp(0),
            },
        })
    }

    /// Ends the snapshot, so that its connection is free at once.
    ///
    /// # Errors
    /// If Postgres is gone; what was read is right all the same.
    pub async fn end(self) -> Result<(), StoreError> {
        self.tx.commit().await.doing("ending a snapshot")
    }
}
