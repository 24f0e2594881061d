//! The NBD server in the simulated world.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

mod anything;
mod catalogue;
#[path = "../lab/mod.rs"]
mod lab;
mod leaving;
mod model;
mod replies;
mod sessions;
mod waits;

use std::future::Future;

use export::nbd::ServerOptions;
use io::Address;
use sim::{Options, SimWorld};

use lab::stage::Stage;

/// Runs `play` in a world made from `seed`, with a server on `threads` I/O threads.
fn play<T, F: Future<Output = T>>(
    seed: u64,
    options: Options,
    threads: usize,
    play: impl FnOnce(Stage<SimWorld>) -> F,
) -> T {
    let world = SimWorld::new(seed, options);
    world.run(async {
        let address = Address::Tcp { host: "server".to_owned(), port: 10809 };
        play(Stage::start(world.clone(), ServerOptions::default(), threads, address)).await
    })
}
