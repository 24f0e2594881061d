//! Out of descriptors: alone in its process, since it takes them from everybody.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::os::unix::net::UnixStream;
use std::time::Duration;

use io::real::RealWorld;
use io::{Address, World};
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

#[test]
fn a_listener_survives_running_out_of_descriptors() {
    let world = RealWorld::new();
    let folder = tempfile::tempdir_in("/tmp").unwrap();
    let path = folder.path().join("s");
    let before = getrlimit(Resource::Nofile);
    world.block_on(async {
        let listener = world.listen(&Address::Unix { path: path.clone() }).unwrap();
        let _client = UnixStream::connect(&path).unwrap();
        setrlimit(Resource::Nofile, Rlimit { current: Some(3), maximum: before.maximum }).unwrap();
        let mut accept = listener.accept();
        let outcome = io::timeout_at(io::now().after(Duration::from_millis(20)), &mut accept).await;
        assert!(outcome.is_none(), "accepted without a descriptor");
        setrlimit(Resource::Nofile, before).unwrap();
        accept.await.unwrap();
    });
}
