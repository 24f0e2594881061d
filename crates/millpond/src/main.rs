//! Block storage for virtual machines: command lines and wiring.
//!
//! One binary, several faces: `millpond nbd` is also reached through a link named `qemu-nbd`, as busybox does it.
//!
//! Invariants: this is the only crate that reads the command line, prints, or decides an exit status; an error is
//! one line on standard error that names the thing and the remedy, and exit status 1.
#![cfg_attr(not(test), deny(clippy::print_stdout, clippy::print_stderr, reason = "they panic: see `output`"))]

mod daemon;
mod demo;
mod ending;
mod host;
mod img;
mod line;
mod nbd;
mod output;
mod remedies;
mod serve;
mod service;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

use clap::error::ErrorKind;
use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};

/// Block storage for virtual machines.
#[derive(Parser)]
#[command(name = "millpond", version, propagate_version = true, arg_required_else_help = true)]
struct CommandLine {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Daemon(Box<daemon::Args>),
    Nbd(Box<nbd::Args>),
    Serve(Box<serve::Args>),
    Up(Box<host::UpArgs>),
    Clone(Box<host::CloneArgs>),
    List(host::ListArgs),
    Watch(host::WatchArgs),
    Pivot(host::PivotArgs),
    Remove(host::RemoveArgs),
    /// Make, copy, look at and change disk images, with qemu-img's command line.
    #[command(disable_help_flag = true)]
    Img {
        /// A command of qemu-img and its options.
        #[arg(trailing_var_arg = true, allow_hyphen_values = true)]
        line: Vec<OsString>,
    },
    /// Show the main job: instant start, one fetch, life without the source.
    Demo(Box<demo::Args>),
}

/// A program of QEMU's that a subcommand stands in for.
struct Face {
    /// Its name; a link of that name selects the subcommand.
    link: &'static str,
    subcommand: &'static str,
    /// What it says of its version, as scripts look for it.
    version: &'static str,
    /// How it is used when it is called by that name.
    usage: &'static str,
}

const FACES: [Face; 3] = [
    // It takes its command line apart by itself.
    Face { link: "qemu-img", subcommand: "img", version: "", usage: "" },
    Face {
        link: "qemu-nbd",
        subcommand: "nbd",
        version: concat!("10.0.2 (millpond ", env!("CARGO_PKG_VERSION"), ")"),
        usage: "qemu-nbd [OPTIONS] [FILE]",
    },
    Face {
        link: "qemu-storage-daemon",
        subcommand: "daemon",
        version: concat!("version 10.0.2 (millpond ", env!("CARGO_PKG_VERSION"), ")"),
        usage: "qemu-storage-daemon [OPTIONS]",
    },
];

/// The command line of a program of this name.
fn command_line(program: &'static str) -> clap::Command {
    let faces = FACES.iter().filter(|face| !face.version.is_empty());
    faces.fold(CommandLine::command().name(program), |command, face| {
        command.mut_subcommand(face.subcommand, |subcommand| {
            let subcommand = subcommand.display_name(face.link).version(face.version);
            if program == face.link { subcommand.override_usage(face.usage) } else { subcommand }
        })
    })
}

fn main() -> ExitCode {
    io::real::process::outlive_file_size_limit();
    let (program, arguments) = faced(std::env::args_os().collect());
    if let Some(arguments) = of_img(&arguments) {
        return img::run(if program == "millpond" { "millpond img" } else { program }, arguments);
    }
    let parsed =
        command_line(program).try_get_matches_from(arguments).and_then(|m| CommandLine::from_arg_matches(&m));
    let line = match parsed {
        Ok(line) => line,
        Err(error) => return answered(program, &error),
    };
    let outcome = match line.command {
        Command::Daemon(args) => daemon::run(*args),
        Command::Nbd(args) => nbd::run(*args),
        Command::Serve(args) => serve::run(*args),
        Command::Up(args) => host::up(*args),
        Command::Clone(args) => host::clone(*args),
        Command::List(args) => host::list(args),
        Command::Watch(args) => host::watch(args),
        Command::Pivot(args) => host::pivot(args),
        Command::Remove(args) => host::remove(args),
        Command::Img { line } => return img::run("millpond img", line),
        Command::Demo(args) => demo::run(*args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            complain(&error);
            ExitCode::FAILURE
        }
    }
}

