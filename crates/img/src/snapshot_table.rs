//! Internal snapshots as qemu-img shows them: lines of a table, or members of an object.

use engine::SnapshotInfo;
use qcow2::Snapshot;
use serde_json::{Map, Value, json};

use crate::failure::{Failure, Result};
use crate::numbers::shown;
use crate::session::Session;

const SECOND: u64 = 1_000_000_000;

/// The table, empty where there are none.
pub(crate) fn text(snapshots: &[SnapshotInfo]) -> String {
    if snapshots.is_empty() {
        return String::new();
    }
    let head = line(["ID", "TAG", "VM_SIZE", "DATE", "VM_CLOCK", "ICOUNT"].map(str::to_owned));
    let lines = snapshots.iter().map(|snapshot| {
        let icount = snapshot.icount.map_or_else(|| "--".to_owned(), |count| count.to_string());
        line([
            snapshot.id.clone(),
            snapshot.name.clone(),
            shown(snapshot.vm_state_size),
            io::wall::local_time(snapshot.date_s.into()).to_string(),
            clock(snapshot.vm_clock_ns),
            icount,
        ])
    });
    format!("Snapshot list:\n{head}{}", lines.collect::<String>())
}

fn line([id, tag, size, date, clock, icount]: [String; 6]) -> String {
    // Columns are counted in bytes, as C does.
    let padded = |text: String, width: usize| format!("{text}{:1$}", "", width.saturating_sub(text.len()));
    let (id, tag) = (padded(id, 7), padded(tag, 16));
    format!("{id} {tag} {size:>8} {date:>19} {clock:>15} {icount:>10}\n")
}

/// Hours, minutes, seconds and thousandths.
fn clock(ns: u64) -> String {
    let seconds = ns / SECOND;
    let (minutes, thousandths) = (seconds / 60, ns % SECOND / 1_000_000);
    format!("{:04}:{:02}:{:02}.{thousandths:03}", minutes / 60, minutes % 60, seconds % 60)
}

/// QMP's `SnapshotInfo`, in the order in which qemu-img shows it.
pub(crate) fn json(snapshot: &SnapshotInfo) -> Value {
    let members = [
        ("icount", snapshot.icount.map(|count| json!(count))),
        ("vm-clock-nsec", Some(json!(snapshot.vm_clock_ns % SECOND))),
        ("name", Some(json!(snapshot.name))),
        ("date-sec", Some(json!(snapshot.date_s))),
        ("date-nsec", Some(json!(snapshot.date_ns))),
        ("vm-clock-sec", Some(json!(snapshot.vm_clock_ns / SECOND))),
        ("id", Some(json!(snapshot.id))),
        ("vm-state-size", Some(json!(snapshot.vm_state_size))),
    ];
    let members: Map<_, _> =
        members.into_iter().filter_map(|(name, value)| Some((name.to_owned(), value?))).collect();
    Value::Object(members)
}

/// The failure of an image that has no such snapshot, or none that can be read, in qemu-img's words.
pub(crate) fn missing(failure: Failure, wanted: Option<&str>) -> Failure {
    let text = failure.text.as_deref().unwrap_or_default();
    let lie = lying(text).map(|(lie, _)| lie);
    let why = lie.or_else(|| text.contains("snapshot '").then_some("Can't find snapshot"));
    let why = why.map(str::to_owned).or_else(|| has_none(text));
    match why.filter(|_| wanted.is_some()) {
        Some(why) => Failure::new(format!("Failed to load snapshot: {why}")),
        None => failure,
    }
}

/// What is wrong with an image of a format that knows no snapshots.
fn has_none(text: &str) -> Option<String> {
    let text = text.strip_suffix("' does not support the option 'snapshot'")?;
    let (_, format) = text.rsplit_once("Block format '")?;
    Some(format!(
        "Block format '{format}' used by device '' does not support temporarily loading internal snapshots"
    ))
}

/// Fails where `snapshot.id=...,snapshot.name=...` names anything else.
pub(crate) fn check_param(session: &Session, param: Option<&str>) -> Result<()> {
    let param = param.unwrap_or_default();
    let keys = param.split(',').map(|item| item.split_once('=').map_or(item, |(key, _)| key));
    let mut others = keys.filter(|key| !matches!(*key, "snapshot.id" | "snapshot.name"));
    match others.next().filter(|_| param.starts_with("snapshot.")) {
        Some(key) => {
            session.listener.complain(&format!("Invalid parameter '{key}'"));
            Err(Failure::new(format!("Failed in parsing snapshot param '{param}'")))
        }
        None => Ok(()),
    }
}

/// What an error says of the L1 table of a snapshot, in qemu-img's words; and the error number that goes with it there.
pub(crate) fn lying(text: &str) -> Option<(&'static str, &'static str)> {
    let numbers = ["File too large", "Invalid argument"];
    Snapshot::L1_LIES.into_iter().zip(numbers).find(|(lie, _)| text.ends_with(lie))
}
