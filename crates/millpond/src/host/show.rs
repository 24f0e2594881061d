//! Tables of images and clones for people.

use serde_json::Value;

/// All images and clones.
pub(super) fn tables(images: &[Value], clones: &[Value]) -> String {
    let mut text = String::new();
    if images.is_empty() {
        return "no images: 'millpond clone SOURCE OVERLAY' makes the first\n".to_owned();
    }
    text += &columns(images.iter().map(image).collect(), ["IMAGE", "STATE", "DONE", "SIZE", "SOURCE"]);
    text += &troubles(images, "image");
    if !clones.is_empty() {
        text.push('\n');
        text += &columns(clones.iter().map(clone).collect(), ["CLONE", "STATE", "VMS", "SIZE", "IMAGE"]);
        text += &troubles(clones, "overlay");
    }
    text
}

/// What is wrong with which of them, in a line each.
fn troubles(all: &[Value], name: &str) -> String {
    let troubled = all.iter().filter_map(|one| Some((word(one, name), one["trouble"].as_str()?)));
    troubled.map(|(name, trouble)| format!("  {name}: {trouble}\n")).collect()
}

fn image(image: &Value) -> [String; 5] {
    [
        word(image, "image"),
        word(image, "state"),
        format!("{} %", percent(image)),
        size(number(image, "size")),
        word(image, "source"),
    ]
}

fn clone(clone: &Value) -> [String; 5] {
    let state = match (clone["pivoted"] == true, clone["trouble"].is_null()) {
        (true, _) => "pivoted",
        (false, true) => "served",
        (false, false) => "damaged",
    };
    [
        word(clone, "overlay"),
        state.to_owned(),
        number(clone, "connections").to_string(),
        size(number(clone, "size")),
        word(clone, "image"),
    ]
}

/// How far an image is, in percent; 100 only when it is complete.
pub(super) fn percent(image: &Value) -> u64 {
    let (done, size) = (number(image, "done"), number(image, "size").max(1));
    let most = if image["state"] == "complete" { 100 } else { 99 };
    (u128::from(done) * 100 / u128::from(size)).min(most) as u64
}

pub(super) fn word(value: &Value, key: &str) -> String {
    value[key].as_str().unwrap_or_default().to_owned()
}

pub(super) fn number(value: &Value, key: &str) -> u64 {
    value[key].as_u64().unwrap_or(0)
}

/// A size as people read it.
pub(super) fn size(bytes: u64) -> String {
    let units = ["B", "KiB", "MiB", "GiB", "TiB", "PiB"];
    let mut scaled = bytes as f64;
    let mut unit = 0;
    while scaled >= 1024.0 && unit + 1 < units.len() {
        scaled /= 1024.0;
        unit += 1;
    }
    let digits = if unit == 0 || scaled.fract() < 0.05 { 0 } else { 1 };
    format!("{scaled:.digits$} {}", units[unit])
}

fn columns(rows: Vec<[String; 5]>, heads: [&str; 5]) -> String {
    let all: Vec<_> = std::iter::once(heads.map(str::to_owned)).chain(rows).collect();
    let width = |at: usize| all.iter().map(|row| row[at].chars().count()).max().unwrap_or(0);
    let widths: Vec<_> = (0..4).map(width).collect();
    let mut text = String::new();
    for row in &all {
        for (cell, width) in row.iter().zip(&widths) {
            text += &format!("{cell:width$}  ");
        }
        text += &row[4];
        text.push('\n');
    }
    text
}
