//! An NBD client at the end of a line that takes its time.

use std::sync::Arc;
use std::time::Duration;

use export::nbd::{Export, ExportOptions, Server, ServerOptions};
use flow::Root;
use io::{Address, Stream, World};
use sim::{Link, SimWorld};

/// A request for the first 64 KiB; the reply is a header of 16 bytes, and they.
pub const READ_FIRST: &[u8] = b"\x25\x60\x95\x13\0\0\0\0cookie..\0\0\0\0\0\0\0\0\0\x01\0\0";

/// A client that has entered the export of a root.
pub async fn enter(world: &SimWorld, root: &Arc<Root>) -> (Box<dyn Stream>, Arc<Export>) {
    let address = Address::Tcp { host: "server".to_owned(), port: 10809 };
    let export = Export::new(ExportOptions::writable("disk"), root.clone());
    let server =
        Server::new(ServerOptions::default(), vec![world.start_thread("io").unwrap()], Default::default());
    server.add(export.clone()).unwrap();
    let listener = world.listen(&address).unwrap();
    world.net().set_link(&address, Link { round_trip: Duration::from_millis(100), rate: u64::MAX });
    let stream = world.connect(&address).await.unwrap().attach().unwrap();
    server.serve(listener.accept().await.unwrap());
    stream.send_all(b"\0\0\0\x03IHAVEOPT\0\0\0\x01\0\0\0\x04disk").await.unwrap();
    stream.recv_exact(&mut [0; 18 + 10]).await.unwrap();
    (stream, export)
}
