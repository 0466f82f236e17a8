//! The set-ups whose every state is explored.

use crate::script::{Client, Does, OWNER};
use crate::setup::{Budget, Setup, Sight};

/// When the first writer takes the partition: so long before everything else that nothing which was
/// made before is on its way.
pub const PAST: i64 = -5_000;

const ALICE_ONCE: Client = Client {
    user: "alice",
    room: 0,
    batches: &[&[Does::Says]],
};
const ALICE_TWICE: Client = Client {
    user: "alice",
    room: 0,
    batches: &[&[Does::Says], &[Does::Says]],
};
const ALICE_BATCH: Client = Client {
    user: "alice",
    room: 0,
    batches: &[&[Does::Says, Does::Says]],
};
const BOB: Client = Client {
    user: "bob",
    room: 0,
    batches: &[&[Does::Says]],
};

/// Two processes take the partition from each other; the one before may be dead or only paused.
pub const RIVALS: Setup = Setup {
    name: "rivals",
    clients: &[ALICE_TWICE, BOB],
    members: &["alice", "bob"],
    past: &[],
    clock: &[PAST, 0],
    writers: 2,
    cold: false,
    forgets: false,
    budget: Budget {
        takeovers: 2,
        timeouts: 1,
        late_answers: 1,
        resends: 1,
        ..Budget::NONE
    },
    shortcut: None,
    sights: &[
        Sight::TwoOwners,
        Sight::Conflict,
        Sight::FloatStored,
        Sight::Repeat,
        Sight::Overtaken,
    ],
};

/// Three processes want the partition, one after the other.
pub const THREE: Setup = Setup {
    name: "three",
    clients: &[ALICE_ONCE, BOB],
    writers: 3,
    budget: Budget {
        takeovers: 2,
        crashes: 1,
        resends: 1,
        ..Budget::NONE
    },
    sights: &[Sight::TwoOwners, Sight::Conflict, Sight::FloatStored],
    ..RIVALS
};

/// The same commands are sent again and again, and arrive in any order.
pub const COPIES: Setup = Setup {
    name: "copies",
    clients: &[ALICE_BATCH, BOB],
    budget: Budget {
        takeovers: 1,
        timeouts: 1,
        echoes: 1,
        late_requests: 1,
        resends: 2,
        ..Budget::NONE
    },
    sights: &[
        Sight::Repeat,
        Sight::LateArrival,
        Sight::Later,
        Sight::StoredButConflict,
    ],
    ..RIVALS
};

/// A member is banned while its messages are on their way, at one owner or at two.
pub const BAN: Setup = Setup {
    name: "ban",
    clients: &[
        ALICE_ONCE,
        BOB,
        Client {
            user: OWNER,
            room: 0,
            batches: &[&[Does::Bans("alice")]],
        },
    ],
    members: &["alice", "bob"],
    budget: Budget {
        takeovers: 1,
        timeouts: 1,
        late_requests: 1,
        resends: 1,
        ..Budget::NONE
    },
    sights: &[
        Sight::DeniedByRead,
        Sight::DeniedByRecord,
        Sight::LateArrival,
        Sight::TwoOwners,
    ],
    ..RIVALS
};

/// What is refused at one moment may be allowed at the next: a ban is lifted, and made again, while an
/// older copy of what was refused is on its way.
pub const UNBAN: Setup = Setup {
    name: "unban",
    clients: &[
        Client {
            user: "alice",
            room: 0,
            batches: &[&[Does::Joins, Does::Says]],
        },
        Client {
            user: OWNER,
            room: 0,
            batches: &[&[Does::Unbans("alice")], &[Does::Bans("alice")]],
        },
    ],
    members: &["alice"],
    past: &[(OWNER, Does::Bans("alice"))],
    clock: &[PAST, 0, 3_000],
    budget: Budget {
        takeovers: 1,
        late_requests: 1,
        resends: 1,
        ..Budget::NONE
    },
    sights: &[
        Sight::DeniedByRead,
        Sight::DeniedByRecord,
        Sight::BehindDeadline,
        Sight::LateArrival,
        Sight::Later,
    ],
    ..RIVALS
};

