//! Who may publish and subscribe what at the broker: every subject, every user, asked of a real broker.
//!
//! The table is written by hand from section 10 of the design and never derived from `protocol`, so that
//! a right that grows there is seen here. Columns: `g`ateway, `m`essages, `h`istory, `a`ll (the process
//! that runs the three) and `l`ocal (whoever names no user, of `natter dev` alone).

use protocol::subject::Subject;
use protocol::subject::rights::BrokerUser;
use serde_json::json;
use std::collections::BTreeSet;
use tests::{PATIENCE, Stack};
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::TcpStream;

const USERS: [(char, &str); 5] = [
    ('g', "gateway"),
    ('m', "messages"),
    ('h', "history"),
    ('a', "all"),
    ('l', "local"),
];

/// Who may publish.
const PUBLISH: &[(&str, &str)] = &[
    ("log.3", "mal"),
    ("log.3.4", "l"),
    ("live.3", ""),
    ("live.3.4", ""),
    ("wm.k7", "mal"),
    ("own.3", "mal"),
    ("hint.3", "gmal"),
    ("cmd.3.u.alice.send.r1", "gmal"),
    ("cmd.3.m.alice.ban.r1", "gmal"),
    ("cmd.3.bot.b1.send.r1", "mal"),
    ("svc.history.page", "gmal"),
    ("svc.gateway.page", "l"),
    ("$SRV.PING", "l"),
    ("botin.b1.r1", "l"),
    ("bot.b1.send.r1", "l"),
    ("pres.delta", "l"),
    ("eph.r1", "l"),
    ("anything.else", "l"),
    ("_INBOX.gateway.x.1", "gmhal"),
    ("_INBOX.messages.x.1", "mhal"),
    ("_INBOX.history.x.1", "mhal"),
    ("_INBOX.x.1", "mhal"),
    ("$KV.NATTER_LEASE.p.3", "mal"),
    ("$KV.OTHER.p.3", "l"),
    ("$JS.API.INFO", "l"),
    ("$JS.API.STREAM.NAMES", "l"),
    ("$JS.API.STREAM.INFO.NATTER_LOG", "gmhal"),
    ("$JS.API.STREAM.MSG.GET.NATTER_LOG", "gmhal"),
    ("$JS.API.DIRECT.GET.NATTER_LOG", "gmhal"),
    ("$JS.API.DIRECT.GET.NATTER_LOG.log.3", "l"),
    ("$JS.API.STREAM.CREATE.NATTER_LOG", "mal"),
    ("$JS.API.STREAM.UPDATE.NATTER_LOG", "mhal"),
    ("$JS.API.STREAM.DELETE.NATTER_LOG", "l"),
    ("$JS.API.STREAM.PURGE.NATTER_LOG", "l"),
    ("$JS.API.STREAM.MSG.DELETE.NATTER_LOG", "l"),
    ("$JS.API.STREAM.SNAPSHOT.NATTER_LOG", "l"),
    ("$JS.API.STREAM.RESTORE.NATTER_LOG", "l"),
    ("$JS.API.STREAM.LEADER.STEPDOWN.NATTER_LOG", "l"),
    ("$JS.API.STREAM.PEER.REMOVE.NATTER_LOG", "l"),
    ("$JS.API.CONSUMER.CREATE.NATTER_LOG", "mhal"),
    ("$JS.API.CONSUMER.CREATE.NATTER_LOG.c1", "mhal"),
    ("$JS.API.CONSUMER.CREATE.NATTER_LOG.c1.log.3", "mhal"),
    ("$JS.API.CONSUMER.DURABLE.CREATE.NATTER_LOG.c1", "l"),
    ("$JS.API.CONSUMER.INFO.NATTER_LOG.c1", "mhal"),
    ("$JS.API.CONSUMER.MSG.NEXT.NATTER_LOG.c1", "mhal"),
    ("$JS.API.CONSUMER.DELETE.NATTER_LOG.c1", "mhal"),
    ("$JS.API.CONSUMER.LIST.NATTER_LOG", "l"),
    ("$JS.API.CONSUMER.PAUSE.NATTER_LOG.c1", "l"),
    ("$JS.API.STREAM.INFO.KV_NATTER_LEASE", "mal"),
    ("$JS.API.STREAM.MSG.GET.KV_NATTER_LEASE", "mal"),
    ("$JS.API.DIRECT.GET.KV_NATTER_LEASE", "mal"),
    ("$JS.API.STREAM.CREATE.KV_NATTER_LEASE", "mal"),
    ("$JS.API.STREAM.UPDATE.KV_NATTER_LEASE", "mal"),
    ("$JS.API.STREAM.DELETE.KV_NATTER_LEASE", "l"),
    ("$JS.API.STREAM.PURGE.KV_NATTER_LEASE", "l"),
    ("$JS.API.CONSUMER.CREATE.KV_NATTER_LEASE.c1", "l"),
    ("$JS.API.STREAM.CREATE.OTHER", "l"),
    ("$JS.API.STREAM.INFO.OTHER", "l"),
    ("$JS.API.CONSUMER.CREATE.OTHER.c1", "l"),
    ("$JS.ACK.NATTER_LOG.c1.1.1.1.1.1", "l"),
    ("$JS.FC.NATTER_LOG.c1.x", "l"),
];

