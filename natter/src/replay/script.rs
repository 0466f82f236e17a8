//! From lines to what each user does, in which room, in which order.
//!
//! Pure. A nick is a user; after a rename the new nick is the same user. Somebody who speaks without
//! having joined was there before the log began, so they join first. What is answered refers to a step
//! by its number, since seqs are known only once the server has given them.

use super::irc::{Line, Parsed, parse, parse_annotations};
use std::collections::{BTreeMap, BTreeSet};

/// Milliseconds between the last line of a file and the first of the next, when time is kept.
const FILE_GAP_MS: u64 = 1_000;
/// The room of lines that name no channel.
const DEFAULT_CHANNEL: &str = "#replay";

/// A file to replay.
#[derive(Clone, Debug)]
pub(crate) struct Source {
    /// Its lines.
    pub(crate) bytes: Vec<u8>,
    /// The text of the annotation file beside it, if there is one.
    pub(crate) annotations: Option<String>,
}

/// What a user does in one step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Act {
    Join,
    Leave,
    /// Says something, in answer to the step with this number.
    Say {
        text: String,
        reply_to: Option<usize>,
    },
}

/// One command of one user.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Index of the user.
    pub(crate) user: usize,
    /// Index of the room.
    pub(crate) room: usize,
    /// When, in ms after the first line.
    pub(crate) at_ms: u64,
    /// What.
    pub(crate) act: Act,
}

/// How many lines of which sort were read.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub(crate) struct Counts {
    pub(crate) lines: u64,
    pub(crate) messages: u64,
    pub(crate) actions: u64,
    pub(crate) replies: u64,
    pub(crate) joins: u64,
    pub(crate) leaves: u64,
    pub(crate) renames: u64,
    pub(crate) blank: u64,
    pub(crate) other: u64,
}

/// What is going to be played.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Script {
    /// Names of the users, each once; a user keeps the first nick.
    pub(crate) users: Vec<String>,
    /// Names of the rooms.
    pub(crate) rooms: Vec<String>,
    /// Every command in the order of the files.
    pub(crate) steps: Vec<Step>,
    /// What the files held.
    pub(crate) counts: Counts,
}

/// Reads files into a script.
pub(crate) fn write(sources: &[Source]) -> Script {
    let mut writer = Writer::default();
    for source in sources {
        writer.read(source);
    }
    writer.script
}

#[derive(Default)]
struct Writer {
    script: Script,
    users: BTreeMap<String, usize>,
    rooms: BTreeMap<String, usize>,
    /// Who is in which room: (room, user).
    inside: BTreeSet<(usize, usize)>,
    /// Whose nick it is now, where that is not the user of the same name.
    nicks: BTreeMap<String, usize>,
    /// The channel that system lines of the present file name.
    channel: Option<String>,
    file_start_ms: u64,
    clock: Clock,
}

/// Turns times of day into ms since the first line; a time that goes back is the next day.
#[derive(Default)]
struct Clock {
    first: Option<u64>,
    day: u64,
    last_second: u32,
}

impl Clock {
    fn at_ms(&mut self, second: Option<u32>) -> u64 {
        if let Some(second) = second {
            // Lines of logs are out of order by a minute at times; only a large step is midnight.
            if second + 12 * 3_600 < self.last_second {
                self.day += 1;
            }
            self.last_second = second;
        }
        let now = (self.day * 86_400 + u64::from(self.last_second)) * 1_000;
        now.saturating_sub(*self.first.get_or_insert(now))
    }
}

impl Writer {
    fn read(&mut self, source: &Source) {
        let replies = source
            .annotations
            .as_deref()
            .map(parse_annotations)
            .unwrap_or_default();
        self.nicks.clear();
        self.clock = Clock::default();
        let body = source.bytes.strip_suffix(b"\n").unwrap_or(&source.bytes);
        let lines: Vec<Parsed> = body.split(|byte| *byte == b'\n').map(parse).collect();
        self.channel = lines.iter().find_map(|parsed| parsed.channel.clone());
        let mut step_of_line = BTreeMap::new();
        let mut end_ms = self.file_start_ms;
        for (number, parsed) in lines.into_iter().enumerate() {
            self.script.counts.lines += 1;
            let at_ms = self.file_start_ms + self.clock.at_ms(parsed.second);
            end_ms = end_ms.max(at_ms);
            let channel = match &parsed.date {
                Some(_) => parsed.channel,
                None => self.channel.clone(),
            };
            let room = self.room(&channel.unwrap_or_else(|| DEFAULT_CHANNEL.to_owned()));
            let reply_to = replies
                .get(&number)
                .and_then(|target| step_of_line.get(target));
            if let Some(step) = self.line(parsed.line, (room, at_ms), reply_to.copied()) {
                step_of_line.insert(number, step);
            }
        }
        self.file_start_ms = end_ms + FILE_GAP_MS;
    }

