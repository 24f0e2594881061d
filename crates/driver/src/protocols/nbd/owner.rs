//! The task that owns a node's sockets: jobs come by message, go out on one of at most two connections, and come
//! back with their leases.
//!
//! | connection | open | carries |
//! |---|---|---|
//! | main | always, as far as the server is there | demand and prefetch; fill where there is no other |
//! | fill | from the first fill request on, where the server takes several connections | fill |
//!
//! Whichever is lost, the other one goes on as the main one, and what was in flight is sent again there; only
//! without any connection is there an outage, in which jobs wait as long as the options say. The fill connection
//! is never waited for: until it is there, the main one carries its jobs; one at a time while it may soon be there, so
//! that the guest does not find a window of fill before it.
//!
//! Invariants: nothing here blocks; every job is answered, once; two changes of the same bytes are never in flight
//! together, so that the later one wins whatever the order in which a server carries them out; a connection is
//! used only if its export is the one that the node was opened with.

use std::future::poll_fn;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use block::{BlockError, ErrorKind, Priority, Result};
use flow::events::NodeEvents;
use io::sync::mpsc;
use io::{LocalFut, Moment, World};

use super::backlog::Backlog;
use super::connect::{Connected, connect};
use super::counters::Counters;
use super::identity::Identity;
use super::job::{Job, Mail};
use super::link::{Link, Loss, Share};
use super::options::Config;
use super::outage::Outage;

const MAIN: usize = 0;
const FILL: usize = 1;

/// How long the last requests and the farewell may take when a node is closed.
const GOODBYE_LIMIT: Duration = Duration::from_secs(2);
/// Between attempts to open a fill connection, at first and at most.
const FILL_PAUSE_MIN: Duration = Duration::from_secs(1);
const FILL_PAUSE_MAX: Duration = Duration::from_secs(60);
/// How long an attempt to open a fill connection is expected to succeed.
const FILL_SOON: Duration = Duration::from_millis(500);
/// How long an attempt to open a fill connection waits for the socket.
const FILL_CONNECT_LIMIT: Duration = Duration::from_secs(10);

/// What stays the same while a node is open.
pub(super) struct Peer {
    pub(super) config: Config,
    pub(super) identity: Identity,
    pub(super) counters: Arc<Counters>,
    pub(super) world: Arc<dyn World>,
    pub(super) events: NodeEvents,
}

/// The task's state.
pub(super) struct Owner {
    peer: Arc<Peer>,
    mail: mpsc::UnboundedReceiver<Mail>,
    /// Whether anybody could still send a job.
    in_use: bool,
    /// Whether jobs that find no connection fail at once.
    called_off: bool,
    backlog: Backlog,
    links: [Option<Link>; 2],
    attempt: Option<LocalFut<'static, Result<Connected>>>,
    attempt_begun: Moment,
    outage: Outage,
    /// What went wrong last, for those who wait in vain.
    trouble: Option<BlockError>,
    /// Why there is no connection, as it was told last.
    told_lost: Option<String>,
    fill_pause: Duration,
    fill_next: Moment,
    /// Nothing expires before.
    expiry: Option<Moment>,
    alarm: Option<(Moment, LocalFut<'static, ()>)>,
}

impl Owner {
    /// The owner of a connection that was just made, or of none: then it seeks one. Jobs come from `mail`.
    pub(super) fn new(
        peer: Arc<Peer>,
        first: Option<Connected>,
        mail: mpsc::UnboundedReceiver<Mail>,
    ) -> Self {
        let now = io::now();
        let link = first.map(|first| Link::new(first.stream, &first.export));
        peer.counters.set_connections(link.iter().count());
        Self {
            outage: Outage::new(now, peer.config.patience()),
            trouble: None,
            peer,
            mail,
            in_use: true,
            called_off: false,
            backlog: Backlog::default(),
            links: [link, None],
            told_lost: None,
            attempt: None,
            attempt_begun: now,
            fill_pause: FILL_PAUSE_MIN,
            fill_next: now,
            expiry: None,
            alarm: None,
        }
    }

