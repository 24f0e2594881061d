//! `cargo xtask sim`: plays the simulated scenarios for as many seeds as one likes, on all cores.
//!
//! Invariant: the scenarios are those of the tests; here are only the programs that have a table of them.

use std::path::Path;
use std::process::{Command, Stdio};

use crate::test::step;

/// Options of `cargo xtask sim`.
#[derive(clap::Args)]
pub(crate) struct Options {
    /// How many seeds of each scenario.
    #[arg(long, default_value_t = 100)]
    seeds: u64,
    /// The first of them.
    #[arg(long, value_name = "SEED", default_value_t = 0)]
    first: u64,
    /// Only the scenario of this name.
    #[arg(long, value_name = "NAME")]
    scenario: Option<String>,
    /// Only this point: `write:N`, just after the n-th change, or `flush:N`, just before the n-th flush.
    #[arg(long, requires = "scenario")]
    point: Option<String>,
    /// Lists the scenarios and plays none.
    #[arg(long)]
    list: bool,
}

/// Package and name of a test program with a table of scenarios, which its test `scenarios` plays.
type Table = (&'static str, &'static str);

/// All of them.
const TABLES: &[Table] = &[
    ("driver", "qcow2_crash"),
    ("driver", "qcow2_bitmaps"),
    ("engine", "stream"),
    ("img", "crash"),
    ("pond", "crash"),
];

/// What a line of a test program begins with that names a scenario.
const LISTED: &str = "sim: scenario: ";

/// Plays; returns whether nothing was wrong.
pub(crate) fn run(root: &Path, options: &Options) -> Result<bool, String> {
    let end = options.first.checked_add(options.seeds).ok_or("there are not so many seeds")?;
    let listed = list(root)?;
    if options.list {
        listed.iter().for_each(|(_, name)| println!("{name}"));
        return Ok(true);
    }
    let wanted = |name: &String| options.scenario.as_ref().is_none_or(|scenario| scenario == name);
    let mut tables: Vec<_> =
        listed.iter().filter(|(_, name)| wanted(name)).map(|(table, _)| *table).collect();
    tables.dedup();
    if tables.is_empty() {
        return Err("no scenario of this name: `cargo xtask sim --list` lists them".to_owned());
    }
    let seeds = format!("{}..{end}", options.first);
    let said = [
        ("MILLPOND_SIM_SEEDS", seeds.as_str()),
        ("MILLPOND_SIM_SCENARIO", options.scenario.as_deref().unwrap_or_default()),
        ("MILLPOND_SIM_POINT", options.point.as_deref().unwrap_or_default()),
    ];
    let mut good = true;
    for table in tables {
        println!("\n==> {} of {}, seeds {seeds}", table.1, table.0);
        let mut command = program(root, table);
        let status = command.envs(said).status().map_err(|error| format!("cargo: {error}"))?;
        good &= status.success();
    }
    println!(
        "\nsim: {}",
        if good { "nothing was wrong" } else { "FAILED: the lines above say how to see it again" }
    );
    Ok(good)
}

/// Each scenario with the program that has it.
fn list(root: &Path) -> Result<Vec<(Table, String)>, String> {
    let mut listed = Vec::new();
    for table in TABLES.iter().copied() {
        let mut command = program(root, table);
        command.env("MILLPOND_SIM_LIST", "1").stdout(Stdio::piped());
        let output = command.output().map_err(|error| format!("cargo: {error}"))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr);
            return Err(format!("{} of {} lists no scenarios: {said}", table.1, table.0));
        }
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let names = said.lines().filter_map(|line| line.split_once(LISTED)).map(|(_, name)| name.to_owned());
        listed.extend(names.map(|name| (table, name)));
    }
    Ok(listed)
}

/// What plays a table.
fn program(root: &Path, (package, test): Table) -> Command {
    let mut command = Command::new(step::program());
    command.args([
        "test",
        "--quiet",
        "-p",
        package,
        "--test",
        test,
        "--",
        "scenarios",
        "--exact",
        "--nocapture",
    ]);
    command.current_dir(root);
    command
}
