//! Each command: answered, in the archive, where and as it was acknowledged, and in its sender's order.

use std::collections::BTreeMap;

use protocol::{Seq, UserId};

use super::archive::{Archived, Book};
use super::verdict::{Fault, Verdict, count};
use super::{Answer, Command, Evidence};

pub(super) fn judge(evidence: &Evidence, book: &Book<'_>, verdict: &mut Verdict) {
    verdict.sent = count(evidence.commands.len());
    for command in &evidence.commands {
        let stored = book.stored(&command.by, command.cid);
        verdict.stored += u64::from(stored.is_some());
        verdict.acked += u64::from(matches!(command.answer, Answer::Stored(_) | Answer::Noop));
        judge_answer(command, stored, book, verdict);
    }
    for (place, answer) in &evidence.repeats {
        let Some(command) = evidence.commands.get(*place) else {
            continue;
        };
        if *answer != command.answer && *answer != Answer::None {
            verdict.complain(Fault::TwoSeqs, || {
                format!(
                    "{} is answered {:?}, and then {answer:?}",
                    command.cid, command.answer
                )
            });
        }
    }
    judge_order(evidence, book, verdict);
}

fn judge_answer(
    command: &Command,
    stored: Option<&Archived>,
    book: &Book<'_>,
    verdict: &mut Verdict,
) {
    let cid = command.cid;
    match (command.answer, stored) {
        (Answer::Stored(seq), Some(event)) if seq != event.seq => {
            verdict.complain(Fault::TwoSeqs, || {
                format!(
                    "{cid} is acknowledged at {seq} and archived at {}",
                    event.seq
                )
            });
        }
        (Answer::Stored(seq), Some(event)) => {
            if event.content != command.content && !book.is_blanked(event) {
                verdict.complain(Fault::ArchiveDiffers, || {
                    format!("what is at {seq} is not what was sent as {cid}")
                });
            }
        }
        (Answer::Stored(seq), None) => verdict.complain(Fault::Lost, || {
            format!("{cid} is acknowledged at {seq} and not in the archive")
        }),
        (Answer::Noop, Some(event)) => verdict.complain(Fault::ArchiveDiffers, || {
            format!(
                "nothing had to change for {cid}, and {} is stored",
                event.seq
            )
        }),
        (Answer::Noop, None) => {
            if !command.content.may_be_noop() {
                verdict.complain(Fault::Lost, || {
                    format!("{cid} is acknowledged as if nothing had to change")
                });
            }
        }
        (Answer::Refused, Some(event)) => verdict.complain(Fault::RefusedButStored, || {
            format!("{cid} is refused for good and stored at {}", event.seq)
        }),
        (Answer::Refused, None) => {}
        (Answer::None, _) => verdict.complain(Fault::Stuck, || {
            format!("{cid} of {} has no final answer", command.by)
        }),
    }
}

/// What one sender wrote first comes first.
fn judge_order(evidence: &Evidence, book: &Book<'_>, verdict: &mut Verdict) {
    let mut last: BTreeMap<&UserId, Seq> = BTreeMap::new();
    for command in &evidence.commands {
        let Some(event) = book.stored(&command.by, command.cid) else {
            continue;
        };
        let last = last.entry(&command.by).or_default();
        if event.seq < *last {
            verdict.complain(Fault::Disorder, || {
                format!("{} of {} was sent after {last}", event.seq, command.by)
            });
        }
        *last = (*last).max(event.seq);
    }
}
