//! Clients that send garbage lose their own connection, and nothing else happens.

use std::io::{Read as _, Write as _};
use std::os::unix::net::UnixStream;
use std::time::Duration;

use crate::lab::{Lab, PATIENCE, Server, is_full, wait_for};
use crate::wire::{GO, agree, option, request, shake_hands};

/// Growth of resident memory that is not a leak: what allocators keep after the first clients, in KiB.
const ALLOWANCE_KIB: u64 = 4096;
/// Clients before the first look, so that threads, buffers and caches have their lasting size.
const WARM_UP: usize = 200;

const WRITE: u16 = 1;
const MIB: u32 = 1 << 20;

/// One kind of bad client.
type Bad = fn(&mut UnixStream, u64) -> std::io::Result<()>;

/// What a client sends after the greeting, before it closes or waits for the server to close.
const BAD: &[(&str, Bad)] = &[
    ("nothing", |_, _| Ok(())),
    ("noise instead of flags", |s, seed| s.write_all(&noise(seed, 64))),
    ("much noise instead of flags", |s, seed| s.write_all(&noise(seed, 300_000))),
    ("half of the flags", |s, _| s.write_all(&[0, 0])),
    ("noise instead of an option", |s, seed| {
        s.write_all(&3_u32.to_be_bytes())?;
        s.write_all(&noise(seed, 4096))
    }),
    ("an option of 4 GiB", |s, _| {
        s.write_all(&3_u32.to_be_bytes())?;
        s.write_all(&option(GO, u32::MAX))
    }),
    ("half of an option", |s, _| {
        s.write_all(&3_u32.to_be_bytes())?;
        s.write_all(&option(GO, 1000))?;
        s.write_all(&[0; 500])
    }),
    ("an option that lies about its name", |s, _| {
        s.write_all(&3_u32.to_be_bytes())?;
        s.write_all(&option(GO, 6))?;
        s.write_all(&[0xff; 6])
    }),
    ("noise instead of a request", |s, seed| {
        agree(s)?;
        s.write_all(&noise(seed, 10_000))
    }),
    ("half of a request", |s, _| {
        agree(s)?;
        s.write_all(&request(WRITE, 7, 0, 512)[..20])
    }),
    ("half of a long write", |s, _| {
        agree(s)?;
        s.write_all(&request(WRITE, 7, 0, 32 * MIB))?;
        s.write_all(&[0x55; 70_000])
    }),
    ("half of a short write", |s, _| {
        agree(s)?;
        s.write_all(&request(WRITE, 7, 0, 8192))?;
        s.write_all(&[0x55; 100])
    }),
    ("a write of 4 GiB", |s, _| {
        agree(s)?;
        s.write_all(&request(WRITE, 7, 0, u32::MAX))
    }),
    ("commands that do not exist", |s, seed| {
        agree(s)?;
        (0..100).try_for_each(|n| s.write_all(&request(9 + n, 7, seed, 1)))
    }),
    ("many reads whose answers nobody takes", |s, _| {
        agree(s)?;
        (0..16_u64).try_for_each(|n| s.write_all(&request(0, n, n * 4096, MIB)))
    }),
];

fn noise(seed: u64, len: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(2) + 1;
    let mut next = || {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as u8
    };
    (0..len).map(|_| next()).collect()
}

/// One client, from its connection to the end of it. The server may close at any time.
fn misbehave(server: &Server, at: usize) {
    let mut stream = UnixStream::connect(server.socket()).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream.set_write_timeout(Some(PATIENCE)).unwrap();
    let mut greeting = [0; 18];
    stream.read_exact(&mut greeting).unwrap();
    let (name, bad) = BAD[at % BAD.len()];
    let sent = bad(&mut stream, at as u64);
    let waited_out = |kind| matches!(kind, std::io::ErrorKind::WouldBlock | std::io::ErrorKind::TimedOut);
    assert!(!sent.is_err_and(|error| waited_out(error.kind())), "{name}: the server takes nothing");
    if at.is_multiple_of(2) {
        // The one half leaves at once, the other says that it will not send more, and listens.
        return;
    }
    let _ = stream.shutdown(std::net::Shutdown::Write);
    let mut rest = Vec::new();
    let ended = stream.read_to_end(&mut rest);
    assert!(!ended.is_err_and(|error| waited_out(error.kind())), "{name}: the server keeps the connection");
}

