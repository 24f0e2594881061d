//! A server that shakes hands honestly and then answers as the test says.

use std::sync::Arc;

use block::ByteRange;
use io::sync::oneshot;
use io::{Stream, World};
use nbd::codec::{
    BLOCK_STATUS_LEN, CHUNK_LEN, ChunkType, Cookie, DESCRIPTOR_LEN, OFFSET_DATA_LEN, OFFSET_HOLE_LEN,
    OptionCode, REQUEST_LEN, RequestHeader, SIMPLE_REPLY_LEN, StatusFlags, TransmissionFlags,
    put_block_status_head, put_chunk, put_descriptor, put_none, put_offset_data, put_offset_hole,
    put_simple_reply,
};
use nbd::handshake::server::{ExportInfo, Exports, Outcome, Policy, ServerHandshake};
use nbd::handshake::{BlockSizes, MetaContext};

use crate::stage::{Stage, address};

pub const ALL: TransmissionFlags = TransmissionFlags::SEND_FLUSH
    .with(TransmissionFlags::SEND_FUA)
    .with(TransmissionFlags::SEND_TRIM)
    .with(TransmissionFlags::SEND_WRITE_ZEROES)
    .with(TransmissionFlags::SEND_CACHE)
    .with(TransmissionFlags::SEND_FAST_ZERO);

/// What a script does with a request.
pub enum Act {
    /// Sends bytes.
    Say(Vec<u8>),
    /// Closes the connection.
    Close,
}

/// Answers the `n`th request of a connection, counted from 0; connections are counted from 0, too. Called before the
/// bytes of a write are received.
pub type Script = dyn Fn(usize, usize, RequestHeader) -> Act + Send + Sync;

/// What the scripted server says of itself.
#[derive(Clone)]
pub struct Manners {
    pub export: ExportInfo,
    pub structured: bool,
    /// The connection of this number is let in and never spoken to.
    pub silent: Option<usize>,
}

impl Manners {
    pub fn new(size: u64, flags: TransmissionFlags) -> Self {
        let export = ExportInfo {
            name: "disk".into(),
            description: String::new(),
            size,
            flags,
            block_sizes: BlockSizes::new(1, 4096, 32 << 20).unwrap(),
            contexts: vec![MetaContext::base_allocation()],
        };
        Self { export, structured: true, silent: None }
    }
}

impl Exports for Manners {
    fn find(&self, name: &str) -> Option<ExportInfo> {
        (name == "disk").then(|| self.export.clone())
    }

    fn visit(&self, _: &mut dyn FnMut(&str, &str) -> bool) {}
}

impl Stage {
    /// Starts a scripted server.
    pub async fn script(&self, manners: Manners, script: Arc<Script>) {
        let (world, (ready, is_ready)) = (self.world.clone(), oneshot::channel());
        self.world.start_thread("script").unwrap().run(Box::new(move || {
            Box::pin(async move {
                let listener = world.listen(&address()).unwrap();
                ready.send(()).unwrap();
                for connection in 0.. {
                    let stream = listener.accept().await.unwrap().attach().unwrap();
                    if manners.silent == Some(connection) {
                        io::spawn(async move {
                            std::future::pending::<()>().await;
                            drop(stream);
                        });
                        continue;
                    }
                    let (manners, script) = (manners.clone(), script.clone());
                    io::spawn(async move {
                        // The client may leave at any point.
                        let _ = serve(&*stream, &manners, connection, &*script).await;
                    });
                }
            })
        }));
        is_ready.await.unwrap();
    }
}

async fn serve(
    stream: &dyn Stream,
    manners: &Manners,
    connection: usize,
    script: &Script,
) -> std::io::Result<()> {
    shake_hands(stream, manners).await?;
    for number in 0.. {
        let mut head = [0; REQUEST_LEN];
        stream.recv_exact(&mut head).await?;
        let request = RequestHeader::parse(&head).unwrap();
        match script(connection, number, request) {
            Act::Say(bytes) => stream.send_all(&bytes).await?,
            Act::Close => return Ok(()),
        }
        stream.recv_exact(&mut vec![0; request.payload_len() as usize]).await?;
    }
    Ok(())
}

async fn shake_hands(stream: &dyn Stream, manners: &Manners) -> std::io::Result<()> {
    let withheld: &[_] = if manners.structured { &[] } else { &[OptionCode::StructuredReply] };
    let mut machine = ServerHandshake::new(Policy { withheld, ..Policy::default() });
    stream.send_all(&machine.greeting()).await?;
    let (mut received, mut reply) = (Vec::new(), Vec::new());
    loop {
        let progress = machine.feed(&received, manners, &mut reply);
        received.drain(..progress.consumed);
        stream.send_all(&reply).await?;
        reply.clear();
        match progress.outcome {
            Some(Outcome::Transmission(_)) => return Ok(()),
            Some(_) => return Err(std::io::ErrorKind::Other.into()),
            None if progress.consumed > 0 => {}
            None => {
                let mut room = [0; 1];
                stream.recv_exact(&mut room).await?;
                received.extend(room);
            }
        }
    }
}

/// The byte that an honest server has at `at`.
pub fn truth(at: u64) -> u8 {
    (at % 251) as u8
}

pub fn true_bytes(range: ByteRange) -> Vec<u8> {
    (range.start()..range.end()).map(truth).collect()
}

/// A chunk of data; what it holds is the truth at `offset`.
pub fn data(cookie: Cookie, done: bool, offset: u64, len: u32) -> Vec<u8> {
    let mut head = [0; OFFSET_DATA_LEN];
    put_offset_data(&mut head, cookie, done, offset, len);
    let bytes = (0..u64::from(len)).map(|at| truth(offset.wrapping_add(at)));
    head.into_iter().chain(bytes).collect()
}

pub fn hole(cookie: Cookie, done: bool, offset: u64, len: u32) -> Vec<u8> {
    let mut out = [0; OFFSET_HOLE_LEN];
    put_offset_hole(&mut out, cookie, done, offset, len);
    out.to_vec()
}

pub fn none(cookie: Cookie) -> Vec<u8> {
    let mut out = [0; CHUNK_LEN];
    put_none(&mut out, cookie);
    out.to_vec()
}

pub fn simple(cookie: Cookie, error: Option<block::Errno>) -> Vec<u8> {
    let mut out = [0; SIMPLE_REPLY_LEN];
    put_simple_reply(&mut out, cookie, error);
    out.to_vec()
}

pub fn chunk_head(cookie: Cookie, kind: ChunkType, done: bool, len: u32) -> Vec<u8> {
    let mut out = [0; CHUNK_LEN];
    put_chunk(&mut out, kind, cookie, done, len);
    out.to_vec()
}

pub fn status(cookie: Cookie, done: bool, context: u32, descriptors: &[(u32, u32)]) -> Vec<u8> {
    let mut out = vec![0; BLOCK_STATUS_LEN];
    let head = out.first_chunk_mut().unwrap();
    put_block_status_head(head, cookie, done, context, descriptors.len() as u32);
    for (len, flags) in descriptors {
        let mut one = [0; DESCRIPTOR_LEN];
        put_descriptor(&mut one, *len, StatusFlags::from_bits(*flags));
        out.extend(one);
    }
    out
}

/// What an honest server answers.
pub fn honest(request: RequestHeader) -> Vec<u8> {
    use nbd::codec::Command;
    match request.command() {
        Some(Command::Read) => data(request.cookie, true, request.offset, request.len),
        Some(Command::BlockStatus) => status(request.cookie, true, 0, &[(request.len, 0)]),
        _ => none(request.cookie),
    }
}
