//! What is left of a command that does not end well.

use std::io::Read;
use std::process::{Child, Stdio};

use crate::lab::{self, Lab};

/// A copy that cannot end by itself: one byte in a second.
fn slow_copy(lab: &Lab, target: &str) -> Child {
    let mut command = lab.command_with_signals(lab::MILLPOND);
    command.args(["img", "convert", "-r", "1", "-m", "1", "-O", "qcow2", "disk.raw", target]);
    command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap()
}

fn end(mut child: Child, signal: &str) -> Option<i32> {
    lab::signal(child.id(), signal);
    child.wait().unwrap().code()
}

#[test]
fn a_copy_that_is_called_off_leaves_no_image() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.image("disk.raw", 8 << 20);
    for (signal, status) in [("TERM", 143), ("INT", 130), ("HUP", 129)] {
        let child = slow_copy(&lab, "new.qcow2");
        lab::wait_for("the target is there", || lab.path("new.qcow2").exists());
        assert_eq!(end(child, signal), Some(status), "{signal}");
        assert!(!lab.path("new.qcow2").exists(), "{signal}");
    }
}

#[test]
fn what_has_taken_the_name_of_ours_stays() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.image("disk.raw", 8 << 20);
    for was_there in [false, true] {
        if was_there {
            std::fs::write(lab.path("new"), "old").unwrap();
        }
        let child = slow_copy(&lab, "new");
        let has_header = || std::fs::metadata(lab.path("new")).is_ok_and(|file| file.len() > 65536);
        lab::wait_for("the target has a header", has_header);
        std::fs::rename(lab.path("new"), lab.path("aside")).unwrap();
        std::fs::write(lab.path("new"), "precious").unwrap();
        // If it has not opened it as an image yet, it finds that this is none.
        assert!(matches!(end(child, "TERM"), Some(1 | 143)));
        assert_eq!(std::fs::read_to_string(lab.path("new")).unwrap(), "precious");
        std::fs::remove_file(lab.path("new")).unwrap();
    }
}

#[test]
fn a_link_to_what_was_not_there_stays() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.image("disk.raw", 8 << 20);
    std::os::unix::fs::symlink("nowhere", lab.path("link")).unwrap();
    let output = limited(&lab, "millpond img convert -O qcow2 disk.raw link");
    assert_eq!(output.status.code(), Some(1), "{}", lab::said(&output));
    assert!(std::fs::symlink_metadata(lab.path("link")).is_ok() && !lab.path("nowhere").exists());
}

#[test]
fn without_open_files_it_says_so() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.image("disk.raw", 1 << 20);
    for verb in ["img info disk.raw", "nbd -f raw disk.raw", "daemon"] {
        let output = lab.run("bash", &["-c", &format!("ulimit -n 4; exec millpond {verb}")]);
        let told = lab::said(&output);
        assert!(output.status.code() == Some(1) && told.contains("cannot start"), "{verb}: {told}");
        assert_eq!(told.lines().count(), 1, "{verb}: {told}");
    }
}

/// As under nohup, or in a shell's background.
#[test]
fn what_is_ignored_ends_nothing() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.image("disk.raw", 8 << 20);
    let script = "trap '' INT HUP; exec millpond img convert -p -r 8M -m 1 -O raw disk.raw new";
    let mut child = lab.command("sh").args(["-c", script]).stdout(Stdio::piped()).spawn().unwrap();
    // It has begun, and says so.
    child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
    lab::signal(child.id(), "INT");
    lab::signal(child.id(), "HUP");
    std::io::copy(child.stdout.as_mut().unwrap(), &mut std::io::sink()).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    assert!(std::fs::read(lab.path("new")).unwrap() == std::fs::read(lab.path("disk.raw")).unwrap());
}

/// Nothing of it has to wait for anything, for longer than anybody would.
#[test]
fn work_in_memory_alone_is_called_off() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.ok("millpond", &["img", "create", "-q", "-f", "qcow2", "empty.qcow2", "9T"]);
    for line in ["rebase -p -f qcow2 -b \"\" empty.qcow2", "bench -f qcow2 -c 2000000000 empty.qcow2"] {
        let mut command = lab.command("sh");
        command.args(["-c", &format!("exec millpond img {line}")]);
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        // It has begun, and says so.
        child.stdout.as_mut().unwrap().read_exact(&mut [0]).unwrap();
        assert_eq!(end(child, "TERM"), Some(143), "{line}");
    }
}

