//! qcow2 images through the engine, opened as `millpond nbd -r -f qcow2` opens them: what QEMU's tools make of them
//! is what is read here.

#![allow(clippy::unwrap_used, reason = "a test that cannot set up its images fails")]

mod broken;
mod chains;
mod disk;
mod faults;
mod handmade;
mod lab;
mod matrix;
mod names;
mod verbs;

#[global_allocator]
static ALLOCATOR: io::counting::Counting = io::counting::Counting;
