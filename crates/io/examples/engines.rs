//! Figures of the real world: the ring against the pool, sendfile against copying, and what waking costs.
//!
//! `cargo run --release -p io --example engines [FOLDER [engines|sending|echo]]`: tables after some
//! seconds. FOLDER (/var/tmp) holds a file of 256 MiB meanwhile. Compare within a run only; rounds are interleaved and
//! the median is shown.
#![allow(clippy::unwrap_used, reason = "a measurement: whatever fails ends it")]

use std::future::poll_fn;
use std::io::IoSlice;
use std::os::fd::{IntoRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use io::file::Engine;
use io::real::RealWorld;
use io::{Address, File, Lease, OpenOptions, Stream, World};
use rustix::time::{ClockId, clock_gettime};

const FILE_BYTES: u64 = 256 << 20;
const BLOCK: usize = 4096;
const ROUNDS: usize = 5;
const SPAN: Duration = Duration::from_millis(300);

/// CPU time, of this process or of this thread.
fn cpu(clock: ClockId) -> Duration {
    let now = clock_gettime(clock);
    Duration::new(now.tv_sec as u64, now.tv_nsec as u32)
}

/// Operations per second and CPU nanoseconds per operation.
#[derive(Clone, Copy)]
struct Figure {
    per_second: f64,
    cpu_ns: f64,
}

struct Meter {
    clock: ClockId,
    began: Instant,
    cpu: Duration,
}

impl Meter {
    fn start(clock: ClockId) -> Self {
        Self { clock, began: Instant::now(), cpu: cpu(clock) }
    }

    fn running(&self) -> bool {
        self.began.elapsed() < SPAN
    }

    fn stop(self, count: u64) -> Figure {
        let per_second = count as f64 / self.began.elapsed().as_secs_f64();
        Figure { per_second, cpu_ns: (cpu(self.clock) - self.cpu).as_nanos() as f64 / count as f64 }
    }
}

fn show(name: &str, mut figures: Vec<Figure>) {
    figures.sort_by(|a, b| a.cpu_ns.total_cmp(&b.cpu_ns));
    let middle = figures[figures.len() / 2];
    println!("{name:44} {:>10.0}/s {:>9.0} CPU ns", middle.per_second, middle.cpu_ns);
}

type Row<'a> = (String, Box<dyn FnMut() -> Figure + 'a>);

/// Runs all rows round by round, so that a disturbance hits them alike.
fn table(rows: &mut [Row<'_>]) {
    let mut figures = vec![Vec::new(); rows.len()];
    for _ in 0..ROUNDS {
        for (row, figures) in rows.iter_mut().zip(&mut figures) {
            figures.push(row.1());
        }
    }
    for ((name, _), figures) in rows.iter().zip(figures) {
        show(name, figures);
    }
}

fn forget_pages(file: &dyn File) {
    let fd = file.fd().unwrap();
    rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::DontNeed).unwrap();
    rustix::fs::fadvise(fd, 0, None, rustix::fs::Advice::Random).unwrap();
}

/// Random reads with `depth` in flight.
fn reads(world: &RealWorld, path: &Path, options: OpenOptions, depth: usize) -> Figure {
    world.block_on(async {
        let file = world.open(path, options).await.unwrap();
        file.read(0, Lease::new(BLOCK)).await.0.unwrap();
        if !options.direct {
            forget_pages(&*file);
        }
        let meter = Meter::start(ClockId::ProcessCPUTime);
        let tasks = (0..depth).map(|_| async {
            let (mut count, mut lease) = (0, Lease::new(BLOCK));
            while meter.running() {
                let block = io::random() % (FILE_BYTES / BLOCK as u64);
                let (outcome, back) = file.read(block * BLOCK as u64, lease).await;
                outcome.unwrap();
                (count, lease) = (count + 1, back);
            }
            count
        });
        let counts = futures_util::future::join_all(tasks).await;
        meter.stop(counts.iter().sum())
    })
}

fn engines(world: &RealWorld, path: &Path) {
    let mut rows: Vec<Row<'_>> = Vec::new();
    for direct in [false, true] {
        for depth in [1, 32] {
            for (name, engine) in [("pool", Engine::Pool), ("ring", Engine::Uring)] {
                let kind = if direct { "direct" } else { "cold buffered" };
                let options = OpenOptions { direct, engine, ..Default::default() };
                let run = move || reads(world, path, options, depth);
                rows.push((format!("{kind} 4 KiB reads, depth {depth}, {name}"), Box::new(run)));
            }
        }
    }
    table(&mut rows);
}

async fn adopt(world: &RealWorld, socket: UnixStream) -> Box<dyn Stream> {
    let socket = OwnedFd::from(socket);
    rustix::io::fcntl_setfd(&socket, rustix::io::FdFlags::empty()).unwrap();
    world.connect(&Address::Inherited(socket.into_raw_fd())).await.unwrap().attach().unwrap()
}

/// A client that asks for `len` bytes with one byte and reads them all, until its socket ends.
fn client(mut socket: UnixStream, len: usize) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        let mut buf = vec![0; len];
        while socket.write_all(&[1]).is_ok() && socket.read_exact(&mut buf).is_ok() {}
    })
}