    /// Adds what a line asks for; the number of the step that says something.
    fn line(
        &mut self,
        line: Line,
        (room, at_ms): (usize, u64),
        reply_to: Option<usize>,
    ) -> Option<usize> {
        let (nick, text) = match line {
            Line::Said { nick, text } => {
                self.script.counts.messages += 1;
                (nick, text)
            }
            Line::Did { nick, text } => {
                self.script.counts.messages += 1;
                self.script.counts.actions += 1;
                (nick, format!("/me {text}"))
            }
            Line::Blank => {
                self.script.counts.blank += 1;
                return None;
            }
            Line::Other => {
                self.script.counts.other += 1;
                return None;
            }
            Line::Joined { nick } => {
                let user = self.user(&nick);
                self.enter(room, user, at_ms);
                return None;
            }
            Line::Left { nick } => {
                let user = self.user(&nick);
                // One who was there before the log began and says nothing is not worth a join.
                if self.inside.remove(&(room, user)) {
                    self.script.counts.leaves += 1;
                    self.script.steps.push(Step {
                        user,
                        room,
                        at_ms,
                        act: Act::Leave,
                    });
                }
                return None;
            }
            Line::Renamed { old, new } => {
                self.script.counts.renames += 1;
                let user = self.user(&old);
                self.nicks.remove(&old);
                self.nicks.insert(new, user);
                return None;
            }
        };
        let user = self.user(&nick);
        self.enter(room, user, at_ms);
        self.script.counts.replies += u64::from(reply_to.is_some());
        self.script.steps.push(Step {
            user,
            room,
            at_ms,
            act: Act::Say { text, reply_to },
        });
        Some(self.script.steps.len() - 1)
    }

    fn enter(&mut self, room: usize, user: usize, at_ms: u64) {
        if self.inside.insert((room, user)) {
            self.script.counts.joins += 1;
            self.script.steps.push(Step {
                user,
                room,
                at_ms,
                act: Act::Join,
            });
        }
    }

    fn user(&mut self, nick: &str) -> usize {
        if let Some(user) = self.nicks.get(nick) {
            return *user;
        }
        let users = &mut self.script.users;
        *self.users.entry(nick.to_owned()).or_insert_with(|| {
            users.push(nick.to_owned());
            users.len() - 1
        })
    }

