//! What a reply means for the request that it answers.

use block::{BlockError, Errno, Extent, ExtentState};
use nbd::codec::Command;
use nbd::transmission::client::{Chunk, Descriptor, ReadFailure, Reply, extents};

use super::{Counters, Filling, Flight, Flights, Link, Loss};
use crate::protocols::nbd::job::Outcome;
use crate::protocols::nbd::options::Config;

impl Link {
    /// Takes everything that was received as far as it is complete.
    pub(super) fn digest(&mut self, counters: &Counters, config: &Config) -> Result<(), Loss> {
        loop {
            if let Some(Filling { cookie, span, .. }) = &mut self.filling {
                if let Some(flight) = self.flights.get_mut(*cookie) {
                    span.start += self.inbox.take(&mut flight.job.lease[span.clone()]);
                }
                if span.start < span.end {
                    return Ok(());
                }
                self.filled(counters, config)?;
                continue;
            }
            let Some(reply) = self.inbox.reply()? else { return Ok(()) };
            match reply {
                Reply::Simple { cookie, error } => self.simple(cookie.0, error, config)?,
                Reply::Chunk { cookie, done, chunk } => self.chunk(cookie.0, done, chunk, config)?,
            }
        }
    }

    /// The bytes of a chunk, or of a simple reply, have all come.
    fn filled(&mut self, counters: &Counters, config: &Config) -> Result<(), Loss> {
        let Some(filling) = self.filling.take() else { return Ok(()) };
        counters.add_received(filling.len);
        if filling.last { self.end(filling.cookie, config) } else { Ok(()) }
    }

    fn simple(&mut self, cookie: u64, error: Option<Errno>, config: &Config) -> Result<(), Loss> {
        let structured = self.structured;
        let flight = flight(&mut self.flights, cookie)?;
        match (flight.job.ask.command, error) {
            (_, Some(errno)) => flight.progress.failed(errno),
            (Command::Read, None) if structured => {
                return Err(Loss::broken("read answered without structure, though that was agreed"));
            }
            (Command::Read, None) => {
                let range = flight.job.ask.range;
                let span = flight.progress.content(range.start(), range.len() as u32)?;
                self.filling = Some(Filling { cookie, len: span.len(), span, last: true });
                return Ok(());
            }
            (Command::BlockStatus, None) => {
                return Err(Loss::broken("block status answered without extents"));
            }
            _ => {}
        }
        self.end(cookie, config)
    }

    fn chunk(&mut self, cookie: u64, done: bool, chunk: Chunk, config: &Config) -> Result<(), Loss> {
        let allocation = self.allocation;
        let flight = flight(&mut self.flights, cookie)?;
        match chunk {
            Chunk::None => {}
            Chunk::OffsetData { offset, len } => {
                let span = flight.progress.content(offset, len)?;
                self.filling = Some(Filling { cookie, len: span.len(), span, last: done });
                return Ok(());
            }
            Chunk::OffsetHole { offset, len } => {
                let span = flight.progress.content(offset, len)?;
                flight.job.lease[span].fill(0);
            }
            Chunk::BlockStatus { context, descriptors } if Some(context) == allocation => {
                flight.learn(&descriptors)?;
            }
            Chunk::BlockStatus { .. } => {
                return Err(Loss::broken("block status of a context that was not agreed"));
            }
            Chunk::Error { errno, message, .. } => {
                flight.progress.failed(errno);
                flight.message.get_or_insert(message);
            }
        }
        if done { self.end(cookie, config) } else { Ok(()) }
    }

    /// The reply is complete.
    fn end(&mut self, cookie: u64, config: &Config) -> Result<(), Loss> {
        let Some(flight) = self.flights.get(cookie) else { return Ok(()) };
        // A broken reply leaves the flight where it is: it will be tried again, or fail with the connection.
        flight.check(config)?;
        self.answered = true;
        self.outbox.keep(cookie, &flight.job.lease);
        if let Some(flight) = self.flights.end(cookie) {
            let outcome = flight.outcome(config);
            flight.job.answer(outcome);
        }
        Ok(())
    }
}

fn flight(flights: &mut Flights, cookie: u64) -> Result<&mut Flight, Loss> {
    let unknown = || Loss::broken(format_args!("reply to a request that was not made ({cookie:#x})"));
    flights.get_mut(cookie).ok_or_else(unknown)
}

impl Flight {
    fn learn(&mut self, descriptors: &[Descriptor]) -> Result<(), Loss> {
        if self.job.ask.command != Command::BlockStatus || self.extents.is_some() {
            return Err(Loss::broken("extents that were not asked for"));
        }
        self.extents = Some(extents(self.job.ask.range, descriptors)?);
        Ok(())
    }

    /// Whether the reply is one to what was asked.
    fn check(&self, config: &Config) -> Result<(), Loss> {
        match self.progress.finish() {
            Err(ReadFailure::Broken(error)) => Err(error.into()),
            // Whoever can wait asks the one that comes after it.
            Err(ReadFailure::Failed(Errno::SHUTDOWN)) if !config.patience().is_zero() => {
                Err(Loss::gone("the server is shutting down"))
            }
            Ok(()) if self.job.ask.command == Command::BlockStatus && self.extents.is_none() => {
                Err(Loss::broken("block status answered without extents"))
            }
            _ => Ok(()),
        }
    }

    fn outcome(&self, config: &Config) -> Outcome {
        let ask = &self.job.ask;
        match (self.progress.finish(), ask.command) {
            (Ok(()), _) => Ok(self.extents.clone().unwrap_or_default()),
            // What is there is only advice: as data it will be read, and that tells what is wrong.
            (Err(_), Command::BlockStatus) => Ok(vec![Extent { range: ask.range, state: ExtentState::Data }]),
            (Err(failure), _) => Err(self.failed(failure, config)),
        }
    }

    fn failed(&self, failure: ReadFailure, config: &Config) -> BlockError {
        let error = BlockError::from(failure);
        let what = format!("{config}: {} of {}", self.job.ask.command.name(), self.job.ask.range);
        match self.message.as_deref() {
            None | Some("") => error.within(what),
            // A peer's text must not be able to drive a terminal.
            Some(text) => {
                BlockError::new(error.kind(), format!("{what}: the server says: {}", text.escape_debug()))
            }
        }
    }
}
