//! `millpond img`: qemu-img's command line. What the verbs do and say is in the room `img`; here it is printed.
//!
//! Invariant: a process that is told to end leaves no image behind that it has not finished.

mod getopt;
mod help;
mod standard;
mod told;

use std::ffi::OsString;
use std::process::ExitCode;
use std::rc::Rc;
use std::sync::Arc;

use block::Result;
use engine::{Engine, EngineOptions, Wording};
use img::{Call, Failure, Given, Listener as _, Session, Verb};
use io::real::RealWorld;
use io::real::process::{Signal, Signals};
use io::select::{Either, race};

use crate::service;
use getopt::Line;
use standard::{Front, Mistake};
use told::Told;

const FAILED: u8 = 1;

/// Carries out a command line, without the name of the program, under which errors are told.
pub(crate) fn run(program: &'static str, arguments: Vec<OsString>) -> ExitCode {
    ExitCode::from(status(program, arguments))
}

fn status(program: &'static str, arguments: Vec<OsString>) -> u8 {
    let told = Rc::new(Told::new(program));
    let mut words = Vec::with_capacity(arguments.len());
    for argument in arguments {
        match argument.into_string() {
            Ok(word) => words.push(word),
            Err(other) => {
                let shown = other.as_encoded_bytes().escape_ascii();
                told.error(&format!("'{shown}' is not UTF-8: rename it, or name it by a symbolic link"));
                return FAILED;
            }
        }
    }
    let (verb, rest) = match command(&told, words) {
        Ok(found) => found,
        Err(status) => return status,
    };
    let of_objects = |given: &Given| given.objects().find_map(object::help);
    let answer = |text: &str| {
        told.print(text);
        0
    };
    match getopt::parse(verb, rest) {
        Ok(Line::Help) => answer(&help::of_verb(program, verb)),
        Ok(Line::Call(given)) => match of_objects(&given) {
            Some(text) => answer(&text),
            None => call(&told, verb, given),
        },
        Err(mistake) => {
            told.misused(&format!("{program} {}: {mistake}", verb.name), Some(verb.name));
            FAILED
        }
    }
}

/// The verb and its arguments; `Err`: all is said, and this is the exit status.
fn command(told: &Told, words: Vec<String>) -> std::result::Result<(&'static Verb, Vec<String>), u8> {
    let program = told.program();
    let mistake = |text: String| {
        told.misused(&format!("{program}: {text}"), None);
        FAILED
    };
    let front = standard::parse(words, &mut |text| told.error(&format!("warning: {text}")));
    match front {
        Ok(Front::Help) => {
            told.print(&help::of_all(program));
            Err(0)
        }
        Ok(Front::Version) => {
            told.print(&help::version(program));
            Err(0)
        }
        Ok(Front::Events) => Err(0),
        Ok(Front::Command(name, rest)) => {
            let verb = img::find(&name).ok_or_else(|| mistake(format!("Command not found: {name}")))?;
            Ok((verb, rest))
        }
        Err(Mistake::Misused(text)) => Err(mistake(text)),
        Err(Mistake::Option(text)) => {
            told.error(&text);
            Err(FAILED)
        }
    }
}

fn call(told: &Rc<Told>, verb: &'static Verb, given: Given) -> u8 {
    told.show_progress(given.shows_progress());
    let world = RealWorld::new();
    let shared: Arc<RealWorld> = Arc::new(world.clone());
    let outcome = service::run(&world, carry_out(shared, told.clone(), verb, given)).flatten();
    world.settle();
    told.end_progress();
    match outcome {
        Ok(Ok(status)) => status,
        Ok(Err(failure)) => {
            tell(told, verb, &failure);
            failure.status
        }
        Err(error) => {
            told.error(&img::explained(&error));
            FAILED
        }
    }
}

fn tell(told: &Told, verb: &Verb, failure: &Failure) {
    let Some(text) = &failure.text else { return };
    match failure.misused {
        true => told.misused(&format!("{}: {text}", told.program()), Some(verb.name)),
        false => told.error(text),
    }
}

type Outcome = std::result::Result<u8, Failure>;

async fn carry_out(
    world: Arc<RealWorld>,
    told: Rc<Told>,
    verb: &'static Verb,
    given: Given,
) -> Result<Outcome> {
    let all = [Signal::Terminate, Signal::Interrupt, Signal::HangUp, Signal::User1];
    // What is ignored from the start stays so, as for a program that does not know of signals.
    let mut signals = service::watch(&all, |signal| !signal.is_ignored())?;
    let options =
        EngineOptions { threads: 1, keeps_still: false, wording: Wording::Opts, ..Default::default() };
    let engine = Engine::new(world, options)?;
    let session = Session::new(engine, told.clone());
    let running = (verb.run)(Call { session: session.clone(), given });
    let outcome = until_ended(running, &session, &told, &mut signals).await;
    if !matches!(outcome, Ok(0)) {
        session.end_early().await;
    }
    Ok(outcome)
}

/// Runs the verb until it ends or a signal ends it. One that is making a file is asked to stop, so that nothing of it
/// is written later; the second signal does not wait for that.
async fn until_ended(
    mut running: io::LocalFut<'static, Outcome>,
    session: &Session,
    told: &Told,
    signals: &mut Signals,
) -> Outcome {
    let mut ended_by = None;
    loop {
        let signal = match race(&mut running, signals.next()).await {
            Either::First(outcome) => {
                // Only what did not end well was ended by it.
                return match (outcome, ended_by) {
                    (Err(_), Some(signal)) => Err(by(signal)),
                    (outcome, _) => outcome,
                };
            }
            Either::Second(Ok(signal)) => signal,
            // Without news there is nothing to end it.
            Either::Second(Err(_)) => return running.await,
        };
        match signal {
            Signal::User1 => told.tell_progress(),
            _ if ended_by.is_none() && session.call_off() => ended_by = Some(signal),
            _ => return Err(by(signal)),
        }
    }
}

/// As a process is told of that a signal has ended.
fn by(signal: Signal) -> Failure {
    Failure { text: None, misused: false, status: 128 + signal.number() }
}
