//! What the core makes of what the server says: replies, events, and the frames around them.

use super::{Core, Output, SETTLED_MAX};
use crate::change::Change;
use crate::connection::{LinkId, StopReason};
use crate::outbox::{Delivery, Outcome};
use crate::reads::{Answer, Asker};
use crate::rooms::Effect;
use crate::update::{Follow, Update};
use protocol::frame::server::{ServerEvent, ServerFrame};
use protocol::frame::{ClientFrame, ClientOp, HelloOk, Page};
use protocol::query::ReadCommand;
use protocol::request::Accepted;
use protocol::{ErrorCode, Refusal, RoomId, Timestamp};
use serde_json::Value;
use std::sync::Arc;

impl Core {
    pub(super) fn handle_frame(&mut self, link: LinkId, frame: ServerFrame, now: Timestamp) {
        match frame {
            ServerFrame::Reply {
                id: Some(id),
                result,
            } => self.handle_reply(id, result, now),
            ServerFrame::Reply { id: None, result } => {
                tracing::warn!(?result, "the server could not read a line of ours");
            }
            ServerFrame::Durable(event) => self.rooms.handle_event(*event),
            ServerFrame::Event(event) => self.handle_server_event(link, event, now),
            ServerFrame::Unknown => {}
        }
        self.take_effects();
    }

