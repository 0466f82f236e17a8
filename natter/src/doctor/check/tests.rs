//! Each fault alone on top of facts that are well: exactly its finding must change.

use std::collections::BTreeMap;

use chassis::topology::Review;
use history::store::examine::Examination;
use protocol::subject::rights::BrokerUser;

use super::super::facts::{Act, Broker, Facts, Probe, ServerReport, User};
use super::super::finding::{Level, worst};
use super::findings;

fn examination() -> Examination {
    let settings = [
        ("fsync", "on"),
        ("full_page_writes", "on"),
        ("synchronous_commit", "on"),
        ("max_connections", "100"),
        ("server_encoding", "UTF8"),
        ("default_transaction_read_only", "off"),
        ("server_version_num", "150018"),
    ];
    let migrations = history::database::migrations();
    let migrations = migrations
        .iter()
        .map(|one| (one.version, true, one.checksum.to_vec()));
    Examination {
        settings: settings
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .into(),
        in_recovery: false,
        now_ms: 0,
        role: "natter".into(),
        superuser: false,
        may_create: true,
        denied: Vec::new(),
        connections: 9,
        bytes: 0,
        migrations: Some(migrations.collect()),
    }
}

fn probe(act: Act, subject: &str, allowed: bool) -> Probe {
    Probe {
        act,
        subject: subject.into(),
        allowed,
    }
}

/// What the messages user is let do.
fn probes() -> Vec<Probe> {
    vec![
        probe(Act::Publish, "log.natter-doctor", true),
        probe(Act::Publish, "live.natter-doctor", false),
        probe(Act::Subscribe, "own.natter-doctor", true),
        probe(Act::Subscribe, "live.natter-doctor", false),
    ]
}

fn healthy() -> Facts {
    Facts {
        broker: Ok(Broker {
            version: "2.15.1".into(),
            max_payload: 8 * 1024 * 1024,
            jetstream: true,
            domain: None,
            cluster: Some("natter".into()),
            known_servers: 3,
            streams: Ok(vec![("NATTER_LOG", Review::Fits)]),
            clocks: BTreeMap::from([("n1".into(), 5)]),
        }),
        users: vec![User {
            name: "messages".into(),
            probes: Ok(probes()),
        }],
        anonymous: None,
        reports: vec![(
            "http://n1:8222".into(),
            Ok(ServerReport {
                name: "n1".into(),
                syncs_always: Some(true),
                clock_ms: 7,
                max_payload: 8 * 1024 * 1024,
                connections: (9, 65_536),
                storage: (0, 1 << 40),
                disk_free: Some(1 << 40),
            }),
        )],
        database: Ok((examination(), 11)),
        open_files_max: Some(1_000_000),
        replicas: 3,
    }
}

fn broker(facts: &mut Facts) -> &mut Broker {
    facts.broker.as_mut().unwrap()
}

fn report(facts: &mut Facts) -> &mut ServerReport {
    facts.reports[0].1.as_mut().unwrap()
}

fn database(facts: &mut Facts) -> &mut Examination {
    &mut facts.database.as_mut().unwrap().0
}

fn set(facts: &mut Facts, name: &str, value: &str) {
    let settings = &mut database(facts).settings;
    settings.insert(name.to_owned(), value.to_owned());
}

fn user(facts: &mut Facts) -> &mut Vec<Probe> {
    facts.users[0].probes.as_mut().unwrap()
}

