//! What stands before the command: `--help`, `--version`, and `--trace`, which is taken for the sake of scripts: there
//! are no trace events here, so nothing is ever traced.

use engine::keyval;

/// What the words in front come to.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Front {
    /// A command and its arguments.
    Command(String, Vec<String>),
    /// A question for help.
    Help,
    /// A question for the version.
    Version,
    /// A question for the trace events.
    Events,
}

/// Why there is no command.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Mistake {
    /// The command line is wrong, as getopt says it.
    Misused(String),
    /// An option is.
    Option(String),
}

const LONG: [&str; 3] = ["help", "version", "trace"];

/// Takes the front apart; `warn` hears of events that are not there.
pub(super) fn parse(words: Vec<String>, warn: &mut dyn FnMut(String)) -> Result<Front, Mistake> {
    let mut words = words.into_iter();
    while let Some(word) = words.next() {
        let traced = match word.as_str() {
            "--" => match words.next() {
                Some(name) => return Ok(Front::Command(name, words.collect())),
                None => break,
            },
            long if long.starts_with("--") => match self::long(&long[2..], &mut words)? {
                Answer::Front(front) => return Ok(front),
                Answer::Trace(text) => text,
            },
            short if short.starts_with('-') && short.len() > 1 => match letter(&short[1..], &mut words)? {
                Answer::Front(front) => return Ok(front),
                Answer::Trace(text) => text,
            },
            _ => return Ok(Front::Command(word, words.collect())),
        };
        if trace(&traced, warn)? {
            return Ok(Front::Events);
        }
    }
    Err(Mistake::Misused("Not enough arguments".to_owned()))
}

enum Answer {
    Front(Front),
    Trace(String),
}

fn long(text: &str, rest: &mut impl Iterator<Item = String>) -> Result<Answer, Mistake> {
    let (name, value) = text.split_once('=').map_or((text, None), |(name, value)| (name, Some(value)));
    let mut begin = LONG.into_iter().filter(|long| long.starts_with(name));
    match (begin.next(), value) {
        (Some("trace"), Some(value)) => Ok(Answer::Trace(value.to_owned())),
        (Some("trace"), None) => {
            let missing = || Mistake::Misused("option '--trace' requires an argument".to_owned());
            rest.next().map(Answer::Trace).ok_or_else(missing)
        }
        (Some(name), Some(_)) => {
            Err(Mistake::Misused(format!("option '--{name}' doesn't allow an argument")))
        }
        (Some("help"), None) => Ok(Answer::Front(Front::Help)),
        (Some(_), None) => Ok(Answer::Front(Front::Version)),
        (None, _) => Err(Mistake::Misused(format!("unrecognized option '--{text}'"))),
    }
}

fn letter(text: &str, rest: &mut impl Iterator<Item = String>) -> Result<Answer, Mistake> {
    let letter = text.chars().next().unwrap_or('-');
    match letter {
        'h' => Ok(Answer::Front(Front::Help)),
        'V' => Ok(Answer::Front(Front::Version)),
        'T' if text.len() > 1 => Ok(Answer::Trace(text[1..].to_owned())),
        'T' => {
            let missing = || Mistake::Misused("option requires an argument -- 'T'".to_owned());
            rest.next().map(Answer::Trace).ok_or_else(missing)
        }
        other => Err(Mistake::Misused(format!("invalid option -- '{other}'"))),
    }
}

/// Looks at what shall be traced. Answers whether it is asked what there is.
fn trace(text: &str, warn: &mut dyn FnMut(String)) -> Result<bool, Mistake> {
    for item in keyval::items(text) {
        match item.split_once('=') {
            None if item == "help" || item == "?" => return Ok(true),
            None => unknown(&item, warn),
            Some(("enable", event)) => unknown(event, warn),
            Some(("file" | "events", _)) => {}
            Some((name, _)) => return Err(Mistake::Option(format!("Invalid parameter '{name}'"))),
        }
    }
    Ok(false)
}

/// A pattern may fit nothing; a name has to be that of an event.
fn unknown(event: &str, warn: &mut dyn FnMut(String)) {
    if !event.contains(['*', '?']) {
        warn(format!("trace event '{}' does not exist", event.trim_start_matches('-')));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(words: &[&str]) -> (Result<Front, Mistake>, Vec<String>) {
        let mut warned = Vec::new();
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        let front = parse(words, &mut |text| warned.push(text));
        (front, warned)
    }

    #[test]
    fn what_stands_in_front_is_taken_apart() {
        let info = || Ok(Front::Command("info".to_owned(), vec!["-h".to_owned()]));
        assert_eq!(parsed(&["info", "-h"]), (info(), vec![]));
        assert_eq!(parsed(&["--", "info", "-h"]).0, info());
        assert_eq!(parsed(&["-T", "bdrv_*,file=x", "--trace=events=y", "info", "-h"]), (info(), vec![]));
        assert_eq!(parsed(&["-Tfoo", "info", "-h"]).1, ["trace event 'foo' does not exist"]);
        assert_eq!(parsed(&["--tr", "enable=foo", "info", "-h"]).1.len(), 1);
        for (words, front) in
            [("-V", Front::Version), ("--vers", Front::Version), ("--he", Front::Help), ("-hx", Front::Help)]
        {
            assert_eq!(parsed(&[words, "more"]).0, Ok(front));
        }
        assert_eq!(parsed(&["-T", "help"]).0, Ok(Front::Events));
    }

    #[test]
    fn mistakes_are_told_as_getopt_does() {
        for (words, told) in [
            (&[][..], "Not enough arguments"),
            (&["--"], "Not enough arguments"),
            (&["-T"], "option requires an argument -- 'T'"),
            (&["--trace"], "option '--trace' requires an argument"),
            (&["--help=x"], "option '--help' doesn't allow an argument"),
            (&["-x"], "invalid option -- 'x'"),
            (&["--foo"], "unrecognized option '--foo'"),
        ] {
            assert_eq!(parsed(words).0, Err(Mistake::Misused(told.to_owned())), "{words:?}");
        }
        assert_eq!(parsed(&["-T", "a=b"]).0, Err(Mistake::Option("Invalid parameter 'a'".to_owned())));
    }
}
