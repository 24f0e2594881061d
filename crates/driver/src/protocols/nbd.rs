//! `nbd`: an export of an NBD server, over TCP, a unix socket or a descriptor.
//!
//! The sockets belong to the I/O thread on which the node was opened; requests reach them from any thread by
//! message, with their buffers ([`owner`] has the rules, `docs/decisions/002` the reasons). Lost connections are
//! made again ([`outage`]), and what was under way is sent again.
//!
//! Invariants: size, limits and abilities are those of the first handshake for as long as the node is open: a
//! server that comes back with another image is refused; no byte is ever answered that the server has not sent
//! for just that place.

mod backlog;
mod connect;
mod counters;
mod identity;
mod job;
mod link;
mod options;
mod outage;
mod owner;

use std::sync::Arc;

use block::{BlockError, ByteRange, ErrorKind, Extent, ExtentState, Priority, Result};
use flow::events::NodeEvents;
use flow::{Body, Execute, Flags, Limits, Next, Now, Op, Powers, Request, Window};
use io::sync::mpsc;
use io::{Lease, LocalFut, Moment, World};
use nbd::codec::{Command, CommandFlags, TransmissionFlags};

use crate::context::{Kept, OpenContext, Opened};
use connect::Connected;
use identity::Identity;
use job::{Ask, Job, Mail, Outcome};
use outage::Outage;
use owner::{Owner, Peer};

pub use counters::Counters;
pub use options::{Config, Options, SHOWS, filename};

/// Longest question for extents; with the blocks around it, its length still fits 32 bits.
const QUESTION_MAX: u64 = 1 << 31;

/// Opens an `nbd` node.
pub fn open(mut context: OpenContext) -> LocalFut<'static, Result<Opened>> {
    Box::pin(async move {
        let name = context.node_name.clone();
        let at_node = |error: BlockError| error.within(format_args!("node '{name}'"));
        let options: Options = context.parse()?;
        let config = Config::try_from(options).map_err(at_node)?;
        let use_as = Use { writable: !context.read_only, no_flush: context.no_flush, unmap: context.unmap };
        let before = context.kept.take().and_then(|kept| kept.downcast::<Link>().ok());
        let client = match before.filter(|link| link.peer.config == config) {
            Some(link) => link.again(use_as),
            None => NbdClient::of_node(config, use_as, context.world.clone(), context.events.clone()).await,
        };
        let client = client.map_err(at_node)?;
        Ok(Opened::new(Body::Executes(Arc::new(client))))
    })
}

/// What a node is opened for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Use {
    /// It is written.
    pub writable: bool,
    /// Flushes are taken for granted.
    pub no_flush: bool,
    /// Discards are passed on, and zeroing may unmap.
    pub unmap: bool,
}

impl Use {
    /// To read it and nothing else.
    pub const READ: Self = Self { writable: false, no_flush: false, unmap: false };
}

/// A client of one export. Dropping it ends its connections.
pub struct NbdClient {
    link: Link,
    use_as: Use,
}

/// The connections of a node, which stay over its reopening: a server may take no others.
#[derive(Clone)]
struct Link {
    peer: Arc<Peer>,
    mail: mpsc::UnboundedSender<Mail>,
}

impl Link {
    /// The client that a reopened node is.
    fn again(&self, use_as: Use) -> Result<NbdClient> {
        if use_as.writable && self.peer.identity.is_read_only() {
            let context = "Can't reopen read-only NBD mount as read/write";
            return Err(BlockError::new(ErrorKind::ReadOnly, context));
        }
        Ok(NbdClient { link: self.clone(), use_as })
    }
}

impl NbdClient {
    /// Connects (again and again for as long as `open_timeout` says) and leaves the connection with the calling
    /// I/O thread, which must live at least as long as the client.
    pub async fn connect(config: Config, use_as: Use, world: Arc<dyn World>) -> Result<Self> {
        Self::of_node(config, use_as, world, NodeEvents::default()).await
    }

