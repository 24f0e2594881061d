//! A pond in a daemon: opened, known to its monitors, reached at its control socket, closed.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use block::{BlockError, Result};
use control::{Control, Table};
use engine::Engine;
use io::Address;
use pond::{Pond, PondOptions};

use super::places::Places;
use super::{commands, remedy};

/// Seconds that a read waits for a source that is lost, unless somebody says otherwise.
pub(crate) const SOURCE_TIMEOUT: u64 = 60;

/// How a daemon has a pond.
pub(crate) struct HostOptions {
    places: Places,
    source_timeout: Duration,
}

impl HostOptions {
    /// The pond in a folder, with its sockets in another one; where nothing is said, the usual ones.
    pub(crate) fn new(pond: Option<&Path>, runtime: Option<&Path>, source_timeout: u64) -> Result<Self> {
        let source_timeout = Duration::from_secs(source_timeout);
        Ok(Self { places: Places::of(pond, runtime)?, source_timeout })
    }
}

/// A daemon's pond.
pub(crate) struct Host {
    pond: Arc<Pond>,
    places: Places,
}

impl Host {
    /// Takes the pond over, and adds its commands to those of the daemon.
    pub(crate) async fn open(engine: &Arc<Engine>, options: HostOptions, table: &mut Table) -> Result<Self> {
        let HostOptions { places, source_timeout } = options;
        let options = PondOptions { folder: places.pond.clone(), sockets: places.sockets(), source_timeout };
        let pond = Pond::open(engine.clone(), options).await.map_err(remedy::of_opening)?;
        commands::add(table, &pond);
        Ok(Self { pond, places })
    }

    /// Takes commands at the control socket, where `millpond clone` and its like look for the daemon.
    pub(crate) async fn listen(&self, control: &Control) -> Result<()> {
        let path = self.places.control();
        control.open(&Address::Unix { path: path.clone() }).map_err(remedy::of_pond)?;
        let mode = self.pond.engine().world().folders().set_mode(&path, 0o600).await;
        mode.map_err(|e| BlockError::system(format!("cannot protect '{}'", path.display()), e))
    }

    /// The pond's folder, and where commands go.
    pub(super) fn places(&self) -> &Places {
        &self.places
    }

    /// Ends it in good order.
    pub(crate) async fn close(&self) -> Result<()> {
        self.pond.close().await
    }
}
