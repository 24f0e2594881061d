//! The NBD wire: codec, handshake and transmission for both ends, with no I/O.