/// What a process holds.
#[derive(Debug)]
struct Held {
    files: usize,
    tasks: usize,
    resident_kib: u64,
}

fn held(server: &Server) -> Held {
    let count = |what: &str| std::fs::read_dir(format!("/proc/{}/{what}", server.pid())).unwrap().count();
    let status = std::fs::read_to_string(format!("/proc/{}/status", server.pid())).unwrap();
    let resident = status.lines().find_map(|line| line.strip_prefix("VmRSS:")).unwrap();
    let resident_kib = resident.trim().trim_end_matches(" kB").parse().unwrap();
    Held { files: count("fd"), tasks: count("task"), resident_kib }
}

fn all_have_left(server: &Server, clients: usize) {
    wait_for(&format!("{clients} clients have left"), || {
        server.told().matches("has left").count() >= clients
    });
}

#[test]
fn a_thousand_bad_clients_leave_nothing_behind() {
    let lab = Lab::new("a_thousand_bad_clients_leave_nothing_behind", &[]).unwrap();
    let bytes = lab.image("disk.img", 64 << 20);
    let mut server = Server::once(&lab, &["-f", "raw", "-e", "0", "--threads", "2", "disk.img"]);
    let mut good = UnixStream::connect(server.socket()).unwrap();
    good.set_read_timeout(Some(PATIENCE)).unwrap();
    shake_hands(&mut good).unwrap();
    let cycles = if is_full() { 10_000 } else { 1000 };
    (0..WARM_UP).for_each(|at| misbehave(&server, at));
    all_have_left(&server, WARM_UP);
    let before = held(&server);
    for at in 0..cycles {
        misbehave(&server, at);
        if at % 50 == 0 {
            reads_right(&mut good, &bytes, at);
        }
    }
    all_have_left(&server, WARM_UP + cycles);
    let after = held(&server);
    println!("before {before:?}, after {after:?}");
    assert_eq!((before.files, before.tasks), (after.files, after.tasks), "{before:?} {after:?}");
    assert!(after.resident_kib <= before.resident_kib + ALLOWANCE_KIB, "{before:?} {after:?}");
    // It counts its clients right: the last one was the good one.
    assert!(server.is_running());
    drop(good);
    assert!(server.ends().success());
}

/// The well-behaved client is served while others misbehave. What half of a write would have changed is untouched.
fn reads_right(stream: &mut UnixStream, bytes: &[u8], at: usize) {
    let (start, len) = ((at * 7919) % (bytes.len() - 5000), 5000);
    stream.write_all(&request(0, 7, start as u64, len as u32)).unwrap();
    let mut reply = vec![0; 16 + len];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(reply[..8], [0x67, 0x44, 0x66, 0x98, 0, 0, 0, 0]);
    assert!(reply[16..] == bytes[start..start + len], "read of {len} at {start}");
}

#[test]
fn a_slow_handshake_ends_and_makes_room() {
    let lab = Lab::new("a_slow_handshake_ends_and_makes_room", &[]).unwrap();
    lab.image("disk.img", 1 << 20);
    // Room for one client: the second is served only when the first has been sent away.
    let server = Server::start(&lab, &["-f", "raw", "--handshake-limit", "1", "disk.img"]);
    let mut slow = UnixStream::connect(server.socket()).unwrap();
    slow.read_exact(&mut [0; 18]).unwrap();
    let mut second = UnixStream::connect(server.socket()).unwrap();
    second.set_read_timeout(Some(PATIENCE)).unwrap();
    shake_hands(&mut second).unwrap();
    slow.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
    assert_eq!(slow.read(&mut [0; 1]).unwrap(), 0);
    wait_for("the reason is told", || server.told().contains("handshake in time"));
}
