//! `natter doctor` on real servers: what is well is said to be well, and each planted fault is named.

use std::path::Path;

use chassis::clock::Clock;
use chassis::config::NatsArgs;
use chassis::health::Health;
use chassis::nats::Nats;
use chassis::nats::clocks::{SPREAD_MS_MAX, spread_ms};
use chassis::topology::{LOG_STREAM, TopologyConfig, provision};
use protocol::subject::rights::{BrokerUser, Rights};
use serde_json::{Value, json};
use sqlx::{AssertSqlSafe, Connection as _, PgConnection};
use tests::program::{natter, run};
use tests::{Cluster, NODES, NatsServer, NatsSettings, PATIENCE, Stack, eventually};

/// What the doctor says: its exit code, and its findings.
struct Diagnosis {
    code: Option<i32>,
    findings: Vec<Value>,
}

impl Diagnosis {
    async fn of(servers: &[&str], arguments: &[&str]) -> Self {
        let all = [&["doctor", "--json"], servers, arguments].concat();
        let mut command = natter(&all);
        command
            .env_remove("NATTER_NATS_URL")
            .env_remove("NATTER_DATABASE_URL");
        let said = run(command).await;
        let report: Value =
            serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
        Self {
            code: said.code,
            findings: report["findings"].as_array().expect("a list").clone(),
        }
    }

    /// That something was found, in these words.
    fn names(&self, level: &str, check: &str, words: &str) {
        let is_it = |finding: &&Value| {
            finding["level"] == level
                && finding["check"] == check
                && finding["found"].as_str().expect("text").contains(words)
        };
        let found = self.findings.iter().find(is_it);
        let found =
            found.unwrap_or_else(|| panic!("no {level} {check} {words}: {:#?}", self.findings));
        assert_eq!(found.get("remedy").is_some(), level != "ok", "{found}");
    }

    /// Checks at this level, without repeats.
    fn at(&self, level: &str) -> Vec<&str> {
        let at = self.findings.iter().filter(|one| one["level"] == level);
        let mut checks: Vec<&str> = at.map(|one| one["check"].as_str().expect("text")).collect();
        checks.dedup();
        checks
    }
}

fn servers(stack: &Stack) -> [&str; 4] {
    [
        "--nats-url",
        stack.nats_url(),
        "--database-url",
        stack.database_url(),
    ]
}

#[tokio::test]
async fn a_healthy_natter_is_well_and_the_doctor_changes_nothing() {
    let stack = Stack::start().await;
    let mut alice = stack.user("alice").await;
    let room = alice.creates_room("ops").await;
    alice.sends(&room, "before").await;
    let users = stack.data().join("run/broker-users.json");
    let users = users.display().to_string();
    let said = Diagnosis::of(&servers(&stack), &["--nats-users-file", &users]).await;
    assert_eq!(said.code, Some(0), "{:#?}", said.findings);
    assert_eq!(said.at("problem"), Vec::<&str>::new());
    for user in ["gateway", "messages", "history"] {
        let words = format!("{user} may do what it must, and nothing else");
        said.names("ok", "broker.rights", &words);
    }
    said.names("ok", "broker.streams", "NATTER_LOG is as it must be");
    said.names("ok", "database.schema", "up to date");
    said.names("ok", "clocks", "Postgres");
    // What a client cannot see is said.
    said.names("warning", "broker.sync_interval", "cannot be seen");
    // Its own user reaches everything on this machine.
    said.names("warning", "broker.rights", "without a user");
    assert_eq!(alice.sends(&room, "after").await, 4);
}

/// A user of nats-server's configuration.
fn user(name: &str, rights: &Rights) -> String {
    format!(
        "{{ user: {name}, password: secret, permissions: {{ publish: {{ allow: {}, deny: {} }}, \
         subscribe: {{ allow: {} }} }} }}\n",
        json!(rights.publish),
        json!(rights.publish_never),
        json!(rights.subscribe)
    )
}