    /// Carries out jobs until nobody can send one any more.
    pub(super) async fn run(mut self) {
        loop {
            self.collect();
            if !self.in_use {
                return self.say_goodbye().await;
            }
            let now = io::now();
            self.expire(now);
            self.fail_what_is_called_off();
            self.seek_connections(now);
            match self.turn() {
                true => io::yield_now().await,
                false => self.wait().await,
            }
        }
    }

    fn collect(&mut self) {
        loop {
            match self.mail.try_recv() {
                Ok(mail) => self.receive(mail),
                Err(mpsc::error::TryRecvError::Empty) => return,
                Err(mpsc::error::TryRecvError::Disconnected) => {
                    self.in_use = false;
                    return;
                }
            }
        }
    }

    fn receive(&mut self, mail: Mail) {
        match mail {
            Mail::Job(job) => self.take_in(job),
            Mail::CallOff => self.called_off = true,
        }
    }

    fn take_in(&mut self, mut job: Job) {
        if self.links[MAIN].is_none() && self.outage.is_patient(io::now()) {
            job.give_up = Some(self.outage.patient_until);
        }
        self.expires_at(job.deadline);
        self.expires_at(job.give_up);
        self.backlog.push(job);
    }

    /// Lets every connection do what it can; answers whether there is more to do at once.
    fn turn(&mut self) -> bool {
        let mut more = false;
        for at in [MAIN, FILL] {
            self.admit(at);
            let Some(link) = &mut self.links[at] else { continue };
            match link.turn(&self.peer.counters, &self.peer.config) {
                Ok(again) => more |= again,
                Err(loss) => {
                    self.lose(at, &loss);
                    more = true;
                }
            }
        }
        // Replies have made room.
        more | self.admit(MAIN) | self.admit(FILL)
    }

    /// Puts waiting jobs on a connection as far as there is room; answers whether there were any.
    fn admit(&mut self, at: usize) -> bool {
        let mut any = false;
        let alone = self.links[FILL].is_none();
        let share = match at {
            MAIN if self.expects_fill_link() => Share::One,
            MAIN => Share::Part,
            _ => Share::All,
        };
        let serves = |priority| match at {
            MAIN => alone || priority != Priority::Fill,
            _ => priority == Priority::Fill,
        };
        loop {
            let links = &self.links;
            let Some(link) = &links[at] else { return any };
            let clear = |job: &Job| !links.iter().flatten().any(|link| link.conflicts(&job.ask));
            let fits = |job: &Job| link.has_room(job, share) && clear(job);
            let Some(job) = self.backlog.take(serves, fits) else { return any };
            if let Some(link) = &mut self.links[at] {
                link.begin(job, &self.peer.counters, &self.peer.config);
            }
            any = true;
        }
    }

    /// A connection is lost: what was in flight waits again, for the other one or for the next.
    fn lose(&mut self, at: usize, loss: &Loss) {
        let now = io::now();
        let Some(link) = self.links[at].take() else { return };
        let patience = self.peer.config.patience();
        if link.is_proven() {
            self.outage = Outage::new(now, patience);
        }
        self.links.sort_by_key(Option::is_none);
        self.count_connections();
        let alone = self.links[MAIN].is_none();
        let mut again = Vec::new();
        for mut job in link.into_jobs() {
            job.losses += 1;
            let give_up = *job.give_up.get_or_insert(now.after(patience));
            if now >= give_up && (alone || job.losses > 1) {
                job.answer(Err(loss.error(&self.peer.config)));
            } else {
                again.push(job);
            }
        }
        self.peer.counters.add_resent(again.len());
        self.backlog.put_back(again);
        if alone {
            let error = loss.error(&self.peer.config);
            self.tell_lost(&error);
            self.trouble = Some(error);
            self.begin_outage(now);
        }
    }

