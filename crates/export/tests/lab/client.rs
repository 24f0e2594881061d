//! A client that sends requests without waiting for the answers to earlier ones.

use std::collections::BTreeMap;
use std::future::poll_fn;
use std::io::{IoSlice, Result};
use std::task::Poll;

use block::{ByteRange, Errno, Extent};
use io::{Address, Stream, World};
use nbd::codec::{Command, CommandFlags, Cookie, PAYLOAD_MAX, REQUEST_LEN, RequestHeader};
use nbd::handshake::client::{ClientHandshake, Outcome, RemoteExport, Wish};
use nbd::transmission::client::{Chunk, ReadProgress, Reply, ReplyParser, extents};

/// What a request came to.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// Done; a read with its bytes.
    Done(Vec<u8>),
    Extents(Vec<Extent>),
    Failed(Errno),
}

const READ: u16 = Command::Read.code();

struct Pending {
    code: u16,
    flags: CommandFlags,
    read: ReadProgress,
    range: ByteRange,
    bytes: Vec<u8>,
    extents: Vec<Extent>,
    failed: Option<Errno>,
    chunks: usize,
}

impl Pending {
    fn make_room(&mut self) {
        // Longer ones are refused: no bytes come.
        if self.code == READ && self.failed.is_none() && self.range.len() <= PAYLOAD_MAX.into() {
            // Whatever is not answered shows.
            self.bytes.resize(self.range.len() as usize, 0xee);
        }
    }
}

pub struct Client {
    pub stream: Box<dyn Stream>,
    pub export: RemoteExport,
    out: Vec<u8>,
    input: Vec<u8>,
    parser: ReplyParser,
    pending: BTreeMap<u64, Pending>,
    cookies: u64,
    /// Bytes of a read that come next: of which request, where in it, whether they end its reply.
    content: Option<(u64, std::ops::Range<usize>, bool)>,
}

pub fn wish(export: &str) -> Wish {
    Wish { export: export.to_owned(), structured: true, allocation: true }
}

pub async fn connect(world: &dyn World, address: &Address) -> Box<dyn Stream> {
    world.connect(address).await.unwrap().attach().unwrap()
}

/// Shakes hands; answers what came of it and what was received behind it.
pub async fn shake_hands(stream: &dyn Stream, mut machine: ClientHandshake) -> (Outcome, Vec<u8>) {
    let (mut input, mut out) = (Vec::new(), Vec::new());
    loop {
        let progress = machine.feed(&input, &mut out);
        input.drain(..progress.consumed);
        stream.send_all(&out).await.unwrap();
        out.clear();
        match progress.outcome {
            Some(outcome) => return (outcome.unwrap(), input),
            None if progress.consumed > 0 => {}
            None => {
                let mut room = [0; 4096];
                let len = stream.recv(&mut room).await.unwrap();
                assert!(len > 0, "{}", machine.closed());
                input.extend(&room[..len]);
            }
        }
    }
}

impl Client {
    pub async fn connect(world: &dyn World, address: &Address, wish: Wish) -> Self {
        let stream = connect(world, address).await;
        let (outcome, input) = shake_hands(&*stream, ClientHandshake::new(wish)).await;
        let Outcome::Ready(export) = outcome else { panic!("{outcome:?}") };
        let parser = ReplyParser::new(export.structured);
        let (out, pending) = (Vec::new(), BTreeMap::new());
        Self { stream, export: *export, out, input, parser, pending, cookies: 0, content: None }
    }

    /// Queues a request, granted or not; answers its number.
    pub fn ask(&mut self, command: Command, flags: CommandFlags, range: ByteRange, payload: &[u8]) -> u64 {
        self.cookies += 1;
        let header = RequestHeader {
            flags,
            code: command.code(),
            cookie: Cookie(self.cookies),
            offset: range.start(),
            len: range.len() as u32,
        };
        self.ask_for(&header, payload);
        self.cookies
    }

    /// Queues a request as it is.
    pub fn ask_for(&mut self, header: &RequestHeader, payload: &[u8]) {
        let mut bytes = [0; REQUEST_LEN];
        header.encode(&mut bytes);
        self.out.extend(bytes);
        self.out.extend(payload);
        // One that does not fit the numbers is refused, so its range does not matter.
        let range = ByteRange::checked(header.offset, header.len.into()).unwrap_or_default();
        let pending = Pending {
            code: header.code,
            flags: header.flags,
            read: ReadProgress::new(range),
            range,
            bytes: Vec::new(),
            extents: Vec::new(),
            failed: None,
            chunks: 0,
        };
        self.pending.insert(header.cookie.0, pending);
    }

    /// Requests without an answer.
    pub fn unanswered(&self) -> usize {
        self.pending.len()
    }

    /// Asks and waits for the answer, which must be the next one.
    pub async fn call(
        &mut self,
        command: Command,
        flags: CommandFlags,
        range: ByteRange,
        payload: &[u8],
    ) -> Answer {
        let asked = self.ask(command, flags, range, payload);
        let (cookie, answer) = self.answer().await.unwrap().expect("an answer");
        assert_eq!(cookie, asked);
        answer
    }

