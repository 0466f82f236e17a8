//! What a database is like, for those who have to judge whether natter can run on it.
//!
//! It only reads, and works on a database that natter has never seen.

use sqlx::{PgConnection, Row as _};
use std::collections::BTreeMap;

/// Settings that are looked at.
const SETTINGS: [&str; 7] = [
    "fsync",
    "full_page_writes",
    "synchronous_commit",
    "max_connections",
    "server_encoding",
    "default_transaction_read_only",
    "server_version_num",
];

/// `synchronous_commit` and `fsync` as this connection sees them, not as the file says.
const SETTING: &str = "select current_setting($1, true)";
const NATURE: &str = "select pg_is_in_recovery() as in_recovery, \
     (extract(epoch from clock_timestamp()) * 1000)::bigint as now_ms, \
     current_user::text as role, \
     (select rolsuper from pg_roles where rolname = current_user) as superuser, \
     has_schema_privilege(current_schema(), 'create') as may_create, \
     (select count(*) from pg_stat_activity) as connections, \
     pg_database_size(current_database()) as bytes";
const HAS_MIGRATIONS: &str = "select to_regclass('_sqlx_migrations') is not null";
const MIGRATIONS: &str = "select version, success, checksum from _sqlx_migrations order by version";
const DENIED: &str = "select c.relname::text from pg_class c \
     where c.relnamespace = current_schema()::regnamespace and c.relkind = 'r' \
     and not (has_table_privilege(c.oid, 'select') and has_table_privilege(c.oid, 'insert') \
     and has_table_privilege(c.oid, 'update') and has_table_privilege(c.oid, 'delete')) \
     order by 1";

/// A database, as its server tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Examination {
    /// Settings by name.
    pub settings: BTreeMap<String, String>,
    /// It is a standby, which cannot be written.
    pub in_recovery: bool,
    /// Its clock, in ms since 1970.
    pub now_ms: i64,
    /// The role that is connected.
    pub role: String,
    /// The role may do everything in the whole server.
    pub superuser: bool,
    /// The role may make tables.
    pub may_create: bool,
    /// Tables there that the role may not read and write.
    pub denied: Vec<String>,
    /// Connections of all databases.
    pub connections: i64,
    /// Size of the database.
    pub bytes: i64,
    /// Migrations that were run: version, whether it succeeded, checksum. `None` if there never was one.
    pub migrations: Option<Vec<(i64, bool, Vec<u8>)>>,
}

/// Looks at everything.
///
/// # Errors
/// If Postgres does not answer.
pub async fn examine(connection: &mut PgConnection) -> Result<Examination, sqlx::Error> {
    let mut settings = BTreeMap::new();
    for name in SETTINGS {
        let query = sqlx::query_scalar::<_, Option<String>>(SETTING).bind(name);
        if let Some(value) = query.fetch_one(&mut *connection).await? {
            settings.insert(name.to_owned(), value);
        }
    }
    let nature = sqlx::query(NATURE).fetch_one(&mut *connection).await?;
    let has_migrations = sqlx::query_scalar(HAS_MIGRATIONS);
    let migrations = if has_migrations.fetch_one(&mut *connection).await? {
        let rows = sqlx::query_as(MIGRATIONS).fetch_all(&mut *connection);
        Some(rows.await?)
    } else {
        None
    };
    let denied = sqlx::query_scalar(DENIED).fetch_all(&mut *connection);
    Ok(Examination {
        settings,
        in_recovery: nature.try_get("in_recovery")?,
        now_ms: nature.try_get("now_ms")?,
        role: nature.try_get("role")?,
        superuser: nature.try_get("superuser")?,
        may_create: nature.try_get::<Option<bool>, _>("may_create")? == Some(true),
        denied: denied.await?,
        connections: nature.try_get("connections")?,
        bytes: nature.try_get("bytes")?,
        migrations,
    })
}