/// The same, and it is an append that is on its way.
pub const LIFTED: Setup = Setup {
    name: "lifted",
    clock: &[PAST, 0],
    budget: Budget {
        takeovers: 1,
        timeouts: 1,
        late_answers: 1,
        resends: 1,
        ..Budget::NONE
    },
    sights: &[
        Sight::DeniedByRead,
        Sight::DeniedByRecord,
        Sight::FloatStored,
        Sight::StoredButTimedOut,
    ],
    ..UNBAN
};

/// Two rooms share the partition: what is refused or looked up in one must not touch the other.
pub const ROOMS: Setup = Setup {
    name: "rooms",
    clients: &[
        ALICE_ONCE,
        Client {
            user: "bob",
            room: 1,
            batches: &[&[Does::Says]],
        },
        Client {
            user: OWNER,
            room: 0,
            batches: &[&[Does::Bans("alice")]],
        },
    ],
    writers: 3,
    budget: Budget {
        takeovers: 1,
        crashes: 1,
        resends: 1,
        ..Budget::NONE
    },
    sights: &[Sight::TwoOwners, Sight::Conflict, Sight::DeniedByRead],
    ..RIVALS
};

/// The same three writers and two rooms, and more goes wrong; each takes long.
pub const SOAK: [Setup; 3] = [
    Setup {
        name: "soak-timeouts",
        budget: Budget {
            takeovers: 2,
            timeouts: 1,
            late_answers: 1,
            resends: 1,
            ..Budget::NONE
        },
        sights: &[
            Sight::TwoOwners,
            Sight::Conflict,
            Sight::DeniedByRead,
            Sight::FloatStored,
            Sight::StoredButTimedOut,
        ],
        ..ROOMS
    },
    Setup {
        name: "soak-late",
        budget: Budget {
            takeovers: 2,
            crashes: 1,
            late_requests: 1,
            resends: 1,
            ..Budget::NONE
        },
        sights: &[
            Sight::TwoOwners,
            Sight::Conflict,
            Sight::DeniedByRead,
            Sight::LateArrival,
        ],
        ..ROOMS
    },
    Setup {
        name: "soak-cold",
        cold: true,
        forgets: true,
        budget: Budget {
            takeovers: 1,
            ticks: 1,
            failed_asks: 1,
            resends: 1,
            ..Budget::NONE
        },
        sights: &[Sight::TwoOwners, Sight::ColdRoom, Sight::Later],
        ..ROOMS
    },
];

/// Owners know only the log's tail, forget what they may, and ask a history that lags.
pub const COLD: Setup = Setup {
    name: "cold",
    clients: &[Client {
        user: "alice",
        room: 0,
        batches: &[&[Does::Answers(5), Does::Says]],
    }],
    members: &["alice", "bob"],
    past: &[("bob", Does::Says)],
    cold: true,
    forgets: true,
    budget: Budget {
        takeovers: 1,
        ticks: 1,
        failed_asks: 1,
        resends: 1,
        ..Budget::NONE
    },
    sights: &[Sight::ColdRoom, Sight::Repeat, Sight::Later],
    ..RIVALS
};

/// One owner that forgets again and again, and must be told by history what it knew itself.
pub const FORGETFUL: Setup = Setup {
    name: "forgetful",
    clients: &[Client {
        user: "alice",
        room: 0,
        batches: &[&[Does::Answers(5)], &[Does::Says]],
    }],
    members: &["alice", "bob"],
    past: &[("bob", Does::Says)],
    clock: &[PAST, 0, 12_000],
    cold: true,
    forgets: true,
    budget: Budget {
        late_answers: 1,
        ticks: 2,
        resends: 1,
        ..Budget::NONE
    },
    sights: &[Sight::ColdRoom, Sight::AskedAgain, Sight::Repeat],
    ..RIVALS
};

/// Appends time out one after the other and may still arrive; the room is frozen and thawed meanwhile.
pub const FLOATS: Setup = Setup {
    name: "floats",
    clients: &[
        ALICE_BATCH,
        Client {
            user: OWNER,
            room: 0,
            batches: &[&[Does::Freezes], &[Does::Thaws]],
        },
    ],
    members: &["alice"],
    clock: &[PAST, 0, 1_500],
    budget: Budget {
        timeouts: 2,
        late_answers: 1,
        ticks: 1,
        resends: 2,
        ..Budget::NONE
    },
    sights: &[
        Sight::FloatStored,
        Sight::StoredButTimedOut,
        Sight::DeniedByRecord,
        Sight::Later,
    ],
    ..RIVALS
};
