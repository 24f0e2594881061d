//! Chains: every kind of name, every depth, backing images that are shorter, longer, elsewhere or not there.

use std::sync::Arc;

use serde_json::json;

use crate::disk::{Disk, map, qcow2, run};
use crate::lab::Lab;
use crate::matrix::compare;

#[test]
fn every_kind_of_name() {
    let Some(mut lab) = Lab::new("every_kind_of_name") else { return };
    std::fs::create_dir(lab.path("sub")).unwrap();
    let size = 3 << 20;
    lab.raw("base.raw", 1 << 20 | 512);
    let absolute = format!("file:{}", lab.name("sub/two.qcow2"));
    let three = json!({"driver": "qcow2", "file": {"driver": "file", "filename": lab.name("three.qcow2")}});
    // Dotted, in single quotes, and with a raw node in between.
    let four = format!(
        "json:{{'driver':'qcow2','file.driver':'raw','file.file.driver':'file','file.file.filename':'{}'}}",
        lab.name("four.qcow2")
    );
    let chain = [
        // The image, the name it stores for the one below, that one's format.
        ("sub/one.qcow2", "../base.raw".to_owned(), "raw"),
        ("sub/two.qcow2", "one.qcow2".to_owned(), "qcow2"),
        ("three.qcow2", absolute, "qcow2"),
        ("four.qcow2", format!("json:{three}"), "qcow2"),
        ("five.qcow2", four, "qcow2"),
    ];
    for (i, (image, backing, format)) in chain.into_iter().enumerate() {
        let options = ["cluster_size=64k", "cluster_size=512", "extended_l2=on,cluster_size=32k"][i % 3];
        lab.overlay(options, image, size + i as u64 * 51_200, &backing, format);
        lab.scribble(image, size, 64 << 10, 6);
        compare(&lab, image);
    }
}

#[test]
fn a_server_below() {
    let Some(mut lab) = Lab::new("a_server_below") else { return };
    lab.raw("base.raw", 1 << 20);
    lab.create("cluster_size=4k", "remote.qcow2", 2 << 20);
    lab.scribble("remote.qcow2", 2 << 20, 65536, 10);
    let _raw = lab.serve("raw.sock", &["-r", "-f", "raw", "-x", "base", "base.raw"]);
    // Its bytes as they are: the qcow2 driver is on our side.
    let _qcow2 = lab.serve("qcow2.sock", &["-r", "-f", "raw", "remote.qcow2"]);
    let server = |socket| json!({"type": "unix", "path": lab.name(socket)});
    let raw =
        json!({"driver": "raw", "file": {"driver": "nbd", "server": server("raw.sock"), "export": "base"}});
    let qcow2 = json!({"driver": "qcow2", "file": {"driver": "nbd", "server": server("qcow2.sock")}});
    let uri = format!("nbd+unix:///base?socket={}", lab.name("raw.sock"));
    for (name, format) in [(format!("json:{raw}"), "raw"), (format!("json:{qcow2}"), "qcow2"), (uri, "raw")] {
        lab.overlay("", "top.qcow2", 3 << 20, &name, format);
        lab.scribble("top.qcow2", 3 << 20, 65536, 6);
        compare(&lab, "top.qcow2");
    }
}

#[test]
fn a_backing_image_shorter_or_longer_than_the_overlay() {
    let Some(mut lab) = Lab::new("a_backing_image_shorter_or_longer_than_the_overlay") else { return };
    // Also one that ends within a sector.
    for base in [300_032, 300_001, 0] {
        lab.raw("base.raw", base);
        for (size, options) in [(1_000_448, "compat=0.10"), (100_352, "extended_l2=on")] {
            lab.overlay(options, "middle.qcow2", size, "base.raw", "raw");
            compare(&lab, "middle.qcow2");
            lab.scribble("middle.qcow2", size, 65536, 3);
            lab.overlay("cluster_size=4k", "top.qcow2", 1_500_160, "middle.qcow2", "qcow2");
            compare(&lab, "top.qcow2");
        }
    }
}

#[test]
fn chains_of_one_to_64_images() {
    let Some(mut lab) = Lab::new("chains_of_one_to_64_images") else { return };
    let size = 4 << 20;
    lab.create("cluster_size=64k", "1.qcow2", size);
    for depth in 1..=64 {
        let name = format!("{depth}.qcow2");
        if depth > 1 {
            let options = ["cluster_size=64k", "cluster_size=4k", "extended_l2=on"][depth % 3];
            lab.overlay(options, &name, size, &format!("{}.qcow2", depth - 1), "qcow2");
        }
        lab.scribble(&name, size, 64 << 10, 3);
        if depth < 3 || [7, 8, 9, 33, 64].contains(&depth) {
            compare(&lab, &name);
        }
    }
    run(async |engine| {
        let disk = Disk::image(engine, &lab.path("64.qcow2")).await.unwrap();
        assert_eq!(engine.nodes().len(), 128);
        disk.close().await;
        assert!(engine.nodes().is_empty());
    });
}

