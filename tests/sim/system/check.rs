//! Judges a world: whether everything has come to rest, and whether all then have the same.

use super::device::Device;
use super::tables::Tables;
use super::world::World;
use client::{ConnectionState, Follow, Line};
use protocol::event::EventBody;
use protocol::frame::TimelineEntry;
use protocol::query::Viewer;
use protocol::room::message::MessageState;
use protocol::{RoomId, Seq};
use std::collections::BTreeMap;

/// What still goes on, or what somebody has not yet.
pub fn unsettled(world: &World) -> Option<String> {
    let end = world.stream.end();
    if world.tables.applied != end {
        return Some("history is behind".to_owned());
    }
    for (index, gateway) in world.gateways.iter().enumerate() {
        if !gateway.as_ref().is_some_and(|gateway| gateway.is_even(end)) {
            return Some(format!("gateway {index} has not everything up to {end}"));
        }
    }
    for (index, device) in world.devices.iter().enumerate() {
        if let Some(what) = device_unsettled(world, device) {
            return Some(format!("device {index}: {what}"));
        }
    }
    (!world.is_quiet()).then(|| "somebody waits for an answer".to_owned())
}

fn device_unsettled(world: &World, device: &Device) -> Option<String> {
    let Some(core) = &device.core else {
        return Some("it is down".to_owned());
    };
    if core.connection_state() != ConnectionState::Connected {
        return Some(format!("it is {:?}", core.connection_state()));
    }
    if !core.is_idle() {
        return Some("commands wait".to_owned());
    }
    let rooms = world.stream.rooms_of(&device.user);
    let heads: BTreeMap<RoomId, Seq> = rooms
        .into_iter()
        .map(|room| (room.clone(), world.stream.rooms[&room].head))
        .collect();
    (heads != device.seen).then(|| format!("it has {:?}, not {heads:?}", device.seen))
}

/// Compares everybody with the log once all is quiet.
///
/// # Errors
/// Says which promise is broken, and where.
pub fn settled(world: &World) -> Result<(), String> {
    archive(world)?;
    for (index, device) in world.devices.iter().enumerate() {
        let wrong = asked(world, device).and_then(|()| shown(world, device));
        wrong.map_err(|what| format!("device {index} ({}): {what}", device.user))?;
    }
    Ok(())
}

/// The archive must be what the log says.
fn archive(world: &World) -> Result<(), String> {
    let tables = &world.tables;
    for (id, room) in &world.stream.rooms {
        let archived = tables.room_state(id);
        if archived.as_ref() != Some(room) {
            return Err(format!("the archive has {archived:?}, the log {room:?}"));
        }
        let members = tables.rooms[id].members;
        if members != room.members.len() as u64 {
            return Err(format!("{id} is said to have {members} members"));
        }
        messages(world, tables, id)?;
    }
    Ok(())
}

fn messages(world: &World, tables: &Tables, id: &RoomId) -> Result<(), String> {
    let events = &world.stream.events[id];
    let archived = tables.events.get(id).map_or(0, BTreeMap::len);
    if archived != events.len() {
        return Err(format!("{id} has {archived} archived of {}", events.len()));
    }
    let mut states: BTreeMap<Seq, MessageState> = BTreeMap::new();
    for event in events {
        for (seq, state) in &mut states {
            state.apply(*seq, event);
        }
        if let Some(state) = MessageState::sent(event) {
            states.insert(event.seq, state);
        }
    }
    for (seq, state) in states {
        let text = tables.texts.get(id).and_then(|texts| texts.get(&seq));
        let same = text.is_some_and(|text| {
            (text.rev, text.shown_rev, text.eff, text.replies)
                == (state.rev, state.shown_rev, state.eff, state.replies)
                && text.deleted.is_some() == state.deleted
        });
        if !same {
            return Err(format!(
                "{id} {seq} is {text:?} in the archive, {state:?} in the log"
            ));
        }
    }
    Ok(())
}

