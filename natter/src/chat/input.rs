//! What a typed line asks for. Pure.

use protocol::Seq;

/// What can be typed; shown by `/help`.
pub(crate) const HELP: &str = "\
/reply N TEXT   answer message #N          /edit [N] TEXT  change your message #N, or your last
/del [N]        remove your message #N     /history        older messages
/members        who is here                /rooms          your rooms, and public ones
/join ROOM      go to a room (id or name)  /create NAME    make a public room
/leave          leave this room            /quit           go; what is queued stays queued";

/// A line, understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Input {
    Nothing,
    Say(String),
    Reply(Seq, String),
    /// Without a number: the last of one's own.
    Edit(Option<Seq>, String),
    Delete(Option<Seq>),
    History,
    Members,
    Rooms,
    Join(String),
    Create(String),
    Leave,
    Help,
    Quit,
    /// Why the line cannot be understood.
    Unclear(&'static str),
}

/// Understands a line. `//` at the start says a line that begins with `/`.
pub(crate) fn parse(line: &str) -> Input {
    let line = line.trim_end_matches(['\r', '\n']);
    if line.trim().is_empty() {
        return Input::Nothing;
    }
    let Some(command) = line.strip_prefix('/') else {
        return Input::Say(line.to_owned());
    };
    if command.starts_with('/') {
        return Input::Say(command.to_owned());
    }
    let (word, rest) = command.split_once(' ').unwrap_or((command, ""));
    let rest = rest.trim();
    match word {
        "me" if !rest.is_empty() => Input::Say(line.to_owned()),
        "reply" | "r" => match number(rest) {
            (Some(seq), text) if !text.is_empty() => Input::Reply(seq, text.to_owned()),
            (Some(_) | None, _) => Input::Unclear("/reply NUMBER TEXT"),
        },
        "edit" | "e" => match number(rest) {
            (_, "") => Input::Unclear("/edit [NUMBER] TEXT"),
            (seq, text) => Input::Edit(seq, text.to_owned()),
        },
        "del" | "d" => match number(rest) {
            (seq, "") => Input::Delete(seq),
            (_, _) => Input::Unclear("/del [NUMBER]"),
        },
        "history" => Input::History,
        "members" | "who" => Input::Members,
        "rooms" => Input::Rooms,
        "join" | "j" if !rest.is_empty() => Input::Join(rest.to_owned()),
        "join" | "j" => Input::Unclear("/join ROOM"),
        "create" if !rest.is_empty() => Input::Create(rest.to_owned()),
        "create" => Input::Unclear("/create NAME"),
        "leave" => Input::Leave,
        "help" | "h" | "?" => Input::Help,
        "quit" | "q" | "exit" => Input::Quit,
        _ => Input::Unclear("no such command; /help lists them"),
    }
}

/// A number at the start, with or without `#`, and the rest.
fn number(text: &str) -> (Option<Seq>, &str) {
    let (word, rest) = text.split_once(' ').unwrap_or((text, ""));
    match word.strip_prefix('#').unwrap_or(word).parse() {
        Ok(seq) => (Some(Seq(seq)), rest.trim_start()),
        Err(_) => (None, text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_a_message_unless_it_begins_with_a_slash() {
        assert_eq!(parse("hi there\n"), Input::Say("hi there".to_owned()));
        assert_eq!(parse("//etc/passwd"), Input::Say("/etc/passwd".to_owned()));
        assert_eq!(parse("/me waves"), Input::Say("/me waves".to_owned()));
        assert_eq!(parse("  \r\n"), Input::Nothing);
        assert!(matches!(parse("/dance"), Input::Unclear(_)));
    }

    #[test]
    fn numbers_name_messages() {
        assert_eq!(
            parse("/reply 12 yes"),
            Input::Reply(Seq(12), "yes".to_owned())
        );
        assert_eq!(
            parse("/r #12  yes"),
            Input::Reply(Seq(12), "yes".to_owned())
        );
        assert_eq!(
            parse("/edit 3 new text"),
            Input::Edit(Some(Seq(3)), "new text".to_owned())
        );
        assert_eq!(
            parse("/edit new text"),
            Input::Edit(None, "new text".to_owned())
        );
        assert_eq!(parse("/del"), Input::Delete(None));
        assert_eq!(parse("/del 7"), Input::Delete(Some(Seq(7))));
        for unclear in [
            "/reply yes",
            "/reply 3",
            "/edit",
            "/edit 3",
            "/del x",
            "/join",
        ] {
            assert!(matches!(parse(unclear), Input::Unclear(_)), "{unclear}");
        }
    }
}