type Fault = (&'static str, Level, fn(&mut Facts));

const PROBLEM: Level = Level::Problem;
const WARNING: Level = Level::Warning;

const FAULTS: &[Fault] = &[
    ("broker.version", PROBLEM, |f| {
        broker(f).version = "2.14.9".into();
    }),
    ("broker.version", PROBLEM, |f| {
        broker(f).version = "one".into();
    }),
    ("broker.max_payload", PROBLEM, |f| {
        broker(f).max_payload = 1_048_576;
    }),
    ("broker.max_payload", PROBLEM, |f| {
        report(f).max_payload = 1_048_576;
    }),
    ("broker.jetstream", PROBLEM, |f| broker(f).jetstream = false),
    ("broker.streams", WARNING, |f| {
        broker(f).streams = Err("no rights".into());
    }),
    ("broker.streams", WARNING, |f| {
        broker(f).streams = Ok(vec![(
            "NATTER_LOG",
            Review::Changes(vec!["max_msgs".into()]),
        )]);
    }),
    ("broker.streams", PROBLEM, |f| {
        let review = Review::CannotChange {
            setting: "storage".into(),
            found: "memory".into(),
            wanted: "file".into(),
        };
        broker(f).streams = Ok(vec![("NATTER_LOG", review)]);
    }),
    ("broker.replicas", WARNING, |f| f.replicas = 5),
    ("broker.replicas", PROBLEM, |f| {
        broker(f).cluster = None;
        broker(f).known_servers = 0;
    }),
    ("broker.replicas", WARNING, |f| f.replicas = 1),
    ("broker.rights", WARNING, |f| f.users.clear()),
    ("broker.rights", PROBLEM, |f| {
        f.users[0].probes = Err("authorization violation".into());
    }),
    ("broker.rights", PROBLEM, |f| user(f)[0].allowed = false),
    ("broker.rights", PROBLEM, |f| user(f)[1].allowed = true),
    ("broker.rights", PROBLEM, |f| user(f)[2].allowed = false),
    ("broker.rights", PROBLEM, |f| user(f)[3].allowed = true),
    ("broker.rights", PROBLEM, |f| {
        f.users[0].name = "all".into();
        user(f)[1].allowed = true;
    }),
    ("broker.rights", WARNING, |f| {
        f.anonymous = Some(vec![probe(Act::Publish, "log.natter-doctor", true)]);
    }),
    ("broker.sync_interval", WARNING, |f| f.reports.clear()),
    ("broker.sync_interval", PROBLEM, |f| {
        report(f).syncs_always = Some(false);
    }),
    ("broker.monitor", PROBLEM, |f| {
        f.reports[0].1 = Err("connection refused".into());
    }),
    ("broker.connections", WARNING, |f| {
        report(f).connections = (900, 1_000);
    }),
    ("broker.disk", PROBLEM, |f| report(f).storage = (900, 1_000)),
    ("broker.disk", PROBLEM, |f| {
        report(f).disk_free = Some(1_000_000);
    }),
    ("database.version", PROBLEM, |f| {
        set(f, "server_version_num", "140011");
    }),
    ("database.fsync", PROBLEM, |f| set(f, "fsync", "off")),
    ("database.full_page_writes", PROBLEM, |f| {
        set(f, "full_page_writes", "off");
    }),
    ("database.synchronous_commit", PROBLEM, |f| {
        set(f, "synchronous_commit", "off");
    }),
    ("database.encoding", PROBLEM, |f| {
        set(f, "server_encoding", "LATIN1");
    }),
    ("database.connections", WARNING, |f| {
        set(f, "max_connections", "20");
    }),
    ("database.connections", WARNING, |f| {
        database(f).connections = 95;
    }),
    ("database.writable", PROBLEM, |f| {
        database(f).in_recovery = true;
    }),
    ("database.writable", PROBLEM, |f| {
        set(f, "default_transaction_read_only", "on");
    }),
    ("database.role", PROBLEM, |f| database(f).may_create = false),
    ("database.role", PROBLEM, |f| {
        database(f).denied = vec!["events".into()];
    }),
    ("database.role", WARNING, |f| database(f).superuser = true),
    ("database.schema", WARNING, |f| {
        database(f).migrations = None;
    }),
    ("database.schema", PROBLEM, |f| {
        database(f).migrations = Some(Vec::new());
    }),
    ("database.schema", PROBLEM, |f| {
        database(f)
            .migrations
            .as_mut()
            .unwrap()
            .push((99, true, Vec::new()));
    }),
    ("database.schema", PROBLEM, |f| {
        database(f).migrations.as_mut().unwrap()[0].1 = false;
    }),
    ("database.schema", PROBLEM, |f| {
        database(f).migrations.as_mut().unwrap()[0].2.clear();
    }),
    ("clocks", PROBLEM, |f| report(f).clock_ms = 5_012),
    ("clocks", PROBLEM, |f| {
        f.database.as_mut().unwrap().1 = -5_001;
    }),
    ("clocks", PROBLEM, |f| {
        // Both are near enough to ours, but not to each other.
        report(f).clock_ms = 3_000;
        f.database.as_mut().unwrap().1 = -3_000;
    }),
    ("machine.open_files", WARNING, |f| {
        f.open_files_max = Some(1_024);
    }),
];

#[test]
fn a_healthy_natter_has_no_finding_but_ok() {
    let findings = findings(&healthy());
    assert_eq!(worst(&findings), Level::Ok, "{findings:#?}");
    let without_limits = Facts {
        open_files_max: None,
        ..healthy()
    };
    assert_eq!(worst(&super::findings(&without_limits)), Level::Ok);
}

#[test]
fn each_fault_is_named_with_what_to_do_and_nothing_else_is() {
    for (nth, (check, level, fault)) in FAULTS.iter().enumerate() {
        let mut facts = healthy();
        fault(&mut facts);
        let found = findings(&facts);
        let bad: Vec<_> = found.iter().filter(|one| one.level != Level::Ok).collect();
        assert!(!bad.is_empty(), "fault {nth} of {check} is not found");
        for finding in bad {
            assert_eq!(
                (finding.check, finding.level),
                (*check, *level),
                "fault {nth}"
            );
            assert!(!finding.remedy.is_empty(), "fault {nth}: {finding:?}");
        }
    }
}

#[test]
fn what_does_not_answer_is_a_problem_and_the_rest_is_still_looked_at() {
    let mut facts = healthy();
    facts.broker = Err("connection refused".into());
    facts.database = Err("password authentication failed".into());
    let found = findings(&facts);
    let problems = found.iter().filter(|one| one.level == Level::Problem);
    let checks: Vec<_> = problems.map(|one| one.check).collect();
    assert_eq!(checks, ["broker.reachable", "database.reachable"]);
    assert!(found.iter().any(|one| one.check == "broker.sync_interval"));
}

#[test]
fn no_clock_at_all_is_said() {
    let mut facts = healthy();
    broker(&mut facts).clocks.clear();
    facts.reports.clear();
    facts.database = Err("down".into());
    let found = findings(&facts);
    let clocks = found.iter().find(|one| one.check == "clocks");
    assert_eq!(clocks.map(|one| one.level), Some(Level::Warning));
}

/// The probes above are what these rights say, or the table proves nothing.
#[test]
fn the_healthy_probes_are_those_of_messages() {
    let rights = BrokerUser::Messages.rights();
    for probe in probes() {
        let may = match probe.act {
            Act::Publish => rights.may_publish(&probe.subject),
            Act::Subscribe => rights.may_subscribe(&probe.subject),
        };
        assert_eq!(may, probe.allowed, "{probe:?}");
    }
}