/// Users with the wrong rights: the gateway lacks two, messages may do everything. Whoever names none may
/// connect, and nothing else.
fn wrong_users() -> String {
    let mut gateway = BrokerUser::Gateway.rights();
    gateway.publish.retain(|subject| subject != "hint.*");
    gateway.subscribe.retain(|subject| subject != "wm.*");
    format!(
        "no_auth_user: guest\nauthorization {{ users: [\n{}{{ user: messages, password: secret }}\n{}\
         {{ user: guest, password: secret, permissions: {{ publish: {{ deny: \">\" }}, \
         subscribe: {{ deny: \">\" }} }} }}\n] }}\n",
        user("gateway", &gateway),
        user("history", &BrokerUser::History.rights()),
    )
}

async fn connects_as_messages(url: &str) -> Nats {
    let arguments = NatsArgs {
        nats_user: Some("messages".into()),
        nats_password: Some("secret".into()),
        ..NatsArgs::to(url)
    };
    let health = Health::new();
    let nats = chassis::nats::connect(&arguments, "test", &health)
        .await
        .unwrap();
    tokio::time::timeout(PATIENCE, nats.connected())
        .await
        .unwrap();
    nats
}

fn write_users(folder: &Path, history: &str) -> String {
    let path = folder.join("users.json");
    let users = json!({"gateway": "secret", "messages": "secret", "history": history});
    std::fs::write(&path, users.to_string()).unwrap();
    path.display().to_string()
}

/// A port beside those of the stack, which leaves every tenth to its end free.
fn monitor_port(stack: &Stack) -> u16 {
    let port = stack.nats_url().rsplit_once(':').expect("a port").1;
    port.parse::<u16>().expect("a number") + 4
}

#[tokio::test]
async fn faults_of_a_broker_are_named_and_what_a_user_may_too_much_is_not_used() {
    let stack = Stack::builder().servers_only().start().await;
    let port = monitor_port(&stack);
    let settings = NatsSettings {
        sync_always: false,
        more: format!(
            "http: \"127.0.0.1:{port}\"\nmax_payload: 1MB\n{}",
            wrong_users()
        ),
        ..NatsSettings::default()
    };
    let broker = NatsServer::start(stack.data(), settings);
    let broker = tokio::time::timeout(PATIENCE, broker).await.unwrap();
    let nats = connects_as_messages(&broker.url()).await;
    provision(&nats, &TopologyConfig::default()).await.unwrap();
    let stored = nats.publish_expect("log.3", "a record".into(), Default::default(), 0);
    assert_eq!(stored.await.unwrap().seq, 1);

    let (users, monitor) = (
        write_users(stack.data(), "wrong"),
        format!("http://127.0.0.1:{port}"),
    );
    let (url, database) = (broker.url(), stack.database_url());
    let servers = ["--nats-url", url.as_str(), "--database-url", database];
    let flags = ["--nats-users-file", &users, "--nats-monitor-url", &monitor];
    let said = Diagnosis::of(&servers, &flags).await;
    assert_eq!(said.code, Some(1));
    said.names("problem", "broker.sync_interval", "own: not always");
    said.names("problem", "broker.max_payload", "1048576 bytes");
    said.names("problem", "broker.rights", "gateway may not");
    for missing in ["publish hint.natter-doctor", "subscribe wm.natter-doctor"] {
        said.names("problem", "broker.rights", missing);
    }
    said.names("problem", "broker.rights", "messages may");
    for too_much in [
        "publish live.natter-doctor",
        "publish $JS.API.STREAM.DELETE.NATTER_LOG",
        "publish $JS.API.STREAM.PURGE.NATTER_LOG",
        "subscribe log.natter-doctor",
    ] {
        said.names("problem", "broker.rights", too_much);
    }
    said.names("problem", "broker.rights", "history cannot connect");
    said.names("ok", "broker.rights", "names no user may publish nothing");
    said.names("ok", "broker.disk", "free on its disk");

    // It may delete and purge, and has tried: nothing came of it.
    let log = nats.stream_state(LOG_STREAM).await.unwrap().unwrap();
    assert_eq!((log.messages, log.last_seq), (1, 1));
    let leases = nats.stream_state("KV_NATTER_LEASE").await.unwrap();
    assert_eq!(leases.unwrap().messages, 0);
}