    fn room(&mut self, name: &str) -> usize {
        let rooms = &mut self.script.rooms;
        *self.rooms.entry(name.to_owned()).or_insert_with(|| {
            rooms.push(name.to_owned());
            rooms.len() - 1
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn script(text: &str, annotations: Option<&str>) -> Script {
        let annotations = annotations.map(str::to_owned);
        write(&[Source {
            bytes: text.as_bytes().to_vec(),
            annotations,
        }])
    }

    /// Steps as short words.
    fn told(script: &Script) -> Vec<String> {
        let tell = |step: &Step| {
            let user = &script.users[step.user];
            match &step.act {
                Act::Join => format!("+{user}"),
                Act::Leave => format!("-{user}"),
                Act::Say {
                    text,
                    reply_to: None,
                } => format!("{user}: {text}"),
                Act::Say {
                    text,
                    reply_to: Some(to),
                } => format!("{user}: {text} ({to})"),
            }
        };
        script.steps.iter().map(tell).collect()
    }

    #[test]
    fn one_who_speaks_without_having_joined_joins_first() {
        let script = script("[10:00] <ann> hi\n[10:01] <ann> again\n", None);
        assert_eq!(told(&script), ["+ann", "ann: hi", "ann: again"]);
        assert_eq!(script.counts.lines, 2);
    }

    #[test]
    fn a_new_nick_stays_the_same_user_and_may_come_back() {
        let text = "[10:00] <ann> a\n=== ann is now known as ann_away\n[10:01] <ann_away> b\n\
                    === ann_away is now known as ann\n[10:02] <ann> c\n";
        let script = script(text, None);
        assert_eq!(script.users, ["ann"]);
        assert_eq!(told(&script), ["+ann", "ann: a", "ann: b", "ann: c"]);
        assert_eq!(script.counts.renames, 2);
    }

    #[test]
    fn joins_and_leaves_are_steps_and_a_leave_of_a_stranger_is_none() {
        let text = "=== ann [a@h]  has joined #x\n=== ann [a@h]  has joined #x\n\
                    === ann [a@h]  has left #x []\n=== bob [b@h]  has left #x []\n[10:00] <ann> back\n";
        let script = script(text, None);
        assert_eq!(told(&script), ["+ann", "-ann", "+ann", "ann: back"]);
        assert_eq!(script.rooms, ["#x"]);
    }

    #[test]
    fn an_answer_names_the_step_of_the_line_it_answers() {
        let text = "[10:00] <ann> q\n=== mode/#x [+o ann]\n[10:00] <bob>\n[10:01] <bob> a\n";
        let script = script(text, Some("0 3 -\n2 3 -\n"));
        assert_eq!(told(&script), ["+ann", "ann: q", "+bob", "bob: a (1)"]);
        assert_eq!(
            (
                script.counts.blank,
                script.counts.other,
                script.counts.replies
            ),
            (1, 1, 1)
        );
        let to_blank = write(&[Source {
            bytes: text.as_bytes().to_vec(),
            annotations: Some("2 3 -\n".to_owned()),
        }]);
        assert_eq!(
            to_blank.counts.replies, 0,
            "a skipped line cannot be answered"
        );
    }

    #[test]
    fn time_goes_over_midnight_and_from_file_to_file() {
        let text = "[23:59] <a> x\n[00:01] <a> y\n[00:00] <a> z\n";
        let source = Source {
            bytes: text.as_bytes().to_vec(),
            annotations: None,
        };
        let script = write(&[source.clone(), source]);
        let at: Vec<u64> = script.steps.iter().map(|step| step.at_ms).collect();
        assert_eq!(at, [0, 0, 120_000, 60_000, 121_000, 241_000, 181_000]);
    }

    #[test]
    fn lines_that_name_a_channel_go_to_its_room() {
        let text = "#a 2024-01-01 [10:00:00] <ann> x\n#b 2024-01-01 [10:00:01] <ann> y\n";
        let script = script(text, None);
        assert_eq!(script.rooms, ["#a", "#b"]);
        assert_eq!(told(&script), ["+ann", "ann: x", "+ann", "ann: y"]);
        assert_eq!(
            script.steps.last().map(|step| (step.room, step.at_ms)),
            Some((1, 1_000))
        );
    }

    #[test]
    fn the_excerpts_of_the_corpus_are_read_to_the_last_line() {
        let folder = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/data/irc/");
        let read = |name: &str| std::fs::read(format!("{folder}{name}")).unwrap();
        let day = Source {
            bytes: read("2007-09-07.raw.txt"),
            annotations: String::from_utf8(read("2007-09-07.annotation.txt")).ok(),
        };
        let forms = Source {
            bytes: read("forms.txt"),
            annotations: None,
        };
        let day = write(&[day]);
        assert_eq!(day.rooms, ["#ubuntu"]);
        let counts = day.counts;
        let seen = counts.messages + counts.blank + counts.other + counts.renames;
        assert_eq!(
            (counts.lines, counts.messages, counts.replies),
            (330, 239, 148)
        );
        assert!(seen <= counts.lines);
        let forms = write(&[forms]);
        assert_eq!(forms.users, ["ann", "bob", "[cc]smart", "eve"]);
        assert_eq!(forms.rooms, ["#forms", "#other"]);
        let counts = forms.counts;
        assert_eq!((counts.lines, counts.messages, counts.actions), (13, 6, 2));
        assert_eq!((counts.blank, counts.other, counts.renames), (2, 2, 1));
        assert_eq!((counts.joins, counts.leaves), (4, 1));
        let text = &told(&forms)[6];
        assert_eq!(text, "[cc]smart: caf\u{fffd} and \u{2}bold\u{2}, naïve");
    }
}
