//! The command line of `millpond serve`.

use std::path::PathBuf;

use clap::Parser;
use io::Address;

/// Serve the images of a folder: each is an NBD export by its name.
///
/// Every file below DIR whose name ends in .qcow2, .raw or .img can be asked for, read-only, under its path relative
/// to DIR (nbd://HOST/debian.qcow2). Files that come or go are noticed without a restart. What names inside images
/// lead out of DIR is refused. docs/manual/serve.md has all of it.
#[derive(Parser, Debug)]
pub(crate) struct Args {
    /// The folder.
    #[arg(value_name = "DIR")]
    pub(super) folder: PathBuf,
    /// Where to listen: tcp://HOST:PORT or unix:PATH; may be repeated.
    #[arg(short, long, value_name = "ADDRESS", value_parser = address, default_value = "tcp://127.0.0.1:10809")]
    pub(super) listen: Vec<Address>,
    /// Format of all files (raw or qcow2), whatever their names; never guessed from content.
    #[arg(short, long, value_name = "FORMAT")]
    pub(super) format: Option<String>,
    /// Clients at the same time; 0 for any number.
    #[arg(short = 'e', long, value_name = "NUM", default_value_t = 0)]
    pub(super) shared: usize,
    /// Write the server's process id to this file once it listens.
    #[arg(long, value_name = "PATH")]
    pub(super) pid_file: Option<PathBuf>,
    /// Tell of clients and of failures.
    #[arg(short, long)]
    pub(super) verbose: bool,
}

fn address(text: &str) -> Result<Address, String> {
    if let Some(path) = text.strip_prefix("unix:").filter(|path| !path.is_empty()) {
        return Ok(Address::Unix { path: path.into() });
    }
    let wrong = || format!("'{text}' is neither tcp://HOST:PORT nor unix:PATH");
    let (host, port) =
        text.strip_prefix("tcp://").and_then(|rest| rest.rsplit_once(':')).ok_or_else(wrong)?;
    let host = host.strip_prefix('[').and_then(|host| host.strip_suffix(']')).unwrap_or(host);
    let port = port.parse().map_err(|_| wrong())?;
    Ok(Address::Tcp { host: host.to_owned(), port })
}
