//! Whether each user of the broker may do what its service does, and nothing else.

use protocol::subject::rights::{BrokerUser, Rights};

use super::super::facts::{Act, Facts, Probe, User};
use super::super::finding::Finding;

const CHECK: &str = "broker.rights";
const MAKE_USERS: &str = "make one user per service with the rights in docs/operations.md";

/// What was found about all users.
pub(super) fn findings(facts: &Facts) -> Vec<Finding> {
    let mut findings = Vec::new();
    if facts.users.is_empty() && facts.broker.is_ok() {
        findings.push(Finding::warning(
            CHECK,
            "no user was tried",
            "name the services' users with --nats-users-file",
        ));
    }
    findings.extend(facts.users.iter().flat_map(user));
    findings.extend(facts.anonymous.as_deref().map(anonymous));
    findings
}

fn user(user: &User) -> Vec<Finding> {
    let name = &user.name;
    let probes = match &user.probes {
        Ok(probes) => probes,
        Err(error) => {
            return vec![Finding::problem(
                CHECK,
                format!("{name} cannot connect: {error}"),
                "check the user's password in nats-server's configuration and in the file",
            )];
        }
    };
    let Some(service) = BrokerUser::named(name) else {
        return vec![unknown(name, probes)];
    };
    let rights = service.rights();
    let missing = list(probes, |probe| expected(&rights, probe) && !probe.allowed);
    let too_much = list(probes, |probe| !expected(&rights, probe) && probe.allowed);
    let mut findings = Vec::new();
    if !missing.is_empty() {
        findings.push(Finding::problem(
            CHECK,
            format!("{name} may not {}", missing.join(", ")),
            "add it to the user's permissions: docs/operations.md lists them",
        ));
    }
    if !too_much.is_empty() {
        findings.push(Finding::problem(
            CHECK,
            format!("{name} may {}", too_much.join(", ")),
            "take it from the user's permissions: docs/operations.md lists them",
        ));
    }
    if findings.is_empty() {
        findings.push(Finding::ok(
            CHECK,
            format!("{name} may do what it must, and nothing else"),
        ));
    }
    findings
}

/// A user that is no service's, such as that of a process that runs them all: it must not write the live
/// feed, or take anything out of the log.
fn unknown(name: &str, probes: &[Probe]) -> Finding {
    let harmful = list(probes, |probe| probe.allowed && is_nobodys(probe));
    if harmful.is_empty() {
        Finding::ok(CHECK, format!("{name} may do no more than all services"))
    } else {
        Finding::problem(
            CHECK,
            format!("{name} may {}", harmful.join(", ")),
            MAKE_USERS,
        )
    }
}

fn anonymous(probes: &[Probe]) -> Finding {
    let harmful = list(probes, |probe| probe.allowed && probe.act == Act::Publish);
    if harmful.is_empty() {
        return Finding::ok(CHECK, "whoever names no user may publish nothing");
    }
    Finding::warning(
        CHECK,
        "whoever reaches the broker without a user may write to the log and speak for anybody",
        MAKE_USERS,
    )
}

fn expected(rights: &Rights, probe: &Probe) -> bool {
    match probe.act {
        Act::Publish => rights.may_publish(&probe.subject),
        Act::Subscribe => rights.may_subscribe(&probe.subject),
    }
}

/// Whether no service at all may do that.
fn is_nobodys(probe: &Probe) -> bool {
    let all = BrokerUser::ALL.iter();
    !all.map(|user| user.rights())
        .any(|rights| expected(&rights, probe))
}

fn list(probes: &[Probe], which: impl Fn(&Probe) -> bool) -> Vec<String> {
    let word = |probe: &Probe| match probe.act {
        Act::Publish => format!("publish {}", probe.subject),
        Act::Subscribe => format!("subscribe {}", probe.subject),
    };
    probes
        .iter()
        .filter(|probe| which(probe))
        .map(word)
        .collect()
}