#[tokio::test]
async fn who_cannot_connect_is_told_why() {
    let stack = Stack::builder().servers_only().start().await;
    let secret = stack.data().join("password");
    std::fs::write(&secret, "wrong").unwrap();
    let secret = secret.display().to_string();
    let flags = ["--nats-user", "gateway", "--nats-password-file", &secret];
    let said = Diagnosis::of(&servers(&stack), &flags).await;
    assert_eq!(said.code, Some(1));
    said.names("problem", "broker.reachable", "authorization violation");

    let nobody = stack.database_url().replace("natter@", "nobody@");
    let dead = [
        "--nats-url",
        "nats://127.0.0.1:1",
        "--database-url",
        &nobody,
    ];
    let said = Diagnosis::of(&dead, &[]).await;
    assert_eq!(
        said.at("problem"),
        ["broker.reachable", "database.reachable"]
    );
    said.names("problem", "database.reachable", "\"nobody\" does not exist");
}

#[tokio::test]
async fn faults_of_a_database_are_named() {
    let stack = Stack::builder().servers_only().start().await;
    let mut connection = PgConnection::connect(stack.database_url()).await.unwrap();
    sqlx::raw_sql("create database fresh")
        .execute(&mut connection)
        .await
        .unwrap();
    let (old, _) = stack.database_url().rsplit_once('/').expect("a name");
    let fresh = format!("{old}/fresh");
    let there = ["--nats-url", stack.nats_url(), "--database-url", &fresh];
    let said = Diagnosis::of(&there, &[]).await;
    assert_eq!(said.code, Some(0), "{:#?}", said.findings);
    said.names("warning", "database.schema", "none yet");
    said.names("ok", "database.fsync", "on");

    let migrated = run(stack.natter(&["migrate"])).await;
    assert_eq!(migrated.code, Some(0), "{migrated:?}");
    let database = servers(&stack);
    let said = Diagnosis::of(&database, &[]).await;
    assert_eq!(said.code, Some(0), "{:#?}", said.findings);
    said.names("ok", "database.schema", "up to date");

    for statement in [
        "alter system set fsync = off",
        "select pg_reload_conf()",
        "create role guest login",
        "delete from _sqlx_migrations where version = 1",
    ] {
        let executed = sqlx::raw_sql(AssertSqlSafe(statement)).execute(&mut connection);
        executed.await.unwrap();
    }
    // The reload is told to every process of the server, one after the other.
    eventually(PATIENCE, async || {
        let said = Diagnosis::of(&database, &[]).await;
        let problems = said.at("problem");
        if problems == ["database.fsync", "database.schema"] && said.code == Some(1) {
            Ok(())
        } else {
            Err(format!("{problems:?}"))
        }
    })
    .await;

    let guest = stack.database_url().replace("natter@", "guest@");
    let as_guest = ["--nats-url", stack.nats_url(), "--database-url", &guest];
    let said = Diagnosis::of(&as_guest, &[]).await;
    said.names("problem", "database.reachable", "permission denied");
}

#[tokio::test]
async fn every_broker_of_a_cluster_shows_its_clock() {
    let (stack, cluster) = (
        Stack::builder().servers_only().start().await,
        Cluster::start().await,
    );
    let health = Health::new();
    let url = cluster.url();
    let nats = chassis::nats::connect(&NatsArgs::to(&url), "test", &health)
        .await
        .unwrap();
    let topology = TopologyConfig {
        stream_replicas: u32::try_from(NODES).unwrap(),
        ..TopologyConfig::default()
    };
    // A cluster that has just become one may still be electing.
    eventually(PATIENCE, async || provision(&nats, &topology).await).await;
    // Where the broker puts a consumer is chance, so one look may miss a server.
    let clocks = eventually(PATIENCE, async || {
        match nats.broker_clocks(LOG_STREAM, &Clock::system()).await {
            Ok(clocks) if clocks.len() == NODES => Ok(clocks),
            other => Err(format!("{other:?}")),
        }
    });
    let clocks = clocks.await;
    assert!(spread_ms(&clocks) <= SPREAD_MS_MAX, "{clocks:?}");

    let servers = ["--nats-url", &url, "--database-url", stack.database_url()];
    let said = Diagnosis::of(&servers, &["--stream-replicas", "3"]).await;
    assert_eq!(said.code, Some(0), "{:#?}", said.findings);
    said.names(
        "ok",
        "broker.replicas",
        "3 replica(s) wanted, 3 server(s) known",
    );
    said.names("ok", "broker.streams", "NATTER_LOG is as it must be");
}