#[test]
fn a_file_that_was_there_stays_and_is_emptied() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.image("disk.raw", 8 << 20);
    std::fs::write(lab.path("old"), "something").unwrap();
    let child = slow_copy(&lab, "old");
    let len = || std::fs::metadata(lab.path("old")).unwrap().len();
    lab::wait_for("the target has a header", || len() > 65536);
    end(child, "TERM");
    assert_eq!(len(), 0);
}

#[test]
fn what_cannot_be_told_changes_no_outcome() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.image("disk.raw", 1 << 20);
    for (line, status) in [
        ("img info none 2>/dev/full", 1),
        ("img info disk.raw >/dev/full", 0),
        ("img convert -p -f raw -O qcow2 disk.raw new 2>/dev/full >/dev/full", 0),
        ("img --nonsense 2>/dev/full", 1),
        ("nbd none 2>/dev/full", 1),
        ("nbd --object help >/dev/full", 0),
        ("daemon --blockdev bad 2>/dev/full", 1),
        ("list --nonsense 2>/dev/full", 1),
    ] {
        let output = lab.run("sh", &["-c", &format!("exec millpond {line}")]);
        assert_eq!(output.status.code(), Some(status), "{line}: {}", lab::said(&output));
    }
}

/// Runs it with a limit on the length of files, which stands for a disk without room.
fn limited(lab: &Lab, command: &str) -> std::process::Output {
    lab.run("bash", &["-c", &format!("ulimit -f 2048; {command}")])
}

#[test]
fn a_full_disk_leaves_no_image() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.image("disk.raw", 8 << 20);
    for options in ["-O qcow2", "-O raw", "-O qcow2 -o data_file=data"] {
        let output = limited(&lab, &format!("millpond img convert {options} disk.raw new"));
        assert_eq!(output.status.code(), Some(1), "{}", lab::said(&output));
        assert!(lab::said(&output).contains("File too large"), "{}", lab::said(&output));
        assert!(!lab.path("new").exists() && !lab.path("data").exists());
    }
}

/// Calls a verb on an image whose file has no room for requests of that kind; answers what is said.
fn without_room(lab: &Lab, verb: &[&str], (driver, name, op): (&str, &str, &str), rest: &[&str]) -> String {
    let image = format!(
        "driver={driver},file.driver=fault,file.rules.0.op={op},file.rules.0.errno=28,file.file.driver=file,file.file.filename={name}"
    );
    lab.fails("millpond", &[&["img"], verb, &["--image-opts", &image], rest].concat())
}

#[test]
fn a_full_disk_is_told_of_in_words_of_qemu() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.image("disk.raw", 1 << 20);
    let below = "backing_file=disk.raw,backing_fmt=raw";
    lab.ok("millpond", &["img", "create", "-q", "-f", "qcow2", "-o", below, "over"]);
    let zeros = "Could not write zeros for preallocation: No space left on device";
    let reserved = "Could not preallocate new data: No space left on device";
    for (mode, op, words) in [("full", "write", zeros), ("falloc", "write-zeroes", reserved)] {
        let mode = format!("--preallocation={mode}");
        let told = without_room(&lab, &["resize", &mode], ("raw", "disk.raw", op), &["2M"]);
        assert_eq!(told.trim(), format!("millpond img: {words}"));
    }
    let told =
        without_room(&lab, &["resize", "--preallocation=falloc"], ("qcow2", "over", "write-zeroes"), &["2M"]);
    assert!(
        told.contains(&format!("millpond img: Failed to resize underlying file: {reserved}\n")),
        "{told}"
    );
    let told = without_room(&lab, &["rebase", "-b", ""], ("qcow2", "over", "write"), &[]);
    let words = "millpond img: Error while writing to COW image: No space left on device";
    assert!(told.lines().any(|line| line == words), "{told}");
}

#[test]
fn a_full_disk_ends_no_server() {
    let Some(lab) = Lab::new("a_full_disk_ends_no_server", &["qemu-img", "qemu-io"]) else { return };
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "disk.qcow2", "64M"]);
    let script = "millpond nbd -t -k socket -f qcow2 disk.qcow2 & while ! test -S socket; do sleep 0.02; done; \
                  qemu-io -f raw -c 'write 0 8M' -c 'write 0 64k' -c 'read 0 64k' nbd+unix:///?socket=socket; \
                  kill %1; wait";
    let output = limited(&lab, script);
    assert!(lab::said(&output).contains("read 65536/65536"), "{}", lab::said(&output));
    assert!(lab::said(&output).contains("No space left on device"), "{}", lab::said(&output));
    lab.ok("qemu-img", &["check", "-q", "disk.qcow2"]);
}

