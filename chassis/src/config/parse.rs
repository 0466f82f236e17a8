//! Parsing the command line and environment so that every wrong value is reported, not only the first.
//!
//! clap stops at the first mistake. So each argument that it complains about is made to accept
//! anything, and parsing is repeated until nothing new is found.

use std::ffi::OsString;

use clap::builder::ValueParser;
use clap::error::{ContextKind, ContextValue, ErrorKind};
use clap::{Command, Parser};

use super::Problems;

/// Why there is no configuration.
#[derive(Debug, thiserror::Error)]
pub enum ParseError {
    /// `--help` or `--version` was asked for: print it and end with success.
    #[error(transparent)]
    Display(clap::Error),
    /// The command line has another shape (unknown argument or subcommand): exit 64.
    #[error(transparent)]
    Usage(clap::Error),
    /// Some values are wrong or missing: exit 64.
    #[error(transparent)]
    Problems(#[from] Problems),
}

/// Parses the process's command line and environment.
///
/// # Errors
/// See [`ParseError`].
pub fn parse<P: Parser>() -> Result<P, ParseError> {
    parse_from(std::env::args_os())
}

/// Parses `arguments`, of which the first is the program's name, and the environment.
///
/// # Errors
/// See [`ParseError`].
pub fn parse_from<P: Parser>(
    arguments: impl IntoIterator<Item = impl Into<OsString>>,
) -> Result<P, ParseError> {
    let arguments: Vec<OsString> = arguments.into_iter().map(Into::into).collect();
    let first = match P::try_parse_from(&arguments) {
        Ok(parsed) => return Ok(parsed),
        Err(error) => error,
    };
    let mut problems = Problems::new();
    let mut command = P::command();
    let mut error = first;
    loop {
        let complained = match error.kind() {
            ErrorKind::DisplayHelp
            | ErrorKind::DisplayVersion
            | ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand => {
                return Err(ParseError::Display(error));
            }
            ErrorKind::ValueValidation
            | ErrorKind::InvalidValue
            | ErrorKind::MissingRequiredArgument => complaints(&error),
            _ => return Err(ParseError::Usage(error)),
        };
        let found: usize = complained
            .iter()
            .map(|name| accept_anything(&mut command, name, &error, &mut problems))
            .sum();
        if found == 0 {
            // An argument we cannot find: its message is all there is to say.
            problems.add("command line", first_line(&error));
            return Err(problems.into());
        }
        match command.clone().try_get_matches_from(&arguments) {
            Ok(_) => return Err(problems.into()),
            Err(next) => error = next,
        }
    }
}

/// The arguments that clap complains about, as it displays them.
fn complaints(error: &clap::Error) -> Vec<String> {
    match error.get(ContextKind::InvalidArg) {
        Some(ContextValue::String(name)) => vec![name.clone()],
        Some(ContextValue::Strings(names)) => names.clone(),
        _ => Vec::new(),
    }
}

/// Makes the argument displayed as `name` optional and untyped; returns how many were changed.
fn accept_anything(
    command: &mut Command,
    name: &str,
    error: &clap::Error,
    problems: &mut Problems,
) -> usize {
    // Only a built command displays its arguments as the error does, and only one that is not built
    // may be changed.
    let mut built = command.clone();
    built.build();
    let changed = accept_in(command, &built, name);
    if let Some(setting) = &changed {
        problems.add(setting, reason(error));
    }
    usize::from(changed.is_some())
}

fn accept_in(command: &mut Command, built: &Command, name: &str) -> Option<String> {
    let mut setting = None;
    if let Some(argument) = built
        .get_arguments()
        .find(|argument| argument.to_string() == name)
    {
        let id = argument.get_id().clone();
        setting = Some(argument.get_env().map_or_else(
            || name.to_owned(),
            |variable| variable.to_string_lossy().into_owned(),
        ));
        *command = std::mem::take(command).mut_arg(id, |argument| {
            argument
                .required(false)
                .value_parser(ValueParser::os_string())
        });
    }
    for sub in command.get_subcommands_mut() {
        if let Some(built) = built.find_subcommand(sub.get_name()) {
            setting = accept_in(sub, built, name).or(setting);
        }
    }
    setting
}

/// What is wrong, without the value: it may be a secret.
fn reason(error: &clap::Error) -> String {
    match error.kind() {
        ErrorKind::MissingRequiredArgument => "missing".to_owned(),
        ErrorKind::InvalidValue => match error.get(ContextKind::ValidValue) {
            Some(ContextValue::Strings(valid)) => format!("must be one of {}", valid.join(", ")),
            _ => "missing its value".to_owned(),
        },
        _ => {
            std::error::Error::source(error).map_or_else(|| first_line(error), ToString::to_string)
        }
    }
}

fn first_line(error: &clap::Error) -> String {
    error
        .to_string()
        .lines()
        .next()
        .unwrap_or_default()
        .to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Parser)]
    struct Cli {
        #[command(subcommand)]
        command: Sub,
    }

    #[derive(Debug, clap::Subcommand)]
    enum Sub {
        Run(Settings),
    }

    #[derive(Debug, clap::Args)]
    struct Settings {
        #[arg(long, env = "CHASSIS_TEST_PORT", default_value_t = 80)]
        port: u16,
        #[arg(long)]
        sockets_max: u32,
        #[arg(long, value_enum, default_value = "pretty")]
        format: super::super::LogFormat,
    }

    fn run(arguments: &[&str]) -> Result<Cli, ParseError> {
        parse_from(["natter", "run"].iter().chain(arguments))
    }

    #[test]
    fn a_right_configuration_is_parsed() {
        let Cli {
            command: Sub::Run(settings),
        } = run(&["--sockets-max", "7"]).unwrap();
        assert_eq!((settings.port, settings.sockets_max), (80, 7));
        assert_eq!(settings.format, super::super::LogFormat::Pretty);
    }

    #[test]
    fn every_wrong_value_is_reported_not_only_the_first() {
        let error = run(&["--port", "99999", "--format", "xml"]).unwrap_err();
        let ParseError::Problems(problems) = error else {
            panic!("{error:?}")
        };
        let shown = problems.to_string();
        assert_eq!(problems.lines().len(), 3, "{shown}");
        for part in [
            "CHASSIS_TEST_PORT: 99999 is not in 0..=65535",
            "--sockets-max",
            "pretty, json",
        ] {
            assert!(shown.contains(part), "{part} is not in: {shown}");
        }
    }

    #[test]
    fn help_and_unknown_arguments_are_told_apart() {
        assert!(matches!(run(&["--help"]), Err(ParseError::Display(_))));
        assert!(matches!(run(&["--hlep"]), Err(ParseError::Usage(_))));
    }
}
