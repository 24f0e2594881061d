//! The command line of a verb, as `getopt_long` of the C library takes it apart: flags and operands in any order, long
//! names that may be cut short, values in the same or the next argument, `--` before what is no flag.

use img::{Flag, Given, Verb};

/// What a command line is.
#[derive(Debug)]
pub(super) enum Line {
    /// A call.
    Call(Given),
    /// A question for help.
    Help,
}

/// Takes `arguments` apart; an error is what getopt would say.
pub(super) fn parse(verb: &Verb, arguments: Vec<String>) -> Result<Line, String> {
    let mut given = Given::default();
    let mut rest = arguments.into_iter();
    while let Some(argument) = rest.next() {
        let asks = match argument.as_str() {
            "--" => {
                given.operands.extend(rest);
                break;
            }
            "-" => {
                given.operands.push(argument);
                false
            }
            text if text.starts_with("--") => long(verb, &text[2..], &mut rest, &mut given)?,
            text if verb.signed && is_negative(text) => {
                given.operands.push(argument);
                false
            }
            text if text.starts_with('-') => letters(verb, &text[1..], &mut rest, &mut given)?,
            _ => {
                given.operands.push(argument);
                false
            }
        };
        if asks {
            return Ok(Line::Help);
        }
    }
    Ok(Line::Call(given))
}

fn is_negative(text: &str) -> bool {
    text.strip_prefix('-').is_some_and(|rest| rest.starts_with(|c: char| c.is_ascii_digit()))
}

/// `--name`, `--name=value` or `--name value`. Answers whether it asks for help.
fn long(
    verb: &Verb,
    text: &str,
    rest: &mut impl Iterator<Item = String>,
    given: &mut Given,
) -> Result<bool, String> {
    let (name, value) = match text.split_once('=') {
        Some((name, value)) => (name, Some(value.to_owned())),
        None => (text, None),
    };
    let Some((long, flag)) = find(verb, name, text)? else { return Ok(true) };
    let value = match (flag.value, value) {
        (None, Some(_)) => return Err(format!("option '--{long}' doesn't allow an argument")),
        (None, None) => None,
        (Some(_), Some(value)) => Some(value),
        (Some(_), None) => {
            Some(rest.next().ok_or_else(|| format!("option '--{long}' requires an argument"))?)
        }
    };
    given.flag(flag.long, value);
    Ok(false)
}

/// The flag of that long name, or of the only one that begins so, and the name; `None`: help. An error shows `text`,
/// the whole of it.
fn find<'v>(verb: &'v Verb, name: &str, text: &str) -> Result<Option<(&'static str, &'v Flag)>, String> {
    const HELP: &str = "help";
    let of_flag = |flag: &'v Flag| {
        [Some(flag.long), flag.also].into_iter().flatten().map(move |long| (long, Some(flag)))
    };
    let named = || verb.flags.iter().flat_map(of_flag).chain([(HELP, None)]);
    let exact = named().find(|(long, _)| *long == name);
    let begin: Vec<_> =
        exact.map_or_else(|| named().filter(|(long, _)| long.starts_with(name)).collect(), |one| vec![one]);
    match begin[..] {
        [(long, flag)] => Ok(flag.map(|flag| (long, flag))),
        [] => Err(format!("unrecognized option '--{text}'")),
        _ => {
            let list: Vec<String> = begin.iter().map(|(long, _)| format!("'--{long}'")).collect();
            Err(format!("option '--{text}' is ambiguous; possibilities: {}", list.join(" ")))
        }
    }
}

/// `-abc`, `-fvalue` or `-f value`. Answers whether one asks for help.
fn letters(
    verb: &Verb,
    text: &str,
    rest: &mut impl Iterator<Item = String>,
    given: &mut Given,
) -> Result<bool, String> {
    let mut left = text.chars();
    while let Some(letter) = left.next() {
        if letter == 'h' {
            return Ok(true);
        }
        let flag = verb.flags.iter().find(|flag| flag.short == Some(letter));
        let flag = flag.ok_or_else(|| format!("invalid option -- '{letter}'"))?;
        if flag.value.is_none() {
            given.flag(flag.long, None);
            continue;
        }
        let value = match left.as_str() {
            "" => rest.next().ok_or_else(|| format!("option requires an argument -- '{letter}'"))?,
            value => value.to_owned(),
        };
        given.flag(flag.long, Some(value));
        return Ok(false);
    }
    Ok(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(arguments: &[&str]) -> Result<String, String> {
        let verb = img::find("compare").unwrap();
        match parse(verb, arguments.iter().map(|text| (*text).to_owned()).collect())? {
            Line::Call(given) => Ok(format!("{given:?}")),
            Line::Help => Ok("help".to_owned()),
        }
    }

    #[test]
    fn flags_and_operands_mix() {
        let expected = parsed(&["--a-format", "raw", "--strict", "x", "y"]).unwrap();
        for same in [
            &["-f", "raw", "-s", "x", "y"][..],
            &["x", "-fraw", "y", "-s"],
            &["x", "--a-f=raw", "--str", "--", "y"],
        ] {
            assert_eq!(parsed(same).unwrap(), expected, "{same:?}");
        }
        let other = parsed(&["--left-format", "raw", "--strict", "x", "y"]).unwrap();
        assert_eq!(other, expected, "a name that is not told of");
        assert!(parsed(&["--", "-s"]).unwrap().contains("operands: [\"-s\"]"));
        assert_eq!(parsed(&["-sh"]).unwrap(), "help");
        assert_eq!(parsed(&["--he"]).unwrap(), "help");
    }

    #[test]
    fn mistakes_are_told_as_getopt_does() {
        for (arguments, told) in [
            (&["-Z"][..], "invalid option -- 'Z'"),
            (&["--zzz"], "unrecognized option '--zzz'"),
            (&["-f"], "option requires an argument -- 'f'"),
            (&["--a-format"], "option '--a-format' requires an argument"),
            (&["--strict=1"], "option '--strict' doesn't allow an argument"),
            (&["--"], ""),
        ] {
            assert_eq!(parsed(arguments).err().unwrap_or_default(), told, "{arguments:?}");
        }
    }
}