#[test]
fn what_options_say_of_the_backing_image_counts() {
    let Some(mut lab) = Lab::new("what_options_say_of_the_backing_image_counts") else { return };
    lab.raw("base.raw", 1 << 20);
    lab.overlay("", "top.qcow2", 1 << 20, "base.raw", "raw");
    lab.io("top.qcow2", &["write -q -P 5 64k 64k".to_owned()]);
    std::fs::rename(lab.path("base.raw"), lab.path("moved.raw")).unwrap();
    let (bytes, top) = (std::fs::read(lab.path("moved.raw")).unwrap(), lab.path("top.qcow2"));
    run(async |engine| {
        let missing = Disk::image(engine, &top).await.err().unwrap().to_string();
        assert!(missing.contains("top.qcow2") && missing.contains("base.raw"), "{missing}");
        let expect = async |options, below: &[u8]| {
            let disk = Disk::open(engine, options).await.unwrap();
            let mut expected = below.to_vec();
            expected[65536..131_072].fill(5);
            disk.expect(&Arc::new(expected), "top.qcow2").await;
            disk.close().await;
        };
        let mut options = qcow2(&top);
        options["backing"] = json!(null);
        expect(options.clone(), &[0; 1 << 20]).await;
        let moved = json!({"driver": "raw", "file": {"driver": "file", "filename": lab.path("moved.raw")}});
        options["backing"] = moved.clone();
        expect(options.clone(), &bytes).await;
        // A node that is there already, and stays.
        let mut below = moved;
        below["node-name"] = json!("below");
        below["read-only"] = json!(true);
        engine.add_node(map(below)).await.unwrap();
        options["backing"] = json!("below");
        expect(options, &bytes).await;
        assert_eq!(engine.nodes().len(), 2);
    });
}

#[test]
fn circles_are_named_and_chains_have_an_end() {
    let Some(lab) = Lab::new("circles_are_named_and_chains_have_an_end") else { return };
    let rebase = |image: &str, backing: &str| {
        lab.img(&["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", backing, image]);
    };
    for image in ["self.qcow2", "a.qcow2", "b.qcow2", "c.qcow2", "json.qcow2", "outside.qcow2"] {
        lab.create("cluster_size=64k", image, 1 << 20);
    }
    std::os::unix::fs::symlink("self.qcow2", lab.path("link.qcow2")).unwrap();
    std::fs::create_dir(lab.path("sub")).unwrap();
    rebase("self.qcow2", "link.qcow2");
    rebase("a.qcow2", "sub/../b.qcow2");
    rebase("b.qcow2", "c.qcow2");
    rebase("c.qcow2", "a.qcow2");
    rebase("outside.qcow2", "a.qcow2");
    let json = json!({"driver": "qcow2", "file": {"driver": "file", "filename": lab.name("json.qcow2")}, "node-name": "n"});
    rebase("json.qcow2", &format!("json:{json}"));
    run(async |engine| {
        for image in ["self.qcow2", "a.qcow2", "json.qcow2", "outside.qcow2"] {
            let said = Disk::image(engine, &lab.path(image)).await.err().unwrap().to_string();
            let named = match image {
                "self.qcow2" => "link.qcow2",
                "outside.qcow2" => "a.qcow2",
                other => other,
            };
            let words = [named, "among its own backing files", "'backing'"];
            assert!(words.iter().all(|word| said.contains(word)) && !said.contains('\n'), "{said}");
            assert!(engine.nodes().is_empty());
        }
    });
}

#[test]
fn a_chain_that_is_too_deep_is_refused() {
    let Some(lab) = Lab::new("a_chain_that_is_too_deep_is_refused") else { return };
    lab.create("cluster_size=64k", "0.qcow2", 1 << 20);
    lab.io("0.qcow2", &["write -q -P 5 0 1M".to_owned()]);
    lab.overlay("", "1.qcow2", 1 << 20, "000.qcow2", "qcow2");
    // The same image again and again, by names of the same length.
    let first = std::fs::read(lab.path("1.qcow2")).unwrap();
    let at = first.windows(9).position(|bytes| bytes == b"000.qcow2").unwrap();
    for depth in 1..=300 {
        let mut bytes = first.clone();
        bytes[at..at + 9].copy_from_slice(format!("{:03}.qcow2", depth - 1).as_bytes());
        std::fs::write(lab.path(&format!("{depth:03}.qcow2")), bytes).unwrap();
    }
    std::fs::rename(lab.path("0.qcow2"), lab.path("000.qcow2")).unwrap();
    run(async |engine| {
        let disk = Disk::image(engine, &lab.path("256.qcow2")).await.unwrap();
        assert!(disk.read(1000, 70_000).await.unwrap().iter().all(|byte| *byte == 5));
        disk.close().await;
        let said = Disk::image(engine, &lab.path("257.qcow2")).await.err().unwrap().to_string();
        assert!(said.contains("256 others") && said.contains("001.qcow2"), "{said}");
        assert!(engine.nodes().is_empty());
    });
}