    fn handle_reply(&mut self, id: u64, result: Result<Value, Refusal>, now: Timestamp) {
        if let Some(link) = self.hellos.remove(&id) {
            return self.handle_hello(link, result, now);
        }
        if let Some(answer) = self.reads.handle_reply(id, result.clone(), now) {
            return self.answer(answer, now);
        }
        let accepted = result.and_then(|ok| {
            serde_json::from_value::<Accepted>(ok)
                .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))
        });
        let context = (&mut self.cids, &mut self.rng);
        if let Some(outcome) = self.outbox.handle_reply(id, accepted, now, context) {
            self.settle(outcome);
        }
    }

    fn settle(
        &mut self,
        Outcome {
            entry,
            cid,
            delivery,
        }: Outcome,
    ) {
        let change = match &delivery {
            Delivery::Stored(accepted) => {
                // Who ignores events would keep it for ever: its event never comes.
                if let Some(room) = &entry.room
                    && !accepted.noop
                    && self.config.follow != Follow::Nothing
                {
                    self.settled
                        .push_back((room.clone(), accepted.seq, entry.clone()));
                    if self.settled.len() > SETTLED_MAX {
                        self.settled.pop_front();
                    }
                }
                Some(Change::OutboxRemove(entry.position))
            }
            Delivery::Failed(_) | Delivery::Renamed(_) => {
                Some(Change::OutboxPut(Box::new(entry.clone())))
            }
            Delivery::Queued | Delivery::Sent => None,
        };
        self.outputs.extend(change.map(Output::Save));
        self.show_delivery(cid, entry.room, delivery);
    }

    fn handle_hello(&mut self, link: LinkId, result: Result<Value, Refusal>, now: Timestamp) {
        let parsed = result.and_then(|ok| {
            serde_json::from_value::<HelloOk>(ok)
                .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()))
        });
        let hello = match parsed {
            Ok(hello) => hello,
            Err(refusal) => {
                self.connection
                    .handle_refused(link, &refusal, now, &mut self.rng);
                return self.link_lost(link, now);
            }
        };
        if self.user.as_ref().is_some_and(|user| *user != hello.user) {
            // Another user's commands must not go out under this name.
            return self.connection.stop(StopReason::OtherUser);
        }
        if self.user.is_none() {
            self.user = Some(hello.user.clone());
            self.rooms.set_me(hello.user.clone());
            self.outputs
                .push_back(Output::Save(Change::User(hello.user.clone())));
        }
        self.cids.set_server_time(hello.now, now);
        self.pace.set_limits(&hello.limits);
        if !hello.resumed {
            self.unnamed = Some(self.rooms.iter().map(|(id, _)| id.clone()).collect());
        }
        self.connection.handle_greeted(link, now);
        // Before what this socket brings.
        self.show_connection();
        self.outputs
            .push_back(Output::Show(Update::Hello(Arc::new(hello))));
    }

    fn handle_server_event(&mut self, link: LinkId, event: ServerEvent, now: Timestamp) {
        match event {
            ServerEvent::State(snapshot) => {
                self.name(&snapshot.room);
                self.rooms.handle_state(*snapshot);
            }
            ServerEvent::Skip(skip) => {
                self.name(&skip.state.room);
                self.rooms.handle_skip(*skip);
            }
            ServerEvent::Gone(gone) => self.rooms.handle_gone(&gone.room),
            ServerEvent::Live { cur } => {
                for room in self.unnamed.take().unwrap_or_default() {
                    self.rooms.handle_gone(&room);
                }
                self.connection.handle_live(link, now);
                self.rooms.handle_live();
                self.take_effects();
                self.take_cursor(link, Some(cur));
                self.outputs.push_back(Output::Show(Update::Live));
            }
            ServerEvent::Ping { cur, now: _ } => {
                self.take_cursor(link, cur);
                let pong = ClientFrame {
                    id: None,
                    op: ClientOp::Pong,
                }
                .to_line();
                self.outputs
                    .push_back(Output::Transmit { link, text: pong });
            }
            ServerEvent::Goaway { within_ms, why: _ } => {
                self.connection
                    .handle_goaway(link, within_ms, now, &mut self.rng);
            }
            ServerEvent::Lagged {} => {}
            ServerEvent::Token { exp_in_s: _ } => {
                self.outputs.push_back(Output::Refresh { link });
            }
        }
    }

    fn name(&mut self, room: &RoomId) {
        if let Some(unnamed) = &mut self.unnamed {
            unnamed.remove(room);
        }
    }

    fn take_cursor(&mut self, link: LinkId, cursor: Option<String>) {
        // A socket that is being left, or not live yet, covers less than the main one.
        if cursor.is_some() && self.connection.is_main(link) {
            self.held_cursor = cursor;
        }
    }

    /// Stores the newest cursor once nothing that it covers is missing.
    pub(super) fn store_cursor(&mut self) {
        if self.config.follow != Follow::Nothing
            && !self.rooms.has_holes()
            && let Some(cursor) = self.held_cursor.take()
        {
            self.cursor = Some(cursor.clone());
            self.outputs.push_back(Output::Save(Change::Cursor(cursor)));
        }
    }

    pub(super) fn take_effects(&mut self) {
        while let Some(effect) = self.rooms.poll_effect() {
            self.outputs.push_back(match effect {
                Effect::Save(change) => Output::Save(change),
                Effect::Show(update) => Output::Show(update),
            });
        }
    }

    pub(super) fn answer(
        &mut self,
        Answer {
            asker,
            command,
            result,
        }: Answer,
        now: Timestamp,
    ) {
        match asker {
            Asker::Hole(room) => {
                let page = result.and_then(parse_page);
                self.rooms.handle_page(&room, page, now);
            }
            Asker::Application(ticket) => {
                if let (
                    ReadCommand::History {
                        room, all: false, ..
                    },
                    Ok(ok),
                ) = (&command, &result)
                    && let Ok(page) = parse_page(ok.clone())
                {
                    self.rooms.handle_history(room, &page);
                }
                self.outputs.push_back(Output::Answer { ticket, result });
            }
        }
        self.take_effects();
    }
}

fn parse_page(ok: Value) -> Result<Page, Refusal> {
    serde_json::from_value(ok)
        .map_err(|error| Refusal::new(ErrorCode::Internal, error.to_string()).after_ms(1_000))
}

/// Whether a line is a durable event, found without parsing it: one who only sends gets many.
pub(super) fn is_durable(line: &str) -> bool {
    const CONTROL: [&str; 8] = [
        r#"{"ev":"state""#,
        r#"{"ev":"skip""#,
        r#"{"ev":"live""#,
        r#"{"ev":"ping""#,
        r#"{"ev":"goaway""#,
        r#"{"ev":"lagged""#,
        r#"{"ev":"token""#,
        r#"{"ev":"gone""#,
    ];
    !line.starts_with(r#"{"id":"#)
        && !CONTROL.iter().any(|start| line.starts_with(start))
        && line.contains(r#""by":"#)
        && line.contains(r#""seq":"#)
}
