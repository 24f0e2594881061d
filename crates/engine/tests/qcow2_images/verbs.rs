//! The verbs on nodes with real files: add, delete, insert and remove filters, replace, reopen; QEMU's words.

use std::sync::Arc;

use block::Result;
use engine::Engine;
use flow::Role;
use serde_json::{Value, json};

use crate::disk::{Disk, map, qcow2, run};
use crate::lab::Lab;

async fn add(engine: &Arc<Engine>, options: Value) -> Result<String> {
    engine.add_node(map(options)).await
}

fn raw(lab: &Lab, name: &str, node: &str) -> Value {
    json!({"driver": "raw", "node-name": node, "read-only": true, "file": {"driver": "file", "filename": lab.path(name)}})
}

fn says<T>(outcome: Result<T>, words: &str) {
    let Err(error) = outcome else { panic!("no error, but '{words}' was expected") };
    assert!(error.to_string().contains(words), "'{error}' is not '{words}'");
}

fn fill(lab: &Lab, name: &str, byte: u8) -> Arc<Vec<u8>> {
    let bytes = vec![byte; 1 << 20];
    std::fs::write(lab.path(name), &bytes).unwrap();
    Arc::new(bytes)
}

#[test]
fn nodes_are_added_and_deleted() {
    let lab = Lab::without_qemu();
    fill(&lab, "one.raw", 1);
    run(async |engine| {
        assert_eq!(add(engine, raw(&lab, "one.raw", "one")).await.unwrap(), "one");
        says(add(engine, raw(&lab, "one.raw", "one")).await, "Duplicate nodes with node-name='one'");
        says(engine.delete_node("two").await, "Failed to find node with node-name='two'");
        let child = engine.nodes().into_iter().find(|node| node.driver == "file").unwrap();
        says(
            engine.delete_node(&child.name).await,
            &format!("Node {} is not owned by the monitor", child.name),
        );
        let reader = Disk::open(
            engine,
            json!({"driver": "raw", "node-name": "top", "read-only": true, "file": "one"}),
        )
        .await
        .unwrap();
        says(engine.delete_node("top").await, "Node top is in use");
        says(engine.delete_node("one").await, "Block device one is in use");
        reader.close().await;
        engine.delete_node("one").await.unwrap();
        assert!(engine.nodes().is_empty());
        // Nothing is left of a tree that failed at its top.
        let tree = json!({"driver": "raw", "file": raw(&lab, "one.raw", "below"), "offset": 1 << 30});
        says(add(engine, tree).await, "Offset");
        add(engine, raw(&lab, "one.raw", "below")).await.unwrap();
    });
}

#[test]
fn backing_images_are_replaced_and_cut_under_a_reader() {
    let Some(lab) = Lab::new("backing_images_are_replaced_and_cut_under_a_reader") else { return };
    let bytes = [fill(&lab, "one.raw", 1), fill(&lab, "two.raw", 2)];
    lab.overlay("", "top.qcow2", 1 << 20, "one.raw", "raw");
    run(async |engine| {
        let mut options = qcow2(&lab.path("top.qcow2"));
        options["node-name"] = json!("top");
        options["backing"] = raw(&lab, "one.raw", "one");
        add(engine, raw(&lab, "two.raw", "two")).await.unwrap();
        let disk = Disk::open(engine, options).await.unwrap();
        disk.expect(&bytes[0], "one").await;
        says(engine.delete_node("one").await, "Node 'one' is busy: node is used as backing hd of 'top'");
        engine.replace_child("top", Role::Backing, Some("two")).await.unwrap();
        disk.expect(&bytes[1], "two").await;
        assert!(!engine.nodes().iter().any(|node| node.name == "one"), "it went with its only parent");
        says(engine.replace_child("two", Role::Backing, Some("top")).await, "cycle");
        says(engine.replace_child("top", Role::File, Some("two")).await, "Cannot change the 'file' child");
        engine.replace_child("top", Role::Backing, None).await.unwrap();
        disk.expect(&Arc::new(vec![0; 1 << 20]), "nothing").await;
        disk.close().await;
        engine.delete_node("two").await.unwrap();
    });
}

#[test]
fn filters_come_and_go_under_a_reader() {
    let lab = Lab::without_qemu();
    let bytes = fill(&lab, "one.raw", 1);
    run(async |engine| {
        let mut options = raw(&lab, "one.raw", "one");
        options["read-only"] = json!(false);
        let disk = Disk::open(engine, options).await.unwrap();
        for round in 0..20 {
            let filter = json!({"driver": "copy-on-read", "node-name": "cor", "file": "one"});
            assert_eq!(engine.insert_filter(map(filter)).await.unwrap(), "cor");
            disk.expect(&bytes, "through the filter").await;
            says(engine.delete_node("cor").await, "in use");
            says(engine.remove_filter("one").await, "Node 'one' is not a filter");
            engine.remove_filter("cor").await.unwrap();
            disk.expect(&bytes, "without it").await;
            assert_eq!(engine.nodes().len(), 2, "round {round}");
        }
        disk.close().await;
    });
}