/// What follows `img`: its command line is taken apart as qemu-img does it, not by clap.
fn of_img(arguments: &[OsString]) -> Option<Vec<OsString>> {
    let (verb, rest) = arguments.get(1..)?.split_first()?;
    (verb == "img").then(|| rest.to_vec())
}

/// Tells of what ends the program: one line, under the name that it was called by.
fn complain(error: &block::BlockError) {
    let (program, _) = faced(std::env::args_os().collect());
    output::tell_line(format_args!("{program}: {}", line::escaped(error)));
}

/// Help and version are answers; a bad option is a mistake: one line, and QEMU's status 1 (clap's would be 2).
fn answered(program: &str, error: &clap::Error) -> ExitCode {
    let is_answer = !error.use_stderr();
    if is_answer || error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        // Whoever closed our output does not want it.
        let _ = error.print();
    } else {
        let told = not_utf8(error).unwrap_or_else(|| in_one_line(&error.to_string()));
        output::tell_line(format_args!("{program}: {}", line::escaped(told)));
    }
    if is_answer { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

/// What clap says of a mistake, without the usage; its tip, if it has one, behind a semicolon.
fn in_one_line(text: &str) -> String {
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let told = lines.take_while(|line| !line.starts_with("Usage:") && !line.starts_with("For more"));
    let told = told.fold(String::new(), |told, line| match line.strip_prefix("tip: ") {
        Some(tip) => format!("{told}; {tip}"),
        None if told.is_empty() => line.trim_start_matches("error: ").to_owned(),
        None => format!("{told} {line}"),
    });
    format!("{told} (see --help)")
}

/// Clap does not name an argument that is not text; names inside options have to be.
fn not_utf8(error: &clap::Error) -> Option<String> {
    let wrong = std::env::args_os().find(|argument| argument.to_str().is_none());
    let wrong = wrong.filter(|_| error.kind() == ErrorKind::InvalidUtf8)?;
    let shown = wrong.as_encoded_bytes().escape_ascii();
    Some(format!("'{shown}' is not UTF-8: rename it, or name it by a symbolic link"))
}

/// The name to show, and the arguments with the subcommand that a link's name stands for.
fn faced(mut arguments: Vec<OsString>) -> (&'static str, Vec<OsString>) {
    let called =
        arguments.first().map(Path::new).and_then(Path::file_name).unwrap_or_default().to_os_string();
    for Face { link, subcommand, .. } in FACES {
        if called == link {
            arguments.insert(1, subcommand.into());
            return (link, arguments);
        }
    }
    ("millpond", arguments)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn faces_are_of_the_version_that_monitors_tell() {
        let [major, minor, micro] = control::VERSION;
        let version = format!("{major}.{minor}.{micro} (millpond ");
        let faces = FACES.iter().filter(|face| !face.version.is_empty());
        faces.for_each(|face| assert!(face.version.contains(&version), "{}", face.version));
    }

    #[test]
    fn pages_that_a_help_names_are_there() {
        let manual = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../../docs/manual");
        let mut named = 0;
        for subcommand in command_line("millpond").get_subcommands_mut() {
            let help = subcommand.render_long_help().to_string();
            for page in help.split("docs/manual/").skip(1) {
                let page = page.split(char::is_whitespace).next().unwrap_or_default().trim_end_matches('.');
                assert!(manual.join(page).is_file(), "{}: {page}", subcommand.get_name());
                named += 1;
            }
        }
        assert!(named > 4, "{named}");
    }
}
