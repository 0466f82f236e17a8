//! Users whose own rooms, and whose rooms for two, lie in the one partition that is simulated.

use protocol::{Cid, Partition, RoomId, UserId};
use std::sync::LazyLock;

use crate::rng::Rng;

/// The simulated partition.
pub fn partition() -> Partition {
    Partition::new(7).expect("below 64")
}

/// Four users; the own room of each lies in the partition, and so does the room of the first two.
pub static PEOPLE: LazyLock<Vec<UserId>> = LazyLock::new(|| {
    let here = |room: RoomId| room.partition() == partition();
    let mut fitting = (0..u32::MAX)
        .map(|n| UserId::parse(&format!("u{n}")).expect("in the grammar"))
        .filter(|user| here(RoomId::own(user)));
    let first = fitting.next().expect("one of many");
    let second = fitting
        .find(|user| here(RoomId::direct(&[first.clone(), user.clone()])))
        .expect("one of many");
    let mut people = vec![first, second];
    people.extend(fitting.take(2));
    people
});

/// A cid of this time whose created room lies in the partition.
pub fn room_cid(author: &UserId, time_ms: u64, rng: &mut Rng) -> (Cid, RoomId) {
    loop {
        let cid = Cid::from_parts(time_ms, rng.ten_bytes());
        let room = RoomId::created(author, cid);
        if room.partition() == partition() {
            return (cid, room);
        }
    }
}
