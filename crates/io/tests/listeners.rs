//! Listening and connecting: real ports, sockets of the living and the dead.
#![allow(clippy::unwrap_used, reason = "a test")]

use std::io::ErrorKind;
use std::net::TcpListener;
use std::os::fd::IntoRawFd;
use std::os::unix::net::UnixListener;
use std::path::PathBuf;

use io::real::RealWorld;
use io::{Address, Listener, World};

fn folder() -> tempfile::TempDir {
    // Short, since a socket's path may have 107 bytes at most.
    tempfile::tempdir_in("/tmp").unwrap()
}

fn unix(path: impl Into<PathBuf>) -> Address {
    Address::Unix { path: path.into() }
}

fn tcp(host: &str, port: u16) -> Address {
    Address::Tcp { host: host.to_owned(), port }
}

/// A connection through `listener` works in both directions.
async fn check(world: &RealWorld, listener: &dyn Listener, address: &Address) {
    let (accepted, connected) = futures_util::future::join(listener.accept(), world.connect(address)).await;
    let (server, client) = (accepted.unwrap().attach().unwrap(), connected.unwrap().attach().unwrap());
    for (from, to) in [(&client, &server), (&server, &client)] {
        from.send_all(b"ping").await.unwrap();
        let mut buf = [0; 4];
        to.recv_exact(&mut buf).await.unwrap();
        assert_eq!(&buf, b"ping");
    }
    assert!(!server.peer().is_empty() && server.peer() != "unknown");
}

#[test]
fn tcp_by_number_by_name_and_on_all_interfaces() {
    let world = RealWorld::new();
    world.block_on(async {
        for host in ["127.0.0.1", "localhost", ""] {
            let listener = world.listen(&tcp(host, 0)).unwrap();
            let Address::Tcp { port, .. } = listener.address() else { panic!("{}", listener.address()) };
            assert_ne!(port, 0);
            check(&world, &*listener, &tcp(host, port)).await;
            check(&world, &*listener, &tcp("127.0.0.1", port)).await;
            let busy = world.listen(&tcp("127.0.0.1", port)).err().unwrap();
            assert!(
                busy.kind() == ErrorKind::AddrInUse && busy.to_string().contains(&port.to_string()),
                "{busy}"
            );
            drop(listener);
            // Its closed connections do not keep a successor out.
            world.listen(&tcp(host, port)).unwrap();
        }
    });
}

#[test]
fn nobody_there_is_an_error_with_a_name() {
    let world = RealWorld::new();
    let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    world.block_on(async {
        let error = world.connect(&tcp("127.0.0.1", free)).await.err().unwrap();
        assert!(
            error.kind() == ErrorKind::ConnectionRefused && error.to_string().contains(&free.to_string())
        );
        let error = world.connect(&unix("/tmp/no/such.sock")).await.err().unwrap();
        assert!(error.kind() == ErrorKind::NotFound && error.to_string().contains("/tmp/no/such.sock"));
        let error = world.connect(&tcp("no-such-host.invalid", 1)).await.err().unwrap();
        assert!(error.to_string().contains("no-such-host.invalid"), "{error}");
    });
}

#[test]
fn a_unix_socket_comes_and_goes_with_its_listener() {
    let world = RealWorld::new();
    let folder = folder();
    let path = folder.path().join("s");
    world.block_on(async {
        let listener = world.listen(&unix(&path)).unwrap();
        assert_eq!(listener.address(), unix(&path));
        check(&world, &*listener, &unix(&path)).await;
        drop(listener);
        assert!(!path.exists());
        let listener = world.listen(&unix(&path)).unwrap();
        std::fs::remove_file(&path).unwrap();
        std::fs::write(&path, "another's").unwrap();
        drop(listener);
        assert!(path.exists());
    });
}

#[test]
fn the_socket_of_a_live_server_is_left_alone_and_a_dead_one_replaced() {
    let world = RealWorld::new();
    let folder = folder();
    let path = folder.path().join("s");
    let live = UnixListener::bind(&path).unwrap();
    world.block_on(async {
        let busy = world.listen(&unix(&path)).err().unwrap();
        assert_eq!(busy.kind(), ErrorKind::AddrInUse);
        let message = busy.to_string();
        assert!(message.contains(path.to_str().unwrap()) && message.contains("stop it"), "{message}");
        live.accept().unwrap();
        drop(live);
        let listener = world.listen(&unix(&path)).unwrap();
        check(&world, &*listener, &unix(&path)).await;
        drop(listener);
        std::fs::write(&path, "precious").unwrap();
        let in_the_way = world.listen(&unix(&path)).err().unwrap();
        assert!(in_the_way.to_string().contains("no socket"), "{in_the_way}");
        assert_eq!(std::fs::read(&path).unwrap(), b"precious");
        let long = folder.path().join("x".repeat(120));
        assert!(world.listen(&unix(long)).err().unwrap().to_string().contains("shorter"));
    });
}

#[test]
fn a_listener_can_be_inherited() {
    let world = RealWorld::new();
    let folder = folder();
    let path = folder.path().join("s");
    let inherit = |socket: std::os::fd::OwnedFd| {
        rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
        Address::Inherited(socket.into_raw_fd())
    };
    world.block_on(async {
        let listener = world.listen(&inherit(UnixListener::bind(&path).unwrap().into())).unwrap();
        assert_eq!(listener.address(), unix(&path));
        check(&world, &*listener, &unix(&path)).await;
        let no_listener = std::os::unix::net::UnixStream::pair().unwrap().0;
        assert!(world.listen(&inherit(no_listener.into())).is_err());
    });
}

#[test]
fn a_full_queue_of_connections_is_waited_for() {
    let world = RealWorld::new();
    let folder = folder();
    let path = folder.path().join("s");
    world.block_on(async {
        let socket = rustix::net::socket_with(
            rustix::net::AddressFamily::UNIX,
            rustix::net::SocketType::STREAM,
            rustix::net::SocketFlags::CLOEXEC,
            None,
        )
        .unwrap();
        rustix::net::bind(&socket, &rustix::net::SocketAddrUnix::new(&path).unwrap()).unwrap();
        rustix::net::listen(&socket, 0).unwrap();
        let _first = world.connect(&unix(&path)).await.unwrap();
        let address = unix(&path);
        let mut second = std::pin::pin!(world.connect(&address));
        let outcome =
            io::timeout_at(io::now().after(std::time::Duration::from_millis(20)), &mut second).await;
        assert!(outcome.is_none());
        rustix::net::accept(&socket).unwrap();
        second.await.unwrap();
    });
}
