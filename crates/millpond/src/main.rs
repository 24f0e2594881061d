//! Block storage for virtual machines: command lines and wiring.
//!
//! One binary, several faces: `millpond nbd` is also reached through a link named `qemu-nbd`, as busybox does it.
//!
//! Invariants: this is the only crate that reads the command line, prints, or decides an exit status; an error is
//! one line on standard error that names the thing and the remedy, and exit status 1.

mod demo;
mod nbd;

use std::ffi::OsString;
use std::path::Path;
use std::process::ExitCode;

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
    /// Serve one image over NBD, with qemu-nbd's options.
    Nbd(Box<nbd::Args>),
    /// Show the main job: instant start, one fetch, life without the source.
    Demo(Box<demo::Args>),
}

/// Links that select a face by their name.
const FACES: [(&str, &str); 1] = [("qemu-nbd", "nbd")];

fn main() -> ExitCode {
    let (program, arguments) = faced(std::env::args_os().collect());
    let command = CommandLine::command().name(program);
    let parsed = command.try_get_matches_from(arguments).and_then(|m| CommandLine::from_arg_matches(&m));
    let line = match parsed {
        Ok(line) => line,
        Err(error) => {
            // Help and version are answers (status 0); a bad option is a mistake (QEMU's status is 1, not 2).
            let _ = error.print();
            return if error.use_stderr() { ExitCode::FAILURE } else { ExitCode::SUCCESS };
        }
    };
    let outcome = match line.command {
        Command::Nbd(args) => nbd::run(*args),
        Command::Demo(args) => demo::run(*args),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{program}: {error}");
            ExitCode::FAILURE
        }
    }
}

/// The name to show, and the arguments with the subcommand that a link's name stands for.
fn faced(mut arguments: Vec<OsString>) -> (&'static str, Vec<OsString>) {
    let called =
        arguments.first().map(Path::new).and_then(Path::file_name).unwrap_or_default().to_os_string();
    for (link, subcommand) in FACES {
        if called == link {
            arguments.insert(1, subcommand.into());
            return (link, arguments);
        }
    }
    ("millpond", arguments)
}
