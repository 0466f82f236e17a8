//! Questions on their way: sent when there is a socket, sent again when it is lost, until a deadline.
//!
//! Pure. A question changes nothing on the server, so asking twice is harmless.

use crate::connection::LinkId;
use protocol::frame::{ClientFrame, ClientOp};
use protocol::query::ReadCommand;
use protocol::{ErrorCode, Refusal, RoomId, Timestamp};
use serde_json::Value;
use std::collections::BTreeMap;

/// Questions of the application at once; the next is refused to it.
pub const READS_MAX: usize = 128;
/// A question without an answer for so long means that the socket is dead, in ms.
const ANSWER_MS_MAX: i64 = 20_000;

/// Who asked.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Asker {
    /// The rule of a room, to fill a hole.
    Hole(RoomId),
    /// The application; the number is its own.
    Application(u64),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Waiting(Timestamp),
    Sent {
        link: LinkId,
        id: u64,
        since: Timestamp,
    },
}

#[derive(Debug)]
struct Read {
    asker: Asker,
    command: ReadCommand,
    /// Only the application gives up.
    deadline: Option<Timestamp>,
    stage: Stage,
}

/// The answer to a question.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// Who asked.
    pub asker: Asker,
    /// What was asked.
    pub command: ReadCommand,
    /// What came back.
    pub result: Result<Value, Refusal>,
}

/// The questions without an answer.
#[derive(Debug, Default)]
pub struct Reads {
    reads: BTreeMap<u64, Read>,
    next_key: u64,
}

impl Reads {
    /// Asks; refused with `rate_limited` when too many questions wait.
    ///
    /// # Errors
    /// The refusal to hand to the application.
    pub fn push(
        &mut self,
        asker: Asker,
        command: ReadCommand,
        deadline: Option<Timestamp>,
        now: Timestamp,
    ) -> Result<(), Refusal> {
        if self.reads.len() >= READS_MAX && deadline.is_some() {
            return Err(Refusal::plain(ErrorCode::RateLimited));
        }
        let stage = Stage::Waiting(now);
        self.reads.insert(
            self.next_key,
            Read {
                asker,
                command,
                deadline,
                stage,
            },
        );
        self.next_key += 1;
        Ok(())
    }

    /// The next line to transmit.
    pub fn poll_line(&mut self, link: LinkId, now: Timestamp, next_id: &mut u64) -> Option<String> {
        let due = |read: &&mut Read| matches!(read.stage, Stage::Waiting(at) if at <= now);
        let read = self.reads.values_mut().find(due)?;
        read.stage = Stage::Sent {
            link,
            id: *next_id,
            since: now,
        };
        let op = ClientOp::Read(read.command.clone());
        let line = ClientFrame {
            id: Some(*next_id),
            op,
        }
        .to_line();
        *next_id += 1;
        Some(line)
    }

    /// Takes a reply; an [`Answer`] unless it is nobody's or will be asked again.
    pub fn handle_reply(
        &mut self,
        id: u64,
        result: Result<Value, Refusal>,
        now: Timestamp,
    ) -> Option<Answer> {
        let sent = |read: &Read| matches!(read.stage, Stage::Sent { id: sent, .. } if sent == id);
        let key = self
            .reads
            .iter()
            .find(|(_, read)| sent(read))
            .map(|(key, _)| *key)?;
        let read = self.reads.get_mut(&key)?;
        if let (Err(refusal), Some(deadline)) = (&result, read.deadline)
            && refusal.temp
        {
            let wait = refusal.retry_after_ms.and_then(|ms| i64::try_from(ms).ok());
            let again = now.plus_ms(wait.unwrap_or(1_000));
            if again < deadline {
                read.stage = Stage::Waiting(again);
                return None;
            }
        }
        let Read { asker, command, .. } = self.reads.remove(&key)?;
        Some(Answer {
            asker,
            command,
            result,
        })
    }