/// Who may subscribe.
const SUBSCRIBE: &[(&str, &str)] = &[
    (">", "l"),
    ("log.*", "l"),
    ("log.3", "l"),
    ("live.*", "gal"),
    ("live.3", "gal"),
    // The broker takes the `>` for a token of `live.*`; nothing more is ever there.
    ("live.>", "gal"),
    ("wm.*", "gal"),
    ("cmd.3.>", "mal"),
    ("cmd.3.bot.b1.send.r1", "mal"),
    ("cmd.>", "l"),
    ("own.3", "mal"),
    ("hint.*", "mal"),
    ("svc.history.*", "hal"),
    ("svc.>", "l"),
    ("$SRV.PING", "hal"),
    ("$KV.NATTER_LEASE.>", "l"),
    ("$JS.EVENT.ADVISORY.>", "l"),
    ("_INBOX.>", "l"),
    ("_INBOX.x.>", "l"),
    ("_INBOX.gateway.>", "gal"),
    ("_INBOX.messages.>", "mal"),
    ("_INBOX.history.>", "hal"),
    ("_INBOX.all.>", "al"),
    ("pres.>", "l"),
];

/// What a user is refused when its connection says these lines.
async fn refused(stack: &Stack, user: &str, lines: &[String]) -> Vec<String> {
    let address = stack.nats_url().trim_start_matches("nats://");
    let socket = TcpStream::connect(address).await.unwrap();
    let mut connect = json!({"verbose": false, "pedantic": false, "headers": true,
        "no_responders": false, "lang": "test", "version": "1", "protocol": 1, "echo": false});
    if user != "local" {
        connect["user"] = json!(user);
        connect["pass"] = json!(stack.broker_password(user));
    }
    let mut socket = BufReader::new(socket);
    let said = format!("CONNECT {connect}\r\n{}PING\r\n", lines.concat());
    socket.write_all(said.as_bytes()).await.unwrap();
    let mut complaints = Vec::new();
    loop {
        let mut line = String::new();
        let read = tokio::time::timeout(PATIENCE, socket.read_line(&mut line)).await;
        assert!(read.unwrap().unwrap() > 0, "{user}: {complaints:?}");
        match line.trim_end() {
            // The broker answers in order: all complaints are in.
            "PONG" => return complaints,
            line if line.starts_with("-ERR") => complaints.push(line.to_owned()),
            _ => {}
        }
    }
}