    /// The same for a node that tells when the server is lost, and when it is back.
    pub async fn of_node(
        config: Config,
        use_as: Use,
        world: Arc<dyn World>,
        events: NodeEvents,
    ) -> Result<Self> {
        let (first, identity) = match &config.identity {
            Some(known) => (None, Identity::parse(known)?),
            None => {
                let first = first_connection(&config, &*world).await?;
                let identity = Identity::new(&first.export, &config)?;
                (Some(first), identity)
            }
        };
        if use_as.writable && identity.is_read_only() {
            let context = format!("{config} is read-only: open the node with read-only=on");
            return Err(BlockError::new(ErrorKind::ReadOnly, context));
        }
        let (mail, received) = mpsc::unbounded_channel();
        let peer = Arc::new(Peer { config, identity, counters: Arc::default(), world, events });
        io::spawn(Owner::new(peer.clone(), first, received).run());
        Ok(Self { link: Link { peer, mail }, use_as })
    }

    /// What it has done so far.
    pub fn counters(&self) -> &Arc<Counters> {
        &self.link.peer.counters
    }

    /// Whom it talks to.
    pub fn config(&self) -> &Config {
        &self.link.peer.config
    }

    fn can(&self, flag: TransmissionFlags) -> bool {
        self.link.peer.identity.can(flag)
    }

    /// What a request asks the server for; `None` when there is nothing to ask.
    fn ask(&self, rq: &Request) -> Result<Option<Ask>> {
        use TransmissionFlags as T;
        let mut flags = CommandFlags::NONE;
        let command = match rq.op {
            Op::Read => Command::Read,
            Op::Write => Command::Write,
            Op::WriteZeroes => {
                if rq.flags.has(Flags::FAST_ZERO) {
                    if !self.can(T::SEND_FAST_ZERO) {
                        let context =
                            format!("{}: zeroing may be no faster than writing", self.link.peer.config);
                        return Err(BlockError::new(ErrorKind::Unsupported, context));
                    }
                    flags = flags | CommandFlags::FAST_ZERO;
                }
                if !self.use_as.unmap || !rq.flags.has(Flags::MAY_UNMAP) {
                    flags = flags | CommandFlags::NO_HOLE;
                }
                Command::WriteZeroes
            }
            Op::Discard => Command::Trim,
            Op::Flush if self.use_as.no_flush || !self.can(T::SEND_FLUSH) => return Ok(None),
            Op::Flush => Command::Flush,
            Op::Cache if !self.can(T::SEND_CACHE) => return Ok(None),
            Op::Cache => Command::Cache,
        };
        if rq.op.changes() && self.wants_fua(rq) {
            flags = flags | CommandFlags::FUA;
        }
        let range = if rq.op == Op::Flush { ByteRange::default() } else { rq.rest() };
        Ok(Some(Ask { command, flags, range }))
    }

    /// Whether a change has to be durable when it is answered: because it says so, or because the server knows no
    /// other way to make it durable.
    fn wants_fua(&self, rq: &Request) -> bool {
        use TransmissionFlags as T;
        let wanted = rq.flags.has(Flags::FUA) || !self.can(T::SEND_FLUSH);
        wanted && !self.use_as.no_flush && self.can(T::SEND_FUA)
    }

    async fn carry_out(&self, rq: Request, mut lease: Lease) -> (Result<()>, Lease) {
        let ask = match self.ask(&rq) {
            Ok(Some(ask)) => ask,
            Ok(None) => return (Ok(()), lease),
            Err(error) => return (Err(error), lease),
        };
        let done = if lease.is_empty() { 0 } else { rq.done as usize };
        let mut head = lease.split_to(done);
        let (outcome, rest) = self.send(ask, rq.priority, rq.deadline, lease).await;
        head.join(rest);
        (outcome.map(|_| ()), head)
    }

