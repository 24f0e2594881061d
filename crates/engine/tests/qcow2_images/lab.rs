//! Images made by QEMU's tools, and qemu-nbd that serves them.

#[path = "../../../qcow2/tests/lab/images.rs"]
mod images;

use std::io::Read as _;
use std::ops::{Deref, DerefMut};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use images::Images;
pub(crate) use images::said;

pub(crate) struct Lab(Images);

impl Lab {
    /// A fresh directory; `None` where QEMU's tools are missing.
    pub(crate) fn new(test: &str) -> Option<Self> {
        Images::with_tools(&format!("qcow2_images {test}"), &["qemu-img", "qemu-io", "qemu-nbd"]).map(Self)
    }

    /// A fresh directory for images that are made by hand.
    pub(crate) fn without_qemu() -> Self {
        Self(Images::new())
    }

    /// The path of a file as text.
    pub(crate) fn name(&self, name: &str) -> String {
        self.path(name).to_str().unwrap().to_owned()
    }

    /// Makes a qcow2 image.
    pub(crate) fn create(&self, options: &str, name: &str, size: u64) {
        self.img(&["create", "-q", "-f", "qcow2", "-o", options, name, &size.to_string()]);
    }

    /// Makes a qcow2 image over another one.
    pub(crate) fn overlay(&self, options: &str, name: &str, size: u64, backing: &str, format: &str) {
        let options = if options.is_empty() { "compat=1.1" } else { options };
        let create = ["create", "-q", "-u", "-f", "qcow2", "-o", options, "-b", backing, "-F", format, name];
        self.img(&[&create[..], &[&size.to_string()]].concat());
    }

    /// Serves an image with qemu-nbd on a unix socket of that name until dropped.
    pub(crate) fn serve(&self, socket: &str, args: &[&str]) -> Server {
        let path = self.path(socket);
        let mut command = Command::new("qemu-nbd");
        command.args(["-t", "-e", "0", "-k"]).arg(&path).args(args).current_dir(self.dir());
        let mut child = command.stdout(Stdio::null()).spawn().unwrap();
        // It listens before it has opened the image, and greets after that.
        while !greets(&path) {
            assert_eq!(child.try_wait().unwrap(), None, "qemu-nbd {args:?} has ended");
            std::thread::yield_now();
        }
        Server(child)
    }
}

impl Deref for Lab {
    type Target = Images;
    fn deref(&self) -> &Images {
        &self.0
    }
}

impl DerefMut for Lab {
    fn deref_mut(&mut self) -> &mut Images {
        &mut self.0
    }
}

fn greets(socket: &Path) -> bool {
    let client = UnixStream::connect(socket);
    client.is_ok_and(|mut client| client.read_exact(&mut [0; 8]).is_ok())
}

/// A running qemu-nbd.
pub(crate) struct Server(Child);

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}