#[test]
fn nodes_are_replaced_under_a_reader() {
    let lab = Lab::without_qemu();
    let bytes = [fill(&lab, "one.raw", 1), fill(&lab, "two.raw", 2)];
    run(async |engine| {
        let disk = Disk::open(engine, raw(&lab, "one.raw", "one")).await.unwrap();
        add(engine, raw(&lab, "two.raw", "two")).await.unwrap();
        disk.expect(&bytes[0], "one").await;
        engine.replace_node("one", "two").await.unwrap();
        disk.expect(&bytes[1], "two").await;
        engine.delete_node("one").await.unwrap();
        says(engine.delete_node("two").await, "Node two is in use");
        says(engine.replace_node("two", "one").await, "Failed to find node with node-name='one'");
    });
}

#[test]
fn images_are_reopened_under_a_reader() {
    let Some(mut lab) = Lab::new("images_are_reopened_under_a_reader") else { return };
    lab.raw("base.raw", 1 << 20);
    lab.overlay("cluster_size=4k", "top.qcow2", 1 << 20, "base.raw", "raw");
    lab.scribble("top.qcow2", 1 << 20, 65536, 10);
    let bytes = Arc::new(lab.raw_copy("top.qcow2"));
    run(async |engine| {
        let file = json!({"driver": "file", "node-name": "file", "filename": lab.path("top.qcow2"), "read-only": true});
        add(engine, file.clone()).await.unwrap();
        let options = |size| json!({"driver": "qcow2", "node-name": "top", "read-only": true, "file": "file", "l2-cache-size": size});
        let disk = Disk::open(engine, options("1M")).await.unwrap();
        disk.expect(&bytes, "as opened").await;
        says(engine.reopen_node(map(options("1M"))).await, "backing is missing for 'top'");
        let options = |size| {
            let mut options = options(size);
            let below = engine.nodes().into_iter().find(|node| node.driver == "raw").unwrap();
            options["backing"] = json!(below.name);
            options
        };
        for size in ["0", "16k"] {
            engine.reopen_node(map(options(size))).await.unwrap();
            disk.expect(&bytes, size).await;
        }
        says(engine.reopen_node(map(options("lots"))).await, "l2-cache-size");
        let mut threads = file;
        threads["aio"] = json!("threads");
        engine.reopen_node(map(threads)).await.unwrap();
        disk.expect(&bytes, "another engine").await;
        says(
            engine.reopen_node(map(json!({"driver": "raw", "file": "file"}))).await,
            "node-name not specified",
        );
        assert_eq!(engine.nodes().len(), 4, "{:?}", engine.nodes());
        disk.close().await;
        engine.delete_node("file").await.unwrap();
        assert!(engine.nodes().is_empty());
    });
}

#[test]
fn nodes_are_resized_checked_and_drained() {
    let lab = Lab::without_qemu();
    fill(&lab, "disk.raw", 7);
    fill(&lab, "room.raw", 0);
    run(async |engine| {
        let file = |name: &str| json!({"driver": "file", "filename": lab.path(name)});
        add(engine, json!({"driver": "raw", "node-name": "disk", "file": file("disk.raw")})).await.unwrap();
        engine.resize("disk", 3 << 20).await.unwrap();
        assert_eq!(std::fs::metadata(lab.path("disk.raw")).unwrap().len(), 3 << 20);
        let reader = engine.reader("guest", "disk").unwrap();
        assert_eq!(reader.size(), 3 << 20);
        // Who reads it relies on its size.
        says(engine.resize("disk", 1 << 20).await, "resize");
        reader.close().await.unwrap();
        engine.resize("disk", 1 << 20).await.unwrap();
        engine.drain("disk").await.unwrap();
        says(engine.drain("none").await, "Failed to find node with node-name='none'");
        let nothing = flow::Repair::Nothing;
        says(engine.check("disk", nothing, &mut |_| ()).await, "driver 'raw' has no tables to check");
        let cache = json!({"driver": "memory-format", "node-name": "cache", "size": 1 << 20, "file": file("room.raw")});
        add(engine, cache).await.unwrap();
        assert_eq!(engine.check("cache", nothing, &mut |_| ()).await.unwrap(), flow::CheckReport::default());
    });
}

#[test]
fn a_server_on_an_iothread_keeps_it() {
    run(async |engine| {
        engine.add_object(map(json!({"qom-type": "iothread", "id": "t0"}))).await.unwrap();
        let request = engine::ServerRequest::default();
        says(engine.nbd_server_on("t1", &request).map(drop), "iothread \"t1\" not found");
        let server = engine.nbd_server_on("t0", &request).unwrap();
        says(engine.delete_object("t0"), "in use");
        drop(server);
        engine.delete_object("t0").unwrap();
    });
}