    /// The jobs that are not on the wire find themselves without a connection.
    fn begin_outage(&mut self, now: Moment) {
        // An attempt that was for a second connection is in no hurry.
        self.attempt = None;
        let patient_until = self.outage.patient_until;
        if self.outage.is_patient(now) {
            self.backlog.each(|job| {
                job.give_up.get_or_insert(patient_until);
            });
        }
        self.expiry = Some(now);
    }

    /// Fails what waits for a connection that nobody will wait for any more.
    fn fail_what_is_called_off(&mut self) {
        if self.called_off && self.links[MAIN].is_none() {
            self.attempt = None;
            let why = self.trouble.as_ref().map_or_else(String::new, |error| format!(" ({error})"));
            let context = format!("{}: called off, there is no connection{why}", self.peer.config);
            self.backlog.take_all(|_| true).into_iter().for_each(|job| {
                job.answer(Err(BlockError::new(ErrorKind::Cancelled, &*context)));
            });
        }
    }

    /// Begins to connect where that is called for.
    fn seek_connections(&mut self, now: Moment) {
        if self.called_off || self.attempt.is_some() {
            return;
        }
        let limit = match (&self.links[MAIN], &self.links[FILL]) {
            (None, _) if self.next_attempt().is_some_and(|next| next <= now) => self.outage.attempt(now),
            (Some(_), None) if self.wants_fill_link() && self.fill_next <= now => FILL_CONNECT_LIMIT,
            _ => return,
        };
        let peer = self.peer.clone();
        self.attempt_begun = now;
        self.attempt = Some(Box::pin(async move { connect(&peer.config, &*peer.world, limit).await }));
    }

    /// When to try again to connect, if at all: as long as requests would wait for it, and for each that comes.
    fn next_attempt(&self) -> Option<Moment> {
        let next = self.outage.next;
        let wanted = self.outage.is_patient(next) || !self.backlog.is_empty();
        (self.links[MAIN].is_none() && wanted && !self.called_off).then_some(next)
    }

    /// Whether a fill connection may be there in a moment.
    fn expects_fill_link(&self) -> bool {
        self.attempt.is_some() && io::now() < self.attempt_begun.after(FILL_SOON)
    }

    fn wants_fill_link(&self) -> bool {
        let can = self.peer.identity.takes_several_connections() && self.peer.config.can_reconnect();
        can && self.backlog.has(Priority::Fill)
    }

    /// An attempt to connect has ended.
    fn attempted(&mut self, outcome: Result<Connected>) {
        let peer = self.peer.clone();
        let other_image = |connected: &Connected| peer.identity.check(&connected.export, &peer.config).err();
        match (outcome, &self.links[MAIN]) {
            (Err(error), None) => self.attempt_failed(error),
            (Err(_), Some(_)) => self.no_fill_link(),
            (Ok(connected), main) => match (other_image(&connected), main) {
                // Waiting does not make it ours.
                (Some(error), None) => {
                    self.tell_lost(&error);
                    self.refuse_all(error);
                }
                (Some(_), Some(_)) => self.no_fill_link(),
                (None, None) => {
                    self.links[MAIN] = Some(Link::new(connected.stream, &connected.export));
                    self.peer.counters.add_reconnect();
                    if self.told_lost.take().is_some() {
                        self.peer.events.back();
                    }
                }
                (None, Some(_)) => {
                    self.links[FILL] = Some(Link::new(connected.stream, &connected.export));
                    self.fill_pause = FILL_PAUSE_MIN;
                }
            },
        }
        self.count_connections();
    }

    fn tell_lost(&mut self, error: &BlockError) {
        let why = Some(error.to_string());
        if self.told_lost != why {
            self.peer.events.lost(error);
            self.told_lost = why;
        }
    }

    fn attempt_failed(&mut self, error: BlockError) {
        self.tell_lost(&error);
        if error.kind() == ErrorKind::TimedOut {
            self.outage.was_too_short();
        }
        match self.outage.is_patient(io::now()) {
            true => self.trouble = Some(error),
            false => self.refuse_all(error),
        }
    }

    /// Fails all that waits for a connection.
    fn refuse_all(&mut self, error: BlockError) {
        for job in self.backlog.take_all(|_| true) {
            job.answer(Err(BlockError::new(error.kind(), error.to_string())));
        }
        self.trouble = Some(error);
    }

