//! Parts of raw files: qemu-img shows their options in an order of its own, so that only their sizes are compared.

use crate::lab::Lab;

#[test]
fn info_shows_the_size_of_the_part() {
    let Some(lab) = Lab::new("info_shows_the_size_of_the_part", &["qemu-img"]) else { return };
    lab.ok("qemu-img", &["create", "-q", "whole.raw", "1M"]);
    for part in ["size=64k,offset=64k", "offset=64k", "size=4k"] {
        let image = format!("driver=raw,{part},file.driver=file,file.filename=whole.raw");
        let size =
            |text: String| text.lines().find(|line| line.starts_with("virtual size")).map(str::to_owned);
        let theirs = size(lab.ok("qemu-img", &["info", "--image-opts", &image]));
        let ours = size(lab.ok("millpond", &["img", "info", "--image-opts", &image]));
        assert!(theirs.is_some() && theirs == ours, "{part}: {theirs:?} and {ours:?}");
    }
}