/// What was asked for is stored once if it was acknowledged and never if it was refused, in its order.
fn asked(world: &World, device: &Device) -> Result<(), String> {
    let mut places: BTreeMap<&str, (&RoomId, Seq)> = BTreeMap::new();
    for (room, events) in &world.stream.events {
        for event in events.iter().filter(|event| event.by == device.user) {
            let EventBody::Msg(message) = &event.body else {
                continue;
            };
            if places.insert(&message.text, (room, event.seq)).is_some() {
                return Err(format!("{} is stored twice", short(&message.text)));
            }
        }
    }
    let mut last: BTreeMap<&RoomId, Seq> = BTreeMap::new();
    for asked in &device.asked {
        let place = places.get(asked.text.as_str());
        let text = short(&asked.text);
        if place.is_some_and(|(room, _)| **room != asked.room) {
            return Err(format!("{text} is stored in another room"));
        }
        match (&asked.told, place) {
            (Some(Ok(accepted)), Some((_, seq))) if accepted.seq == *seq => {}
            (Some(Ok(accepted)), _) => {
                return Err(format!(
                    "{text} was acknowledged as {}: {place:?}",
                    accepted.seq
                ));
            }
            (Some(Err(code)), Some((room, seq))) => {
                return Err(format!(
                    "{text} was refused ({code:?}), {room} {seq} is stored"
                ));
            }
            (None, None) if asked.saved && !asked.failed => {
                return Err(format!("{text} is lost"));
            }
            (Some(Err(_)) | None, None) | (None, Some(_)) => {}
        }
        let moved = asked.renamed || world.refused.contains(&asked.cid);
        if let (Some((room, seq)), false) = (place, moved)
            && last.insert(room, *seq).is_some_and(|before| before > *seq)
        {
            return Err(format!("{text} is stored before an earlier one, at {seq}"));
        }
    }
    Ok(())
}

fn short(text: &str) -> &str {
    text.split(' ').next().unwrap_or_default()
}

/// What the device shows must be what the archive has.
fn shown(world: &World, device: &Device) -> Result<(), String> {
    let Some(core) = &device.core else {
        return Ok(());
    };
    for room in device.seen.keys() {
        let view = core
            .view(room)
            .ok_or_else(|| format!("{room} is not shown"))?;
        let truth = &world.stream.rooms[room];
        let role = truth.role(&device.user);
        let snapshot = &view.snapshot;
        let told = (
            &snapshot.name,
            &snapshot.topic,
            snapshot.frozen,
            snapshot.slow_s,
        );
        let is = (&truth.name, &truth.topic, truth.frozen, truth.slow_s);
        if told != is || (snapshot.role != role && !room.is_own()) {
            return Err(format!("{room} is shown as {snapshot:?}, it is {truth:?}"));
        }
        if device.follow != Follow::Timeline {
            continue;
        }
        let mut unread = 0;
        for line in &view.lines {
            match line {
                Line::Stored { entry, pending } => {
                    if *pending {
                        return Err(format!("{room} shows a change that is not on its way"));
                    }
                    entry_is_true(world, room, entry)?;
                    unread += usize::from(is_unread(world, device, room, entry));
                }
                Line::Pending {
                    failed: Some(_), ..
                } => {}
                Line::Pending { text, .. } => {
                    return Err(format!("{room} shows {} as pending", short(text)));
                }
            }
        }
        if view.unread != unread {
            return Err(format!(
                "{room} shows {} unread, it is {unread}",
                view.unread
            ));
        }
    }
    counts(world, device)
}

fn entry_is_true(world: &World, room: &RoomId, entry: &TimelineEntry) -> Result<(), String> {
    let seq = entry.event.seq;
    let truth = match world.tables.entry(room, seq) {
        Some(message) => Some(message),
        None => world
            .stream
            .event(room, seq)
            .map(|event| TimelineEntry::plain(event.clone())),
    };
    if truth.as_ref() == Some(entry) {
        return Ok(());
    }
    if let Some(truth) = &truth
        && world.tables.has_lost_replies(room, seq)
        && (TimelineEntry {
            summary: None,
            ..truth.clone()
        }) == (TimelineEntry {
            summary: None,
            ..entry.clone()
        })
    {
        // A client cannot count out replies that it does not hold.
        return Ok(());
    }
    Err(format!("{room} shows {entry:?}, it is {truth:?}"))
}

/// The formula, on the log alone.
fn is_unread(world: &World, device: &Device, room: &RoomId, entry: &TimelineEntry) -> bool {
    let mark = world.stream.mark(&device.user, room).seq;
    let membership = world.stream.rooms[room].members.get(&device.user);
    let since = membership.map_or(Seq(u64::MAX), |membership| membership.since);
    let EventBody::Msg(message) = &entry.event.body else {
        return false;
    };
    message.n.is_some()
        && !entry.deleted
        && entry.event.by != device.user
        && entry.event.seq > mark.max(since)
}

/// The counts of the archive must be those of the formula.
fn counts(world: &World, device: &Device) -> Result<(), String> {
    let viewer = Viewer {
        user: device.user.clone(),
        guest: false,
    };
    for (room, told) in world.tables.unread_of(&viewer) {
        let texts = world.stream.events[&room].iter();
        let texts = texts.filter_map(|event| world.tables.entry(&room, event.seq));
        let unread = texts.filter(|entry| is_unread(world, device, &room, entry));
        let unread = u32::try_from(unread.count()).expect("few messages");
        if told != unread {
            return Err(format!(
                "the archive counts {told} unread in {room}, not {unread}"
            ));
        }
    }
    Ok(())
}
