//! The command line of `qemu-storage-daemon`: options that are carried out in the order in which they are given.
#![allow(rustdoc::broken_intra_doc_links, reason = "--help shows these texts: [] is what may be left out")]

use block::{BlockError, ErrorKind, Result};
use clap::Args as ClapArgs;

/// Serve storage with qemu-storage-daemon's options and QMP.
///
/// Options are carried out in the order in which they are given. Then the daemon serves until a
/// QMP client sends quit, or a signal ends it. docs/manual/millpond-daemon.md has all of it.
///
///   --blockdev [driver=]DRIVER,node-name=N,...  add a node (or JSON)
///   --export [type=]nbd,id=ID,node-name=N[,name=NAME][,writable=on][,...]  export it
///   --nbd-server addr.type=unix,addr.path=PATH[,max-connections=N]  (or inet: addr.host, addr.port)
///   --chardev socket,id=ID,path=PATH,server=on[,wait=off]  (or host=HOST,port=PORT)
///   --monitor [chardev=]ID  a QMP server there, for any number of clients
///   --object TYPE,id=ID[,...]  a secret, an iothread, a throttle-group
///   --pond [folder=]DIR[,runtime=DIR][,source-timeout=SECONDS]  have a pond, as millpond up has
///   --daemonize  go to the background when all of it is done
///   --pidfile PATH  write the process id there
///
/// Example:
///   millpond daemon --blockdev file,node-name=f,filename=disk.img \
///     --nbd-server addr.type=unix,addr.path=nbd.sock --export nbd,id=e,node-name=f,name=disk
#[derive(ClapArgs, Debug)]
#[command(verbatim_doc_comment)]
pub(crate) struct Args {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    words: Vec<String>,
}

/// One option.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Step {
    /// `--blockdev`
    Node(String),
    /// `--export`
    Export(String),
    /// `--nbd-server`
    NbdServer(String),
    /// `--chardev`
    Chardev(String),
    /// `--monitor`
    Monitor(String),
    /// `--object`
    Object(String),
}

/// A command line.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Plan {
    /// In this order.
    pub(super) steps: Vec<Step>,
    /// Go to the background then.
    pub(super) daemonize: bool,
    /// Where the process id goes.
    pub(super) pidfile: Option<String>,
    /// The pond: opened before any step, since monitors have its commands.
    pub(super) pond: Option<String>,
}

/// What makes a step of a value.
type Make = fn(String) -> Step;

/// Options that take a value, and what they are.
const STEPS: &[(&str, Make)] = &[
    ("--blockdev", Step::Node),
    ("--export", Step::Export),
    ("--nbd-server", Step::NbdServer),
    ("--chardev", Step::Chardev),
    ("--monitor", Step::Monitor),
    ("--object", Step::Object),
];

impl Plan {
    /// The answer to a question for help in its place.
    pub(super) fn help(&self) -> Option<String> {
        self.steps.iter().find_map(|step| match step {
            Step::Object(option) => object::help(option),
            _ => None,
        })
    }
}

impl Args {
    /// What to do.
    pub(super) fn plan(self) -> Result<Plan> {
        let mut plan = Plan::default();
        let mut words = self.words.into_iter();
        while let Some(word) = words.next() {
            // QEMU takes one dash for two.
            let word = if word.starts_with("--") { word } else { format!("-{word}") };
            let (name, value) = match word.split_once('=') {
                Some((name, value)) => (name.to_owned(), Some(value.to_owned())),
                None => (word, None),
            };
            if name == "--daemonize" && value.is_none() {
                plan.daemonize = true;
                continue;
            }
            let step = STEPS.iter().find(|(option, _)| *option == name).map(|(_, step)| *step);
            if step.is_none() && !matches!(&*name, "--pidfile" | "--pond") {
                return Err(invalid(format!("'{name}' is no option of the daemon (see --help)")));
            }
            let value = value.or_else(|| words.next());
            let value = value.ok_or_else(|| invalid(format!("'{name}' needs a value (see --help)")))?;
            match step {
                Some(step) => plan.steps.push(step(value)),
                None if name == "--pond" => plan.pond = Some(value),
                None => plan.pidfile = Some(value),
            }
        }
        Ok(plan)
    }
}

fn invalid(context: String) -> BlockError {
    BlockError::new(ErrorKind::Invalid, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(words: &[&str]) -> std::result::Result<Plan, String> {
        let words = words.iter().map(|word| (*word).to_owned()).collect();
        Args { words }.plan().map_err(|error| error.to_string())
    }

    #[test]
    fn options_keep_their_order_and_may_have_their_value_behind_a_sign() {
        let line = "--object o --blockdev=driver=x -object p --daemonize --pidfile f --pond=/p,runtime=/r";
        let plan = plan(&line.split(' ').collect::<Vec<_>>()).unwrap();
        let expected = [Step::Object("o".into()), Step::Node("driver=x".into()), Step::Object("p".into())];
        assert_eq!(plan.steps, expected);
        assert_eq!((plan.daemonize, plan.pidfile), (true, Some("f".into())));
        assert_eq!(plan.pond.as_deref(), Some("/p,runtime=/r"));
    }

    #[test]
    fn what_is_no_option_is_named() {
        assert!(plan(&["--nope", "x"]).unwrap_err().contains("'--nope' is no option"));
        assert!(plan(&["--blockdev"]).unwrap_err().contains("'--blockdev' needs a value"));
        assert!(plan(&["stray"]).unwrap_err().contains("'-stray' is no option"));
    }
}