#[test]
fn progress_is_of_what_is_copied() {
    let Some(lab) = Lab::new("progress_is_of_what_is_copied", &["qemu-img", "qemu-io"]) else { return };
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "disk.qcow2", "128M"]);
    for at in ["0", "2M", "64M", "66M"] {
        lab.ok("qemu-io", &["-c", &format!("write -q {at} 1M"), "disk.qcow2"]);
    }
    let line = ["convert", "-p", "-f", "qcow2", "-O", "qcow2", "disk.qcow2", "new.qcow2"];
    let theirs = lab.ok("qemu-img", &line);
    assert_eq!(lab.ok("millpond", &[&["img"], &line[..]].concat()), theirs);
    assert!(theirs.contains("(25.00/100%)"), "{theirs}");
}

#[test]
fn usr1_asks_how_far_it_is() {
    let lab = Lab::on(std::path::Path::new(env!("CARGO_TARGET_TMPDIR")));
    lab.image("disk.raw", 8 << 20);
    let child = slow_copy(&lab, "new.qcow2");
    lab::wait_for("the target is there", || lab.path("new.qcow2").exists());
    lab::signal(child.id(), "USR1");
    let id = child.id();
    // The first answer is enough; it ends only when it is told to.
    let reader = std::thread::spawn(move || {
        use std::io::BufRead as _;
        let mut line = String::new();
        let mut child = child;
        std::io::BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        lab::signal(id, "TERM");
        child.wait().unwrap();
        line
    });
    let line = reader.join().unwrap();
    assert!(line.starts_with("    (") && line.ends_with("/100%)\n"), "{line}");
}

#[test]
fn a_source_that_names_others_needs_its_format() {
    let Some(lab) = Lab::new("a_source_that_names_others_needs_its_format", &["qemu-img"]) else { return };
    lab.image("disk.raw", 1 << 20);
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "over.qcow2"]);
    for verb in [&["map", "over.qcow2"][..], &["convert", "over.qcow2", "x"], &["info", "-b", "over.qcow2"]] {
        let told = lab.fails("millpond", &[&["img"], verb].concat());
        assert!(told.contains("say its format"), "{verb:?}: {told}");
    }
    lab.ok("millpond", &["img", "info", "over.qcow2"]);
    lab.ok("millpond", &["img", "map", "-f", "qcow2", "over.qcow2"]);
    let told = lab.fails("millpond", &["img", "info", "-f", "vmdk", "disk.raw"]);
    assert!(told.contains("'vmdk' is not yet supported"), "{told}");
}

/// Commands that make `new.img`, which reads as `disk.raw` when they are through (but for the empty one).
const MAKING: &[&[&str]] = &[
    &["convert", "-f", "raw", "-O", "qcow2", "disk.raw", "new.img"],
    &["convert", "-f", "raw", "-c", "-O", "qcow2", "disk.raw", "new.img"],
    &["convert", "-f", "raw", "-W", "-m", "16", "-o", "preallocation=full", "disk.raw", "new.img"],
    &["dd", "-f", "raw", "-O", "qcow2", "bs=64k", "if=disk.raw", "of=new.img"],
    &["create", "-f", "qcow2", "-o", "preallocation=full", "new.img", "24M"],
];

/// Ended at any moment there is a whole image or none; which of both is a matter of time.
#[test]
fn whatever_is_ended_leaves_a_whole_image_or_none() {
    let test = "whatever_is_ended_leaves_a_whole_image_or_none";
    let Some(lab) = Lab::new(test, &["qemu-img"]) else { return };
    lab.image("disk.raw", 24 << 20);
    let rounds = if lab::is_full() { 60 } else { 6 };
    for (seed, arguments) in (0..rounds).flat_map(|seed| MAKING.iter().map(move |verb| (seed, verb))) {
        let mut command = lab.command_with_signals(lab::MILLPOND);
        command.arg("img").args(*arguments).stdout(Stdio::null()).stderr(Stdio::null());
        let child = command.spawn().unwrap();
        std::thread::sleep(std::time::Duration::from_micros(seed * 7919 % 60_000));
        let code = end(child, ["TERM", "INT", "HUP"][seed as usize % 3]);
        let is_there = lab.path("new.img").exists();
        assert!(is_there || code != Some(0), "{arguments:?}, seed {seed}: {code:?}");
        if is_there {
            match arguments[0] {
                "create" => lab.ok("qemu-img", &["check", "-q", "-f", "qcow2", "new.img"]),
                _ => lab.ok("qemu-img", &["compare", "-q", "disk.raw", "new.img"]),
            };
            std::fs::remove_file(lab.path("new.img")).unwrap();
        }
    }
}

