//! What images may name, and what is said of images that cannot be opened: one line with the name and the remedy.

use std::path::Path;

use block::ErrorKind;
use engine::ImagePolicy;
use graph::{Demand, User};
use serde_json::{Value, json};

use crate::disk::{Disk, map, qcow2, run, run_with};
use crate::lab::Lab;

/// Expects opening to fail with one line that holds `words`.
async fn refused(engine: &std::sync::Arc<engine::Engine>, options: Value, words: &[&str]) -> ErrorKind {
    let Err(error) = Disk::open(engine, options.clone()).await else { panic!("{options} was opened") };
    let said = error.to_string();
    for word in words {
        assert!(said.contains(word), "'{said}' does not say '{word}'");
    }
    assert!(!said.contains('\n') && said.len() < 700, "not one line: {said}");
    assert!(engine.nodes().is_empty(), "{:?}", engine.nodes());
    error.kind()
}

#[test]
fn images_name_nothing_outside_the_directories_that_are_allowed() {
    let Some(mut lab) = Lab::new("images_name_nothing_outside_the_directories_that_are_allowed") else {
        return;
    };
    for dir in ["pool", "pool/sub", "other"] {
        std::fs::create_dir(lab.path(dir)).unwrap();
    }
    lab.raw("pool/base.raw", 1 << 20);
    lab.raw("other/secret.raw", 1 << 20);
    let link = |target: &str, name: &str| std::os::unix::fs::symlink(target, lab.path(name)).unwrap();
    link("../other/secret.raw", "pool/out.raw");
    link("../pool/base.raw", "other/in.raw");
    link("base.raw", "pool/link.raw");
    link("pool", "also");
    let secret = lab.name("other/secret.raw");
    let nodes = |filename: &str| json!({"driver": "raw", "file": {"driver": "file", "filename": filename}});
    let cases: Vec<(String, Option<&str>)> = vec![
        ("base.raw".to_owned(), None),
        ("sub/../base.raw".to_owned(), None),
        ("link.raw".to_owned(), None),
        (lab.name("pool/base.raw"), None),
        (lab.name("also/base.raw"), None),
        (lab.name("other/in.raw"), None),
        (format!("json:{}", nodes(&lab.name("pool/base.raw"))), None),
        ("../other/secret.raw".to_owned(), Some("other/secret.raw'")),
        ("out.raw".to_owned(), Some("other/secret.raw'")),
        (secret.clone(), Some("other/secret.raw'")),
        (format!("file:{secret}"), Some("other/secret.raw'")),
        (format!("json:{}", nodes(&secret)), Some("other/secret.raw'")),
        (format!("json:{}", json!({"driver": "raw", "file": nodes(&secret)})), Some("other/secret.raw'")),
        (
            format!("json:{{'driver':'raw','file.driver':'file','file.filename':'{secret}'}}"),
            Some("other/secret.raw'"),
        ),
        ("nbd://localhost:1/x".to_owned(), Some("nbd://localhost:1/x")),
        (
            r#"json:{"driver":"raw","file":{"driver":"nbd","host":"localhost","port":"1"}}"#.to_owned(),
            Some("'nbd' node"),
        ),
        (
            r#"json:{"driver":"raw","file":{"driver":"nbd","path":"/run/x.sock"}}"#.to_owned(),
            Some("'nbd' node"),
        ),
        (r#"json:{"driver":"raw","file":"mine"}"#.to_owned(), Some("the node 'mine'")),
    ];
    lab.overlay("", "pool/top.qcow2", 1 << 20, "base.raw", "raw");
    let top = lab.path("pool/top.qcow2");
    let policy = ImagePolicy::below(vec![lab.path("also")]).unwrap();
    for (name, outcome) in cases {
        lab.img(&["rebase", "-q", "-u", "-f", "qcow2", "-F", "raw", "-b", &name, "pool/top.qcow2"]);
        run_with(policy.clone(), async |engine| match outcome {
            None => Disk::image(engine, &top).await.unwrap_or_else(|e| panic!("{name}: {e}")).close().await,
            Some(what) => {
                let pool = lab.name("pool'");
                let words = [what, "top.qcow2", &pool, "allow its directory, or name the child yourself"];
                let kind = refused(engine, qcow2(&top), &words).await;
                assert_eq!(kind, ErrorKind::NotPermitted, "{name}");
            }
        });
    }
}

#[test]
fn what_the_user_names_is_no_matter_of_the_policy() {
    let Some(mut lab) = Lab::new("what_the_user_names_is_no_matter_of_the_policy") else { return };
    std::fs::create_dir(lab.path("empty")).unwrap();
    lab.raw("base.raw", 1 << 20);
    lab.overlay("", "top.qcow2", 1 << 20, "base.raw", "raw");
    let data = lab.name("data.raw");
    lab.create(&format!("data_file={data}"), "split.qcow2", 1 << 20);
    run_with(ImagePolicy::below(vec![lab.path("empty")]).unwrap(), async |engine| {
        refused(engine, qcow2(&lab.path("top.qcow2")), &["base.raw", "backing file"]).await;
        refused(engine, qcow2(&lab.path("split.qcow2")), &["data.raw", "data file"]).await;
        let file = |name: &str| json!({"driver": "file", "filename": lab.path(name)});
        let mut top = qcow2(&lab.path("top.qcow2"));
        top["backing"] = json!({"driver": "raw", "file": file("base.raw")});
        Disk::open(engine, top).await.unwrap().close().await;
        let mut split = qcow2(&lab.path("split.qcow2"));
        split["data-file"] = file("data.raw");
        Disk::open(engine, split).await.unwrap().close().await;
    });
    for bad in ["relative", "/no/such/directory"] {
        let said = ImagePolicy::below(vec![bad.into()]).unwrap_err().to_string();
        assert!(said.contains(bad), "{said}");
    }
}

#[test]
fn a_backing_image_is_never_opened_for_writing() {
    let Some(mut lab) = Lab::new("a_backing_image_is_never_opened_for_writing") else { return };
    lab.raw("base.raw", 1 << 20);
    let file = json!({"driver": "file", "filename": lab.name("base.raw"), "read-only": false});
    let base = json!({"driver": "raw", "file": file, "read-only": "off", "node-name": "chosen"});
    lab.overlay("", "top.qcow2", 1 << 20, &format!("json:{base}"), "raw");
    run(async |engine| {
        let disk = Disk::image(engine, &lab.path("top.qcow2")).await.unwrap();
        let nodes = engine.nodes();
        assert_eq!(nodes.len(), 4);
        assert!(nodes.iter().all(|node| node.read_only && node.name != "chosen"), "{nodes:?}");
        disk.close().await;
    });
}

#[test]
fn images_that_cannot_be_opened_say_why() {
    let Some(mut lab) = Lab::new("images_that_cannot_be_opened_say_why") else { return };
    lab.create("cluster_size=64k", "good.qcow2", 1 << 20);
    let good = std::fs::read(lab.path("good.qcow2")).unwrap();
    std::fs::write(lab.path("empty.qcow2"), b"").unwrap();
    std::fs::write(lab.path("short.qcow2"), &good[..50]).unwrap();
    std::fs::write(lab.path("header.qcow2"), &good[..512]).unwrap();
    lab.raw("raw.qcow2", 70_000);
    let mut feature = good.clone();
    feature[72] = 0x80;
    std::fs::write(lab.path("feature.qcow2"), feature).unwrap();
    lab.overlay("", "missing.qcow2", 1 << 20, "good.qcow2", "qcow2");
    lab.img(&["rebase", "-q", "-u", "-f", "qcow2", "-F", "qcow2", "-b", "gone.qcow2", "missing.qcow2"]);
    lab.overlay("", "middle.qcow2", 1 << 20, "missing.qcow2", "qcow2");
    lab.overlay("", "top.qcow2", 1 << 20, "middle.qcow2", "qcow2");
    lab.overlay("", "vmdk.qcow2", 1 << 20, "good.qcow2", "qcow2");
    lab.img(&["rebase", "-q", "-u", "-f", "qcow2", "-F", "vmdk", "-b", "good.qcow2", "vmdk.qcow2"]);
    // An image from before formats were written down.
    lab.overlay("", "guess.qcow2", 1 << 20, "good.qcow2", "qcow2");
    let mut guess = std::fs::read(lab.path("guess.qcow2")).unwrap();
    let at = guess.windows(4).position(|bytes| bytes == [0xe2, 0x79, 0x2a, 0xca]).unwrap();
    guess[at] = 0x12;
    std::fs::write(lab.path("guess.qcow2"), guess).unwrap();
    let encrypted = ["create", "-q", "-f", "qcow2", "--object", "secret,id=s,data=x", "-o"];
    let more = ["encrypt.format=aes,encrypt.key-secret=s", "secret.qcow2", "1M"];
    lab.img(&[&encrypted[..], &more].concat());
    run(async |engine| {
        for (image, words) in [
            ("no.qcow2", &["Could not open", "No such file"][..]),
            ("", &["Could not open"]),
            ("empty.qcow2", &["image '"]),
            ("short.qcow2", &["image '"]),
            ("header.qcow2", &["image '"]),
            ("raw.qcow2", &["image '"]),
            ("feature.qcow2", &["feature"]),
            ("missing.qcow2", &["gone.qcow2", "No such file", "backing file of image"]),
            ("vmdk.qcow2", &["vmdk"]),
            ("guess.qcow2", &["format", "backing.driver="]),
            ("secret.qcow2", &["AES"]),
        ] {
            refused(engine, qcow2(&lab.path(image)), &[words, &[image]].concat()).await;
        }
        // The one image that names what is missing is named, not all above it.
        refused(engine, qcow2(&lab.path("top.qcow2")), &["missing.qcow2", "gone.qcow2"]).await;
    });
}

#[test]
fn images_that_others_write_are_left_alone() {
    let Some(mut lab) = Lab::new("images_that_others_write_are_left_alone") else { return };
    lab.raw("base.raw", 1 << 20);
    lab.overlay("", "top.qcow2", 1 << 20, "base.raw", "raw");
    let words = |image| [image, "lock", "another process"];
    {
        let _writer = lab.serve("w.sock", &["-f", "qcow2", "top.qcow2"]);
        run(async |engine| {
            let kind = refused(engine, qcow2(&lab.path("top.qcow2")), &words("top.qcow2")).await;
            assert_eq!(kind, ErrorKind::Busy);
        });
    }
    {
        // Raw images may be written by several, as with QEMU, unless somebody minds.
        let _writer = lab.serve("w2.sock", &["-f", "raw", "base.raw"]);
        run(async |engine| {
            let node = engine.add_node(map(qcow2(&lab.path("top.qcow2")))).await.unwrap();
            let attached = engine.attach(&node, User::named("one who minds"), Demand::STILL);
            let told = attached.map(drop).unwrap_err().to_string();
            words("base.raw").iter().for_each(|word| assert!(told.contains(word), "no '{word}' in: {told}"));
            engine.delete_node(&node).await.unwrap();
            Disk::image(engine, &lab.path("top.qcow2")).await.unwrap().close().await;
        });
    }
    {
        let _reader = lab.serve("r.sock", &["-r", "-f", "qcow2", "top.qcow2"]);
        run(async |engine| Disk::image(engine, &lab.path("top.qcow2")).await.unwrap().close().await);
    }
    run(async |engine| {
        let disk = Disk::image(engine, &lab.path("top.qcow2")).await.unwrap();
        for (image, format) in [("top.qcow2", "qcow2"), ("base.raw", "raw")] {
            let write = lab.run("qemu-io", &["-f", format, "-c", "write 0 512", image]);
            assert!(crate::lab::said(&write).contains("lock"), "{write:?}");
        }
        disk.close().await;
        lab.io("top.qcow2", &["write -q 0 512".to_owned()]);
    });
}

#[test]
fn what_is_being_opened_is_locked_already() {
    let Some(lab) = Lab::new("what_is_being_opened_is_locked_already") else { return };
    // A server that takes the call and says nothing: opening waits for it when the tables above were read.
    let listener = std::os::unix::net::UnixListener::bind(lab.path("mute.sock")).unwrap();
    let name = format!("nbd+unix:///x?socket={}", lab.name("mute.sock"));
    lab.overlay("", "top.qcow2", 1 << 20, &name, "raw");
    let (tell, told) = io::sync::oneshot::channel();
    let server = std::thread::spawn(move || {
        let client = listener.accept().unwrap();
        tell.send(client).unwrap();
    });
    run(async |engine| {
        let top = lab.path("top.qcow2");
        let mut opening = Box::pin(Disk::image(engine, &top));
        let called = io::select::race(opening.as_mut(), told).await;
        let io::select::Either::Second(client) = called else { panic!("opened without its backing image") };
        let image = "driver=qcow2,file.driver=file,file.filename=top.qcow2,backing=";
        let write = lab.run("qemu-io", &["--image-opts", "-c", "write 0 512", image]);
        assert!(crate::lab::said(&write).contains("lock"), "{write:?}");
        drop((client, opening));
    });
    server.join().unwrap();
}

#[test]
fn zeroes_are_unmapped_only_where_discards_are() {
    let Some(lab) = Lab::new("zeroes_are_unmapped_only_where_discards_are") else { return };
    lab.create("cluster_size=64k", "image.qcow2", 1 << 20);
    let mut options = qcow2(&lab.path("image.qcow2"));
    options["detect-zeroes"] = json!("unmap");
    run(async |engine| {
        refused(engine, options.clone(), &["detect-zeroes to unmap", "discard operation"]).await;
        options["discard"] = json!("unmap");
        engine.add_node(options.as_object().unwrap().clone()).await.unwrap();
    });
}

#[test]
fn options_that_make_no_sense_are_named() {
    let Some(lab) = Lab::new("options_that_make_no_sense_are_named") else { return };
    lab.create("cluster_size=64k", "image.qcow2", 1 << 20);
    let image = lab.path("image.qcow2");
    let with = |key: &str, value: Value| {
        let mut options = qcow2(&image);
        options[key] = value;
        options
    };
    run(async |engine| {
        for (options, words) in [
            (with("bogus", json!(1)), &["bogus"][..]),
            (with("driver", json!("qcow9")), &["Unknown driver 'qcow9'"]),
            (with("cache", json!({"writeback": true})), &["cache.writeback"]),
            (with("l2-cache-size", json!("lots")), &["l2-cache-size"]),
            (
                with("l2-cache-entry-size", json!(1000)),
                &["L2 cache entry size must be a power of two between 512 and the cluster size (65536)"],
            ),
            (with("l2-cache-entry-size", json!("128k")), &["power of two"]),
            (
                json!({"driver": "qcow2", "file": {"driver": "file", "filename": image}, "read-only": true, "cache-size": "1M", "l2-cache-size": "2M"}),
                &["l2-cache-size may not exceed cache-size"],
            ),
            (
                json!({"driver": "qcow2", "read-only": true}),
                &["A block device must be specified for \"file\""],
            ),
            (
                json!({"driver": "qcow2", "file": "nowhere"}),
                &["Cannot find device='nowhere' nor node-name='nowhere'"],
            ),
            (json!({"file": {"driver": "file", "filename": image}}), &["Parameter 'driver' is missing"]),
            (with("file", json!({"driver": "file", "filename": image, "bogus": 2})), &["bogus"]),
            (with("file", json!(7)), &["file"]),
            (with("node-name", json!("1x")), &["Invalid node-name: '1x'"]),
            (with("detect-zeroes", json!("perhaps")), &["detect-zeroes", "perhaps"]),
        ] {
            refused(engine, options, words).await;
        }
        // The same in dots, as on a command line.
        let text = format!(
            "driver=qcow2,read-only=on,l2-cache-size=64k,file.driver=file,file.filename={}",
            Path::new(&image).display().to_string().replace(',', ",,")
        );
        let options = engine::keyval::parse(&text, None).unwrap();
        Disk::open(engine, options.into()).await.unwrap().close().await;
        assert!(engine.add_node(map(json!({"driver.x": 1}))).await.is_err());
    });
}
