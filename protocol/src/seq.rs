//! Positions: of an event in its room, and of a record in the log. They do not convert.

use serde::{Deserialize, Serialize};
use std::fmt;

macro_rules! position {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(
            Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
        )]
        #[serde(transparent)]
        pub struct $name(pub u64);

        impl $name {
            /// The position behind this one.
            #[must_use]
            pub fn next(self) -> Self {
                Self(self.0.checked_add(1).expect("2^64 positions are never used up"))
            }

            /// The position before this one; that of 0 is 0.
            #[must_use]
            pub fn before(self) -> Self {
                Self(self.0.saturating_sub(1))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

position! {
    /// Dense position of a durable event in its room, from 1; 0 is before the first.
    Seq
}
position! {
    /// Position of a record in the stream `NATTER_LOG`, from 1; 0 is before the first.
    StreamSeq
}