    fn no_fill_link(&mut self) {
        self.fill_next = io::now().after(self.fill_pause);
        self.fill_pause = (self.fill_pause * 2).min(FILL_PAUSE_MAX);
    }

    fn count_connections(&self) {
        self.peer.counters.set_connections(self.links.iter().flatten().count());
    }

    fn expires_at(&mut self, when: Option<Moment>) {
        self.expiry = [self.expiry, when].into_iter().flatten().min();
    }

    /// Answers the jobs whose time is over.
    fn expire(&mut self, now: Moment) {
        if self.expiry.is_none_or(|expiry| expiry > now) {
            return;
        }
        let config = &self.peer.config;
        let late = |job: &Job| {
            let what = format!("{config}: {} of {}", job.ask.command.name(), job.ask.range);
            BlockError::new(ErrorKind::TimedOut, format!("{what} took longer than its deadline"))
        };
        let passed = |when: Option<Moment>| when.is_some_and(|when| when <= now);
        for job in self.backlog.take_all(|job| passed(job.deadline)) {
            let error = late(&job);
            job.answer(Err(error));
        }
        for link in self.links.iter_mut().flatten() {
            link.expire(now, late);
        }
        if self.links[MAIN].is_none() {
            for job in self.backlog.take_all(|job| passed(job.give_up)) {
                job.answer(Err(gone_too_long(config, self.trouble.as_ref())));
            }
        }
        let links = self.links.iter().flatten().filter_map(Link::expiry);
        self.expiry = links.chain(self.backlog.expiry().filter(|when| *when > now)).min();
    }

    /// Waits for a job, a socket, a connection, or for time to pass.
    async fn wait(&mut self) {
        let alarm = [self.expiry, self.next_attempt().filter(|_| self.attempt.is_none())];
        let alarm = alarm.into_iter().flatten().min();
        if self.alarm.as_ref().map(|(when, _)| *when) != alarm {
            self.alarm = alarm.map(|when| (when, io::sleep_until(when)));
        }
        poll_fn(|cx| self.poll(cx)).await;
    }

    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        match self.mail.poll_recv(cx) {
            Poll::Ready(Some(mail)) => {
                self.receive(mail);
                return Poll::Ready(());
            }
            Poll::Ready(None) => {
                self.in_use = false;
                return Poll::Ready(());
            }
            Poll::Pending => {}
        }
        if let Some(Poll::Ready(outcome)) = self.attempt.as_mut().map(|attempt| attempt.as_mut().poll(cx)) {
            self.attempt = None;
            self.attempted(outcome);
            return Poll::Ready(());
        }
        let rung = self.alarm.as_mut().is_some_and(|(_, sleep)| sleep.as_mut().poll(cx).is_ready());
        if rung {
            self.alarm = None;
        }
        let mut ready = rung;
        for link in self.links.iter().flatten() {
            ready |= link.poll(cx).is_ready();
        }
        if ready { Poll::Ready(()) } else { Poll::Pending }
    }

    async fn say_goodbye(self) {
        let until = io::now().after(GOODBYE_LIMIT);
        for link in self.links.into_iter().flatten() {
            // A server that takes nothing any more is left without a word.
            let _ = io::timeout_at(until, link.say_goodbye()).await;
        }
        self.peer.counters.set_connections(0);
    }
}

#[cold]
fn gone_too_long(config: &Config, trouble: Option<&BlockError>) -> BlockError {
    let why = trouble.map_or_else(|| format!("{config}: connection lost"), BlockError::to_string);
    let waited = config.patience().as_secs();
    let context = match waited {
        0 => why,
        _ => format!("{why} (waited {waited} s; start the server again, or raise 'reconnect-delay')"),
    };
    let lied = trouble.is_some_and(|error| error.kind() == ErrorKind::Protocol);
    BlockError::new(if lied { ErrorKind::Protocol } else { ErrorKind::Disconnected }, context)
}
