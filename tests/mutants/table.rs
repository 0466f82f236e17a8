//! The fixes that everything rests on, and how each is undone.

/// One fix, undone by replacing text.
pub struct Mutant {
    /// What is no longer done.
    pub name: &'static str,
    pub edits: &'static [Edit],
    /// The package and the arguments of `cargo test` that must notice.
    pub package: &'static str,
    pub noticed_by: &'static [&'static str],
}

/// What is replaced in a file; it stands there once.
pub struct Edit {
    pub file: &'static str,
    pub old: &'static str,
    pub new: &'static str,
}

const SIM: &[&str] = &["--test", "sim"];

/// In the order of a message's way.
pub const MUTANTS: &[Mutant] = &[
    Mutant {
        name: "compare-and-set: append whatever the subject's last record is",
        edits: &[Edit {
            file: "chassis/src/nats/append.rs",
            old: "headers.insert(EXPECTED, expected.to_string());",
            new: "if expected == u64::MAX { headers.insert(EXPECTED, expected.to_string()); }",
        }],
        package: "tests",
        noticed_by: &["--test", "e2e", "an_append_behind"],
    },
    Mutant {
        name: "re-reading: take an unknown outcome for a failure",
        edits: &[Edit {
            file: "messages/src/sequencer/resolve.rs",
            old: "        self.resolving = true;\n        self.read = None;",
            new: "        self.abandon(Timestamp::MIN, false);",
        }],
        package: "tests",
        noticed_by: SIM,
    },
    Mutant {
        name: "confirmation of refusals: answer them from memory",
        edits: &[Edit {
            file: "messages/src/sequencer/desk.rs",
            old: "    pub(super) fn push_tentative(&mut self, result: CommandResult) {\n        self.results.push(result);",
            new: "    pub(super) fn push_tentative(&mut self, result: CommandResult) {\n        if matches!(result, CommandResult::Err(_)) {\n            return self.push_final(result);\n        }\n        self.results.push(result);",
        }],
        package: "tests",
        noticed_by: SIM,
    },
    Mutant {
        name: "dedup on reload: forget the commands of the tail",
        edits: &[Edit {
            file: "messages/src/partition/fold.rs",
            old: "        self.dedup.insert(record.position, record.time, commands);",
            new: "        commands.clear();\n        self.dedup.insert(record.position, record.time, commands);",
        }],
        package: "tests",
        noticed_by: SIM,
    },
    Mutant {
        name: "base and tail: take a base from before the tail",
        edits: &[
            Edit {
                file: "messages/src/partition/base.rs",
                old: "        if applied < self.floor {\n            return Base::TooOld;\n        }",
                new: "",
            },
            Edit {
                file: "messages/src/sequencer/lookup.rs",
                old: "Wanted::Room(room) => (Lookup::Room(room), floor),",
                new: "Wanted::Room(room) => (Lookup::Room(room), StreamSeq(0)),",
            },
        ],
        package: "tests",
        noticed_by: SIM,
    },
    Mutant {
        name: "base and tail: fold the tail onto a base that has it",
        edits: &[Edit {
            file: "messages/src/partition/base.rs",
            old: "if entry.position <= applied {",
            new: "if entry.position < StreamSeq(1) {",
        }],
        package: "tests",
        noticed_by: SIM,
    },
    Mutant {
        name: "beacon: do not hear where the log ends",
        edits: &[Edit {
            file: "gateway/src/upstream.rs",
            old: "                self.feed.handle_known_last(now, beacon.position);\n",
            new: "",
        }],
        package: "tests",
        noticed_by: &["--test", "e2e", "feed::"],
    },
    Mutant {
        name: "exactly the next: history applies what it gets",
        edits: &[Edit {
            file: "history/src/projector.rs",
            old: "        if record.position != expected {",
            new: "        if record.position < expected {",
        }],
        package: "history",
        noticed_by: &["--lib"],
    },
    Mutant {
        name: "sync_interval: always: leave it at the broker's default",
        edits: &[Edit {
            file: "natter/src/dev/nats_server.rs",
            old: "         \\x20 sync_interval: always\\n\\\n",
            new: "",
        }],
        package: "natter",
        noticed_by: &["--bin", "natter", "nats_server::"],
    },
];