    /// Hands a job to the thread that owns the sockets, and waits for it to come back.
    async fn send(
        &self,
        ask: Ask,
        priority: Priority,
        deadline: Option<Moment>,
        lease: Lease,
    ) -> (Outcome, Lease) {
        let len = lease.len();
        let (job, answered) = Job::new(ask, priority, deadline, lease);
        if let Err(mpsc::error::SendError(Mail::Job(job))) = self.link.mail.send(Mail::Job(job)) {
            return (Err(self.orphaned()), job.lease);
        }
        match answered.await {
            Ok(answer) => answer,
            // The buffer went down with the thread.
            Err(_) => (Err(self.orphaned()), Lease::zeroed(len)),
        }
    }

    #[cold]
    fn orphaned(&self) -> BlockError {
        let context = format!("{}: the I/O thread that owns the connection has ended", self.link.peer.config);
        BlockError::new(ErrorKind::Cancelled, context)
    }

    async fn ask_extents(&self, range: ByteRange) -> Result<Vec<Extent>> {
        let end = self.link.peer.identity.size;
        let whole = self.link.peer.identity.alignment().around(range.head(QUESTION_MAX));
        let whole = whole.intersection(ByteRange::between(0, end));
        let ask = Ask { command: Command::BlockStatus, flags: CommandFlags::NONE, range: whole };
        let (outcome, _) = self.send(ask, Priority::Demand, None, Lease::empty()).await;
        let inside = |e: Extent| Extent { range: e.range.intersection(range), state: e.state };
        let extents = outcome?.into_iter().map(inside).filter(|e| !e.range.is_empty());
        Ok(extents.collect())
    }
}

/// Connects for the first time.
async fn first_connection(config: &Config, world: &dyn World) -> Result<Connected> {
    let mut opening = Outage::new(io::now(), config.open_timeout);
    loop {
        let limit = opening.attempt(io::now());
        let error = match connect::connect(config, world, limit).await {
            Ok(connected) => return Ok(connected),
            Err(error) => error,
        };
        if error.kind() == ErrorKind::TimedOut {
            opening.was_too_short();
        }
        if !opening.is_patient(opening.next.max(io::now())) || !config.can_reconnect() {
            return Err(error);
        }
        io::sleep_until(opening.next).await;
    }
}

impl Execute for NbdClient {
    fn size(&self) -> Option<u64> {
        Some(self.link.peer.identity.size)
    }

    fn limits(&self) -> Limits {
        self.link.peer.identity.limits(self.use_as.unmap)
    }

    fn try_now(&self, _: &mut Request, _: Window<'_>, _: Next<'_>) -> Result<Now> {
        Ok(Now::Wait)
    }

    fn execute<'a>(&'a self, rq: Request, lease: Lease, _: Next<'a>) -> LocalFut<'a, (Result<()>, Lease)> {
        Box::pin(self.carry_out(rq, lease))
    }

    fn extents<'a>(&'a self, range: ByteRange, _: Next<'a>) -> LocalFut<'a, Result<Vec<Extent>>> {
        Box::pin(async move {
            match self.ask_extents(range).await? {
                // Nothing came of the part that was asked about.
                none if none.is_empty() => Ok(vec![Extent { range, state: ExtentState::Data }]),
                extents => Ok(extents),
            }
        })
    }

    fn call_off(&self) {
        // Nobody is there to hear it: then nobody waits.
        let _ = self.link.mail.send(Mail::CallOff);
    }

    fn keep(&self) -> Option<Kept> {
        Some(Arc::new(self.link.clone()))
    }

    fn powers(&self) -> Powers<'_> {
        Powers { stats: Some(&*self.link.peer.counters), identity: Some(self), ..Powers::default() }
    }
}

impl flow::Identity for NbdClient {
    fn identity(&self) -> String {
        self.link.peer.identity.text()
    }

    fn version(&self) -> Option<String> {
        self.link.peer.identity.version().map(str::to_owned)
    }
}
