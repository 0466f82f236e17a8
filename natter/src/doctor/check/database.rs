//! Whether natter's archive can live in this database.

use history::store::examine::Examination;

use super::super::finding::Finding;

/// The oldest Postgres, as `server_version_num`.
const VERSION_MIN: i64 = 150_000;
/// Connections that a history process and the tools want.
const CONNECTIONS_WANTED: i64 = 20;
/// Connections that are kept for superusers, and others'.
const CONNECTIONS_MIN: i64 = 30;

/// What was found.
pub(super) fn findings(database: &Result<(Examination, i64), String>) -> Vec<Finding> {
    let examination = match database {
        Ok((examination, _)) => examination,
        Err(error) => {
            return vec![Finding::problem(
                "database.reachable",
                error.as_str(),
                "check --database-url, that Postgres runs, and the role's password",
            )];
        }
    };
    let mut findings = vec![Finding::ok(
        "database.reachable",
        format!("it answers; {} MB", examination.bytes / (1024 * 1024)),
    )];
    findings.push(version(examination));
    findings.extend(durability(examination));
    findings.push(encoding(examination));
    findings.push(connections(examination));
    findings.push(writable(examination));
    findings.extend(role(examination));
    findings.push(schema(examination));
    findings
}

fn setting<'a>(examination: &'a Examination, name: &str) -> &'a str {
    examination.settings.get(name).map_or("", String::as_str)
}

fn number(examination: &Examination, name: &str) -> i64 {
    setting(examination, name).parse().unwrap_or(0)
}

fn version(examination: &Examination) -> Finding {
    let number = number(examination, "server_version_num");
    let found = format!("Postgres {}.{}", number / 10_000, number % 10_000);
    if number >= VERSION_MIN {
        Finding::ok("database.version", found)
    } else {
        Finding::problem(
            "database.version",
            format!("{found} is too old"),
            "install Postgres 15 or newer",
        )
    }
}

/// Without these a commit may be lost that the cursor says is there; the log brings it back only while
/// it still has the records.
fn durability(examination: &Examination) -> Vec<Finding> {
    let mut findings = Vec::new();
    for (check, name) in [
        ("database.fsync", "fsync"),
        ("database.full_page_writes", "full_page_writes"),
        ("database.synchronous_commit", "synchronous_commit"),
    ] {
        let value = setting(examination, name);
        findings.push(if value == "off" {
            Finding::problem(
                check,
                format!("{name} is off: a crash of the machine may damage the archive or lose what it holds"),
                "switch it on in postgresql.conf",
            )
        } else {
            Finding::ok(check, value)
        });
    }
    findings
}

fn encoding(examination: &Examination) -> Finding {
    let value = setting(examination, "server_encoding");
    if value == "UTF8" {
        Finding::ok("database.encoding", value)
    } else {
        Finding::problem(
            "database.encoding",
            format!("{value} cannot hold every text"),
            "make the database anew: create database natter encoding 'UTF8' template template0",
        )
    }
}

fn connections(examination: &Examination) -> Finding {
    let (now, max) = (
        examination.connections,
        number(examination, "max_connections"),
    );
    let found = format!("{now} of {max}");
    if max < CONNECTIONS_MIN || max - now < CONNECTIONS_WANTED {
        Finding::warning(
            "database.connections",
            found,
            "raise max_connections: a history process uses NATTER_HISTORY_CONNECTIONS and two more",
        )
    } else {
        Finding::ok("database.connections", found)
    }
}

fn writable(examination: &Examination) -> Finding {
    if examination.in_recovery {
        Finding::problem(
            "database.writable",
            "it is a standby",
            "name the primary in --database-url",
        )
    } else if setting(examination, "default_transaction_read_only") == "on" {
        Finding::problem(
            "database.writable",
            "transactions are read only by default",
            "switch default_transaction_read_only off for this role and database",
        )
    } else {
        Finding::ok("database.writable", "yes")
    }
}

fn role(examination: &Examination) -> Vec<Finding> {
    let role = &examination.role;
    let mut findings = Vec::new();
    if !examination.may_create {
        findings.push(Finding::problem(
            "database.role",
            format!("{role} may not make tables"),
            "grant create on schema public to the role, or let it own the database",
        ));
    }
    if !examination.denied.is_empty() {
        let tables = examination.denied.join(", ");
        findings.push(Finding::problem(
            "database.role",
            format!("{role} may not read and write {tables}"),
            "run natter migrate as the role that history uses, or grant it all on these tables",
        ));
    }
    if examination.superuser {
        findings.push(Finding::warning(
            "database.role",
            format!("{role} is a superuser"),
            "make a role that owns natter's database and nothing else",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok("database.role", role.as_str()));
    }
    findings
}

fn schema(examination: &Examination) -> Finding {
    const CHECK: &str = "database.schema";
    const MIGRATE: &str = "run natter migrate before the services of this version";
    let Some(applied) = &examination.migrations else {
        return Finding::warning(CHECK, "there is none yet", MIGRATE);
    };
    let known = history::database::migrations();
    if let Some((version, ..)) = applied.iter().find(|(_, success, _)| !success) {
        let found = format!("migration {version} has failed");
        return Finding::problem(
            CHECK,
            found,
            "restore a backup or finish it by hand, then run natter migrate",
        );
    }
    let newest = known.iter().map(|migration| migration.version).max();
    if let Some((version, ..)) = applied.iter().find(|(version, ..)| Some(*version) > newest) {
        let found = format!("migration {version} is newer than this natter");
        return Finding::problem(CHECK, found, "run the natter that made it, or a newer one");
    }
    for migration in &known {
        let version = migration.version;
        let found = applied.iter().find(|(applied, ..)| *applied == version);
        match found {
            None => {
                let found = format!("migration {version} was not run");
                return Finding::problem(CHECK, found, MIGRATE);
            }
            Some((_, _, checksum)) if **checksum != *migration.checksum => {
                let found = format!("migration {version} is another one than this natter's");
                return Finding::problem(CHECK, found, "use a database that natter made");
            }
            Some(_) => {}
        }
    }
    Finding::ok(CHECK, format!("up to date at {}", newest.unwrap_or(0)))
}