    /// The socket is gone: its questions are asked again.
    pub fn handle_link_lost(&mut self, link: LinkId, now: Timestamp) {
        for read in self.reads.values_mut() {
            if matches!(read.stage, Stage::Sent { link: sent, .. } if sent == link) {
                read.stage = Stage::Waiting(now);
            }
        }
    }

    /// Whether this socket still owes an answer.
    #[must_use]
    pub fn owes(&self, link: LinkId) -> bool {
        let on = |read: &Read| matches!(read.stage, Stage::Sent { link: sent, .. } if sent == link);
        self.reads.values().any(on)
    }

    /// A socket that has owed an answer for too long.
    #[must_use]
    pub fn overdue(&self, now: Timestamp) -> Option<LinkId> {
        self.reads.values().find_map(|read| match read.stage {
            Stage::Sent { link, since, .. } if since.plus_ms(ANSWER_MS_MAX) <= now => Some(link),
            Stage::Sent { .. } | Stage::Waiting(_) => None,
        })
    }

    /// A question whose asker has given up.
    pub fn poll_expired(&mut self, now: Timestamp) -> Option<Answer> {
        let expired = |read: &Read| read.deadline.is_some_and(|deadline| deadline <= now);
        let key = self
            .reads
            .iter()
            .find(|(_, read)| expired(read))
            .map(|(key, _)| *key)?;
        let Read { asker, command, .. } = self.reads.remove(&key)?;
        Some(Answer {
            asker,
            command,
            result: Err(Refusal::plain(ErrorCode::Timeout)),
        })
    }

    /// When something becomes due by time alone.
    #[must_use]
    pub fn poll_timeout(&self, now: Timestamp) -> Option<Timestamp> {
        let stage = |read: &Read| match read.stage {
            Stage::Waiting(at) => Some(at).filter(|at| *at > now),
            Stage::Sent { since, .. } => Some(since.plus_ms(ANSWER_MS_MAX)),
        };
        self.reads
            .values()
            .flat_map(|read| [stage(read), read.deadline])
            .flatten()
            .min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Timestamp = Timestamp(1_000);

    fn asked(deadline: Option<i64>) -> Reads {
        let mut reads = Reads::default();
        let deadline = deadline.map(|ms| NOW.plus_ms(ms));
        reads
            .push(Asker::Application(7), ReadCommand::Unread {}, deadline, NOW)
            .unwrap();
        assert!(reads.poll_line(1, NOW, &mut 5).is_some());
        assert_eq!(reads.poll_line(1, NOW, &mut 6), None);
        reads
    }

    #[test]
    fn a_question_survives_a_lost_socket() {
        let mut reads = asked(None);
        reads.handle_link_lost(1, NOW);
        assert!(
            reads
                .poll_line(2, NOW, &mut 9)
                .unwrap()
                .contains(r#""id":9"#)
        );
        let answer = reads.handle_reply(9, Ok(Value::Null), NOW).unwrap();
        assert_eq!(answer.asker, Asker::Application(7));
    }

    #[test]
    fn a_temporary_refusal_is_waited_out_until_the_deadline() {
        let mut reads = asked(Some(2_500));
        let refusal = || Err(Refusal::plain(ErrorCode::Unavailable));
        assert_eq!(reads.handle_reply(5, refusal(), NOW), None);
        assert_eq!(reads.poll_timeout(NOW), Some(NOW.plus_ms(1_000)));
        let later = NOW.plus_ms(1_000);
        assert!(reads.poll_line(1, later, &mut 6).is_some());
        let answer = reads
            .handle_reply(6, refusal(), later.plus_ms(1_000))
            .unwrap();
        assert_eq!(answer.result.unwrap_err().code, ErrorCode::Unavailable);
    }

    #[test]
    fn a_question_without_an_answer_ends_at_its_deadline() {
        let mut reads = asked(Some(2_500));
        assert_eq!(reads.poll_expired(NOW), None);
        let answer = reads.poll_expired(NOW.plus_ms(2_500)).unwrap();
        assert_eq!(answer.result.unwrap_err().code, ErrorCode::Timeout);
    }
}