/// For each subject, who is not refused.
async fn who_may(stack: &Stack, lines: &[(String, String)]) -> Vec<String> {
    let mut may = vec![String::new(); lines.len()];
    let said: Vec<String> = lines.iter().map(|(line, _)| line.clone()).collect();
    for (letter, user) in USERS {
        let complaints = refused(stack, user, &said).await;
        let named: BTreeSet<&str> = complaints
            .iter()
            .filter_map(|complaint| complaint.split('"').nth(1))
            .collect();
        assert_eq!(named.len(), complaints.len(), "{user}: {complaints:?}");
        for (may, (_, subject)) in may.iter_mut().zip(lines) {
            if !named.contains(subject.as_str()) {
                may.push(letter);
            }
        }
    }
    may
}

fn differences(table: &[(&str, &str)], found: &[String]) -> Vec<String> {
    let rows = table.iter().zip(found);
    rows.filter(|((_, expected), found)| expected != found)
        .map(|((subject, expected), found)| format!("{subject}: {found:?}, not {expected:?}"))
        .collect()
}

#[tokio::test]
async fn each_user_of_the_broker_may_do_what_the_table_says_and_nothing_else() {
    let stack = Stack::builder().servers_only().start().await;
    let publishes = |(subject, _): &(&str, &str)| {
        let line = format!("PUB {subject} 0\r\n\r\n");
        (line, (*subject).to_owned())
    };
    let lines: Vec<_> = PUBLISH.iter().map(publishes).collect();
    let wrong = differences(PUBLISH, &who_may(&stack, &lines).await);
    assert!(wrong.is_empty(), "publish: {wrong:#?}");

    let subscribes = |(nth, (subject, _)): (usize, &(&str, &str))| {
        let line = format!("SUB {subject} {nth}\r\nUNSUB {nth}\r\n");
        (line, (*subject).to_owned())
    };
    let lines: Vec<_> = SUBSCRIBE.iter().enumerate().map(subscribes).collect();
    let wrong = differences(SUBSCRIBE, &who_may(&stack, &lines).await);
    assert!(wrong.is_empty(), "subscribe: {wrong:#?}");
}

/// A subject that is added to the grammar must be added to the table.
#[test]
fn the_table_has_every_subject_of_the_grammar() {
    let mut kinds = BTreeSet::new();
    for (subject, _) in PUBLISH.iter().chain(SUBSCRIBE) {
        if let Ok(subject) = Subject::parse(subject) {
            kinds.insert(kind(&subject));
        }
    }
    assert_eq!(kinds.len(), KINDS, "{kinds:?}");
}

/// Kinds of subjects, the three doors apart.
const KINDS: usize = 14;

fn kind(subject: &Subject) -> String {
    match subject {
        Subject::Command { door, .. } => format!("command {door:?}"),
        Subject::Commands(_) => "commands".into(),
        Subject::Log(_) => "log".into(),
        Subject::Logs => "logs".into(),
        Subject::Live(_) => "live".into(),
        Subject::Lives => "lives".into(),
        Subject::Beacon(_) => "beacon".into(),
        Subject::Beacons => "beacons".into(),
        Subject::Own(_) => "own".into(),
        Subject::Hint(_) => "hint".into(),
        Subject::Hints => "hints".into(),
        Subject::History(_) => "history".into(),
    }
}

/// Operators make the users from the manual.
#[test]
fn the_manual_lists_every_right_of_every_user() {
    let manual = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/operations.md");
    let manual = std::fs::read_to_string(manual).unwrap();
    for user in BrokerUser::ALL {
        let begin = format!("| `{}` | ", user.name());
        let row = manual.lines().find(|line| line.starts_with(&begin));
        let cells: Vec<&str> = row.expect("a row").split(" | ").collect();
        let listed = |cell: usize| -> BTreeSet<String> {
            let quoted = cells[cell].split('`').skip(1).step_by(2);
            quoted.map(str::to_owned).collect()
        };
        let rights = user.rights();
        assert_eq!(listed(1), rights.publish.into_iter().collect(), "{user:?}");
        assert_eq!(listed(2), rights.subscribe.into_iter().collect());
        assert_eq!(rights.publish_never, ["live.>"]);
    }
}
