//! Our NBD server during the handshake, against any client.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| nbd::fuzz::server_handshake(data));
