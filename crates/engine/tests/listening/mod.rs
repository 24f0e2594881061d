//! A server that listens. Tests of other crates include this file, too.

use std::sync::Arc;

use engine::NbdServer;
use io::Address;
use io::sync::oneshot;

/// Lets it accept clients at `address`, in a task of its own, until the world ends; when this is done it does.
pub(crate) async fn listen(server: &Arc<NbdServer>, address: Address) {
    let (ready, listening) = oneshot::channel();
    let accepting = server.clone();
    io::spawn(async move {
        let tell = |_: &Address| ready.send(()).unwrap();
        accepting.listen(&address, tell).await.unwrap();
    });
    listening.await.unwrap();
}