/// QEMU 10.0.2 takes an image whose header says what it does not know for one without snapshots, and frees theirs.
#[test]
fn repaired_by_qemu_img_an_overlay_keeps_its_snapshots() {
    let test = "repaired_by_qemu_img_an_overlay_keeps_its_snapshots";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io"]) else { return };
    lab.image("disk.raw", 1 << 20);
    for more in ["", ",cache_img_quota=10M"] {
        let options = format!("backing_file=disk.raw,backing_fmt=raw{more}");
        lab.ok("millpond", &["img", "create", "-q", "-f", "qcow2", "-o", &options, "over"]);
        lab.ok("millpond", &["img", "snapshot", "-f", "qcow2", "-c", "one", "over"]);
        lab.ok("qemu-img", &["check", "-q", "-r", "all", "over"]);
        assert!(lab.ok("qemu-img", &["snapshot", "-l", "over"]).contains("one"), "{more}");
        lab.ok("qemu-img", &["check", "-q", "over"]);
        // Nor is there a mark afterwards.
        lab.ok(
            "millpond",
            &["img", "rebase", "-q", "-u", "-f", "qcow2", "-b", "disk.raw", "-F", "raw", "over"],
        );
        lab.ok("qemu-img", &["check", "-q", "-r", "all", "over"]);
        assert!(lab.ok("qemu-img", &["snapshot", "-l", "over"]).contains("one"), "{more}");
        let told =
            lab.fails("millpond", &["img", "amend", "-f", "qcow2", "-o", "cache_img_quota=5M", "over"]);
        assert!(told.contains("internal snapshots"), "{told}");
    }
}

#[test]
fn what_guests_discard_goes_where_that_is_asked_for() {
    let test = "what_guests_discard_goes_where_that_is_asked_for";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io", "qemu-nbd"]) else { return };
    for server in ["millpond nbd", "qemu-nbd"] {
        for (format, mode, left) in [("qcow2", "ignore", 7), ("raw", "ignore", 7), ("qcow2", "unmap", 0)] {
            lab.ok("qemu-img", &["create", "-q", "-f", format, "disk", "1M"]);
            lab.ok("qemu-io", &["-f", format, "-c", "write -q -P 7 0 1M", "disk"]);
            let script = format!(
                "{server} -f {format} --discard {mode} -k $PWD/s disk & while ! test -S s; do sleep 0.02; done; \
                 qemu-io -f raw -d unmap -c 'discard 0 1M' -c 'read -P {left} 0 1M' nbd+unix:///?socket=$PWD/s; \
                 wait; while test -e s; do sleep 0.02; done"
            );
            let output = lab.run("bash", &["-c", &script]);
            let said = lab::said(&output);
            assert!(said.contains("read 1048576/1048576") && !said.contains("failed"), "{server}: {said}");
        }
    }
}

#[test]
fn what_guests_zero_keeps_its_place_unless_it_may_go() {
    let test = "what_guests_zero_keeps_its_place_unless_it_may_go";
    let Some(lab) = Lab::new(test, &["qemu-img", "qemu-io", "qemu-nbd"]) else { return };
    for (options, mode) in [
        ("compat=1.1", "ignore"),
        ("compat=1.1", "unmap"),
        ("compat=0.10", "ignore"),
        ("compat=0.10", "unmap"),
    ] {
        let maps = ["millpond nbd", "qemu-nbd"].map(|server| {
            lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-o", options, "disk", "1M"]);
            lab.ok("qemu-io", &["-c", "write -q -P 7 0 1M", "disk"]);
            let script = format!(
                "{server} -f qcow2 --discard {mode} -k $PWD/s disk & while ! test -S s; do sleep 0.02; done; \
                 qemu-io -f raw -d unmap -c 'write -z -u 0 512k' -c flush nbd+unix:///?socket=$PWD/s; \
                 wait; while test -e s; do sleep 0.02; done; qemu-img map --output json disk"
            );
            let said = lab::said(&lab.run("bash", &["-c", &script]));
            said[said.find('[').unwrap()..].to_owned()
        });
        assert_eq!(maps[0], maps[1], "{options}, {mode}");
    }
}
