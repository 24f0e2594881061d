//! Copies over a backing image: what qemu-img shows in its place, where the source reads as zeros.

use crate::lab::Lab;

/// The source's backing image ends before the disk. What reads as zeros behind it hides what is there already: in a
/// target that was used, or in a backing image that is longer.
#[test]
fn zeros_behind_the_end_hide_what_is_there() {
    let tools = ["qemu-img", "qemu-io"];
    let Some(lab) = Lab::new("zeros_behind_the_end_hide_what_is_there", &tools) else { return };
    let raw = |name: &str, size: &str, pattern: &str| {
        lab.ok("qemu-img", &["create", "-q", name, size]);
        lab.ok("qemu-io", &["-f", "raw", "-c", &format!("write -q -P {pattern} 0 {size}"), name]);
    };
    raw("short.raw", "1M", "5");
    raw("long.raw", "2M", "5");
    lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-b", "short.raw", "-F", "raw", "source", "2M"]);
    lab.ok("qemu-io", &["-c", "write -q -P 7 1200k 64k", "source"]);
    for (target, backing, packed) in
        [("new", "long.raw", false), ("used", "short.raw", false), ("packed", "long.raw", true)]
    {
        let mut options = vec!["img", "convert", "-O", "qcow2", "-f", "qcow2", "-B", backing, "-F", "raw"];
        if target == "used" {
            lab.ok("qemu-img", &["create", "-q", "-f", "qcow2", "-b", backing, "-F", "raw", target, "2M"]);
            lab.ok("qemu-io", &["-c", "write -q -P 9 1M 1M", target]);
            options.push("-n");
        }
        options.extend(packed.then_some("-c"));
        options.extend(["source", target]);
        lab.ok("millpond", &options);
        assert_eq!(lab.ok("qemu-img", &["compare", "source", target]), "Images are identical.\n", "{target}");
        lab.ok("qemu-img", &["check", "-q", target]);
    }
}
