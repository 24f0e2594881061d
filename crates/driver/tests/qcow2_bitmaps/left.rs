//! What a power loss has left, read without the driver.

use std::process::Command;

use block::DirtyBitmap;
use qcow2::check::{Check, Repair, Step};
use qcow2::{BitmapCluster, BitmapEntry, Header};
use sim::SimDisk;

use crate::model::{Model, SECTOR};
use crate::run::word;

/// What is wrong with the image.
pub fn check(disk: &SimDisk, model: &Model) -> Result<(), String> {
    let file = disk.bytes("disk").unwrap();
    check_tables(&file)?;
    let header = Header::parse(&file[..Header::needed(&file).unwrap()]).map_err(|error| error.to_string())?;
    let guest = crate::run::read(disk);
    let found = directory(&file, &header)?;
    let sectors = header.virtual_size / SECTOR;
    if !model.sizes.contains(&sectors) {
        return Err(format!("it has {sectors} sectors, and not one of {:?}", model.sizes));
    }
    let visible = |sector: u64| {
        let at = (sector * SECTOR) as usize;
        let writes = model.writes.get(&sector).map_or(&[][..], Vec::as_slice);
        let is_there = |(_, number): &&(u64, u64)| guest.get(at..at + 8) == Some(&word(*number, sector));
        writes.iter().rev().find(is_there).map_or(0, |(began, _)| *began)
    };
    for (name, bitmap) in &model.bitmaps {
        match found.iter().find(|entry| entry.name == name.as_bytes()) {
            None if bitmap.is_stored && !bitmap.goes => return Err(format!("bitmap {name} is gone")),
            None => {}
            Some(entry) if entry.is_in_use() && model.at_rest && !bitmap.lost => {
                return Err(format!("bitmap {name} was stored, and is marked as in use"));
            }
            Some(entry) if entry.is_in_use() => {}
            Some(_) if bitmap.lost => return Err(format!("bitmap {name} was lost, and is used again")),
            Some(_) if sectors != model.sizes[0] => {
                return Err(format!("bitmap {name} is not marked as in use on a disk of another size"));
            }
            Some(entry) => {
                let bits = bits(&file, &header, entry)?;
                let checked = bitmap.check(&bits, entry.is_auto(), &visible);
                checked.map_err(|wrong| format!("bitmap {name}: {wrong}"))?;
            }
        }
    }
    match model.removed.iter().find(|name| found.iter().any(|entry| entry.name == name.as_bytes())) {
        Some(name) => Err(format!("bitmap {name} is back")),
        None => Ok(()),
    }
}

/// The directory, none where it is not to be believed.
pub fn directory(file: &[u8], header: &Header) -> Result<Vec<BitmapEntry>, String> {
    let Some(place) = header.bitmaps else { return Ok(Vec::new()) };
    let bytes = &file[place.directory.0 as usize..][..place.directory_len as usize];
    let parsed = BitmapEntry::parse_directory(bytes, place.count, header.cluster_bits, header.virtual_size);
    parsed.map_err(|error| error.to_string())
}

/// What is stored of a bitmap.
pub fn bits(file: &[u8], header: &Header, entry: &BitmapEntry) -> Result<DirtyBitmap, String> {
    let mut bits = DirtyBitmap::new(header.virtual_size, entry.granularity()).unwrap();
    let cluster = 1u64 << header.cluster_bits;
    for number in 0..u64::from(entry.table_entries) {
        let at = (entry.table.0 + number * 8) as usize;
        let word = u64::from_be_bytes(file[at..at + 8].try_into().unwrap());
        match BitmapCluster::parse(word, header.cluster_bits).map_err(|error| error.to_string())? {
            BitmapCluster::Zeros => {}
            BitmapCluster::Ones => bits.load_dirty(number * cluster, cluster),
            BitmapCluster::At(offset) => {
                let part = file.get(offset.0 as usize..).unwrap_or_default();
                bits.load(number * cluster, &part[..part.len().min(cluster as usize)]);
            }
        }
    }
    Ok(bits)
}

/// Nothing worse than leaks, say we.
pub fn check_tables(file: &[u8]) -> Result<(), String> {
    let needed = Header::needed(file).map_err(|error| error.to_string())?;
    let mut check = Check::new(&file[..needed], file.len() as u64, true, Repair::Nothing)
        .map_err(|error| error.to_string())?;
    let mut lines = Vec::new();
    loop {
        let step = check.step();
        lines.extend(check.drain_lines());
        match step.map_err(|error| error.to_string())? {
            Step::Read(ranges) => {
                for range in ranges {
                    let bytes = &file[range.start() as usize..range.end() as usize];
                    check.take(bytes).map_err(|error| error.to_string())?;
                }
            }
            Step::Done => break,
            _ => {}
        }
    }
    match check.found().corruptions + check.found().check_errors {
        0 => Ok(()),
        _ => Err(lines.join("; ")),
    }
}

/// The same, says QEMU; and it can open the image with its bitmaps.
pub fn ask_qemu(disk: &SimDisk) -> Result<(), String> {
    let folder = tempfile::tempdir_in(env!("CARGO_TARGET_TMPDIR")).unwrap();
    std::fs::write(folder.path().join("disk.qcow2"), disk.bytes("disk").unwrap()).unwrap();
    for (args, good) in [(&["check", "-q"][..], &[0, 3][..]), (&["info"], &[0])] {
        let mut command = Command::new("qemu-img");
        command.args(args).args(["-f", "qcow2", "disk.qcow2"]).current_dir(folder.path());
        let Ok(output) = command.output() else {
            sim::skip("driver qcow2_bitmaps, each fortieth image", "qemu-img");
            return Ok(());
        };
        if !output.status.code().is_some_and(|code| good.contains(&code)) {
            return Err(format!("qemu-img {args:?}: {}", String::from_utf8_lossy(&output.stderr)));
        }
    }
    Ok(())
}