/// Answers each question with `len` bytes of the file.
fn serve(world: &RealWorld, path: &Path, len: usize, sendfile: bool) -> Figure {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let asker = client(theirs, len);
    let figure = world.block_on(async {
        let file: Arc<dyn File> = world.open(path, OpenOptions::default()).await.unwrap();
        let stream = adopt(world, ours).await;
        let (mut buf, mut question, mut count, mut offset) = (vec![0; len], [0; 64], 0, 0);
        let meter = Meter::start(ClockId::ThreadCPUTime);
        while meter.running() {
            stream.recv(&mut question).await.unwrap();
            offset = (offset + len as u64) % (FILE_BYTES / 4);
            if sendfile {
                send_file(&*stream, &*file, offset, len).await;
            } else {
                copy(&*file, offset, &mut buf).await;
                stream.send_all(&buf).await.unwrap();
            }
            count += 1;
        }
        let figure = meter.stop(count);
        stream.shutdown();
        figure
    });
    asker.join().unwrap();
    figure
}

/// Reads at once what is in memory; the kernel refuses the first time where it left a mark to read ahead.
async fn copy(file: &dyn File, offset: u64, buf: &mut [u8]) {
    let done = file.try_read(offset, buf).unwrap_or(0);
    if done < buf.len() {
        let (outcome, lease) = file.read(offset + done as u64, Lease::new(buf.len() - done)).await;
        outcome.unwrap();
        buf[done..].copy_from_slice(&lease);
    }
}

async fn send_file(stream: &dyn Stream, file: &dyn File, mut offset: u64, len: usize) {
    let end = offset + len as u64;
    while offset < end {
        match stream.try_send_file(file, offset, (end - offset) as usize).unwrap() {
            Some(n) => offset += n as u64,
            None => stream.writable().await.unwrap(),
        }
    }
}

fn sending(world: &RealWorld, path: &Path) {
    std::fs::read(path).unwrap();
    let mut rows: Vec<Row<'_>> = Vec::new();
    for len in [128 << 10, 1 << 20] {
        for (way, sendfile) in [("copied", false), ("sendfile", true)] {
            let run = move || serve(world, path, len, sendfile);
            rows.push((format!("{} KiB {way}", len >> 10), Box::new(run)));
        }
    }
    table(&mut rows);
}

/// Echoes 64 bytes through our streams, whose writing side is watched only when it is full.
fn echo(world: &RealWorld) -> Figure {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let asker = client_of_64(theirs);
    let figure = world.block_on(async {
        let stream = adopt(world, ours).await;
        let (mut buf, mut count) = ([0; 256], 0);
        let meter = Meter::start(ClockId::ThreadCPUTime);
        while meter.running() {
            let n = stream.recv(&mut buf).await.unwrap();
            stream.try_send(&[IoSlice::new(&buf[..n])], false).unwrap().unwrap();
            count += 1;
        }
        let figure = meter.stop(count);
        stream.shutdown();
        figure
    });
    asker.join().unwrap();
    figure
}

/// The same with the runtime's own streams, which are woken for writing too.
fn echo_of_the_runtime() -> Figure {
    let (ours, theirs) = UnixStream::pair().unwrap();
    let asker = client_of_64(theirs);
    ours.set_nonblocking(true).unwrap();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let figure = runtime.block_on(async {
        let stream = tokio::net::UnixStream::from_std(ours).unwrap();
        let (mut buf, mut count) = ([0; 256], 0);
        let meter = Meter::start(ClockId::ThreadCPUTime);
        while meter.running() {
            poll_fn(|cx| stream.poll_read_ready(cx)).await.unwrap();
            if let Ok(n) = stream.try_read(&mut buf) {
                stream.try_write(&buf[..n]).unwrap();
                count += 1;
            }
        }
        meter.stop(count)
    });
    asker.join().unwrap();
    figure
}

fn client_of_64(mut socket: UnixStream) -> std::thread::JoinHandle<()> {
    std::thread::spawn(move || {
        use std::io::{Read, Write};
        while socket.write_all(&[1; 64]).is_ok() && socket.read_exact(&mut [0; 64]).is_ok() {}
    })
}

fn main() {
    let folder = std::env::args().nth(1).map_or_else(|| PathBuf::from("/var/tmp"), PathBuf::from);
    let path = folder.join(format!("millpond-engines-{}", std::process::id()));
    std::fs::write(&path, vec![7; FILE_BYTES as usize]).unwrap();
    std::fs::File::open(&path).unwrap().sync_all().unwrap();
    let world = RealWorld::new();
    let part = std::env::args().nth(2);
    let wanted = |name| part.as_ref().is_none_or(|part| part == name);
    if wanted("engines") {
        engines(&world, &path);
    }
    if wanted("sending") {
        sending(&world, &path);
    }
    if wanted("echo") {
        table(&mut [
            ("echo of 64 bytes, our streams".to_owned(), Box::new(|| echo(&world))),
            ("echo of 64 bytes, the runtime's streams".to_owned(), Box::new(echo_of_the_runtime)),
        ]);
    }
    std::fs::remove_file(&path).unwrap();
}