    pub async fn read(&mut self, start: u64, len: u64) -> Answer {
        self.call(Command::Read, CommandFlags::NONE, ByteRange::new(start, len), &[]).await
    }

    pub async fn write(&mut self, start: u64, bytes: &[u8]) -> Answer {
        let range = ByteRange::new(start, bytes.len() as u64);
        self.call(Command::Write, CommandFlags::NONE, range, bytes).await
    }

    /// Sends what the socket takes, without waiting.
    pub fn push(&mut self) -> Result<()> {
        while !self.out.is_empty()
            && let Some(sent) = self.stream.try_send(&[IoSlice::new(&self.out)], false)?
        {
            self.out.drain(..sent);
        }
        Ok(())
    }

    /// The next answer, while sending what is queued; `None` when the server has closed the connection.
    pub async fn answer(&mut self) -> Result<Option<(u64, Answer)>> {
        loop {
            if let Some(answer) = self.parse() {
                return Ok(Some(answer));
            }
            self.push()?;
            let mut room = [0; 70_000];
            match self.stream.try_recv(&mut room)? {
                Some(0) => return Ok(None),
                Some(len) => self.input.extend(&room[..len]),
                None => self.ready().await?,
            }
        }
    }

    async fn ready(&self) -> Result<()> {
        poll_fn(|cx| {
            let readable = self.stream.poll_readable(cx)?;
            let writable = if self.out.is_empty() { Poll::Pending } else { self.stream.poll_writable(cx)? };
            if readable.is_ready() || writable.is_ready() { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Understands what was received, up to the end of a reply.
    fn parse(&mut self) -> Option<(u64, Answer)> {
        loop {
            if let Some((cookie, place, done)) = self.content.take() {
                if self.input.len() < place.len() {
                    self.content = Some((cookie, place, done));
                    return None;
                }
                let bytes: Vec<u8> = self.input.drain(..place.len()).collect();
                self.pending.get_mut(&cookie).unwrap().bytes[place].copy_from_slice(&bytes);
                if done {
                    return Some(self.finish(cookie));
                }
            }
            let progress = self.parser.feed(&self.input).unwrap();
            self.input.drain(..progress.consumed);
            if let Some(cookie) = self.take(progress.reply?) {
                return Some(self.finish(cookie));
            }
        }
    }

    /// Notes a reply; answers which request is over by it.
    fn take(&mut self, reply: Reply) -> Option<u64> {
        match reply {
            Reply::Simple { cookie: Cookie(cookie), error } => {
                let pending = self.pending.get_mut(&cookie).expect("it was asked");
                pending.failed = error;
                if pending.code != READ || error.is_some() {
                    return Some(cookie);
                }
                assert!(!self.export.structured, "a simple reply to a read");
                pending.make_room();
                let len = pending.range.len() as u32;
                let place =
                    if len > 0 { pending.read.content(pending.range.start(), len).unwrap() } else { 0..0 };
                self.content = Some((cookie, place, true));
                None
            }
            Reply::Chunk { cookie: Cookie(cookie), done, chunk } => {
                let pending = self.pending.get_mut(&cookie).expect("it was asked");
                pending.chunks += 1;
                pending.make_room();
                match chunk {
                    Chunk::None => assert!(done),
                    Chunk::OffsetData { offset, len } => {
                        let place = pending.read.content(offset, len).unwrap();
                        self.content = Some((cookie, place, done));
                        return None;
                    }
                    Chunk::OffsetHole { offset, len } => {
                        let place = pending.read.content(offset, len).unwrap();
                        pending.bytes[place].fill(0);
                    }
                    Chunk::BlockStatus { context, descriptors } => {
                        assert_eq!(Some(context), self.export.allocation);
                        pending.extents = extents(pending.range, &descriptors).unwrap();
                        let one = pending.flags.contains(CommandFlags::REQ_ONE);
                        assert!(!one || descriptors.len() == 1);
                        let told: u64 = descriptors.iter().map(|d| u64::from(d.len)).sum();
                        assert!(told <= pending.range.len(), "status beyond what was asked for");
                    }
                    Chunk::Error { errno, message, .. } => {
                        assert!(!message.is_empty() && !message.contains("dice"), "'{message}' is for us");
                        pending.failed = Some(errno);
                    }
                }
                done.then_some(cookie)
            }
        }
    }

    fn finish(&mut self, cookie: u64) -> (u64, Answer) {
        let pending = self.pending.remove(&cookie).unwrap();
        if let Some(errno) = pending.failed {
            return (cookie, Answer::Failed(errno));
        }
        if pending.code == Command::BlockStatus.code() {
            assert!(!pending.extents.is_empty());
            return (cookie, Answer::Extents(pending.extents));
        }
        if pending.code == READ {
            pending.read.finish().unwrap();
            assert!(
                pending.chunks <= 1 || !pending.flags.contains(CommandFlags::DF),
                "more than one fragment"
            );
        }
        (cookie, Answer::Done(pending.bytes))
    }
}
