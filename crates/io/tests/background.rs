//! Going to the background and being told to end. Without a harness: a process that forks must have one
//! thread. It starts itself again with a role as its argument.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::fs;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Command, exit};
use std::time::Duration;

use io::World;
use io::real::RealWorld;
use io::real::process::{Forked, Readiness, Signal, Signals, fork};
use rustix::process::{Pid, kill_process};

const NAME: &str = "a_server_goes_to_the_background_and_ends_when_told";

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [role, path] = &arguments[..]
        && let Some(role) = role.strip_prefix("role-")
    {
        play(role, Path::new(path));
    }
    // What runners of tests ask for.
    let has = |argument: &str| arguments.iter().any(|a| a == argument);
    let filters = arguments.iter().filter(|a| !a.starts_with('-') && *a != "terse");
    if has("--list") {
        if !has("--ignored") {
            println!("{NAME}: test");
        }
    } else if !has("--ignored") && filters.clone().count() == 0 || filters.clone().any(|f| NAME.contains(f)) {
        tell_the_story();
        println!("test {NAME} ... ok");
    }
}

/// The process that was started: answers like a command line program.
fn play(role: &str, path: &Path) -> ! {
    let thread = (role == "threaded").then(|| RealWorld::new().start_thread("t").unwrap());
    match fork() {
        Err(error) => {
            assert!(thread.is_some(), "{error}");
            exit(4);
        }
        Ok(Forked::Parent { status }) => exit(status),
        Ok(Forked::Child(_)) if role == "failing" => exit(3),
        Ok(Forked::Child(_)) if role == "silent" => exit(0),
        Ok(Forked::Child(_)) if role == "killed" => std::process::abort(),
        Ok(Forked::Child(ready)) => serve(ready, path),
    }
}

/// Writes its number and each signal as a line; ends at the first that says so.
fn serve(ready: Readiness, path: &Path) -> ! {
    let mut log = fs::File::create(path).unwrap();
    let world = RealWorld::new();
    let thread = world.start_thread("t").unwrap();
    world.block_on(async {
        let mut signals = Signals::watch(&[Signal::Terminate, Signal::Interrupt, Signal::HangUp]).unwrap();
        assert!(Signals::watch(&[]).is_err());
        writeln!(log, "{}", std::process::id()).unwrap();
        ready.up().unwrap();
        loop {
            let signal = signals.next().await.unwrap();
            writeln!(log, "{signal:?}").unwrap();
            if signal == Signal::Terminate {
                break;
            }
        }
    });
    thread.stop();
    writeln!(log, "end").unwrap();
    exit(0)
}

fn tell_the_story() {
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let path = folder.path().join("log");
    let start = |role: &str| {
        let started =
            Command::new(std::env::current_exe().unwrap()).arg(format!("role-{role}")).arg(&path).output();
        started.unwrap().status.code()
    };
    assert_eq!(start("failing"), Some(3));
    assert_eq!(start("silent"), Some(1));
    assert_eq!(start("killed"), Some(1));
    assert_eq!(start("threaded"), Some(4));
    // Answers though the server goes on: it has let go of our pipes.
    assert_eq!(start("server"), Some(0));
    let log = Log(path);
    let server = Pid::from_raw(log.lines(1)[0].parse().unwrap()).unwrap();
    for (i, signal) in
        [rustix::process::Signal::HUP, rustix::process::Signal::INT, rustix::process::Signal::TERM]
            .into_iter()
            .enumerate()
    {
        kill_process(server, signal).unwrap();
        log.lines(i + 2);
    }
    assert_eq!(log.lines(5)[1..], ["HangUp", "Interrupt", "Terminate", "end"]);
}

struct Log(PathBuf);

impl Log {
    /// Waits until there are so many whole lines.
    fn lines(&self, count: usize) -> Vec<String> {
        loop {
            let text = fs::read_to_string(&self.0).unwrap();
            if text.matches('\n').count() >= count {
                return text.lines().map(str::to_owned).collect();
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }
}
