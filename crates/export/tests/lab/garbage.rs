//! What no client should send.

use sim::Rng;

/// Bytes of no sense, or of some.
pub fn garbage(rng: &mut Rng) -> Vec<u8> {
    let mut bytes = vec![0; rng.index(200)];
    rng.fill(&mut bytes);
    let fronts: [&[u8]; 6] = [
        b"",
        b"GET / HTTP/1.1\r\nHost: x\r\n\r\n",
        &[0, 0, 0, 3],
        b"\0\0\0\x03IHAVEOPT",
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\xff\xff\xff\xff",
        b"\0\0\0\x03IHAVEOPT\0\0\0\x07\0\0\0\x0a\0\0\0\x04disk\0\0",
    ];
    let requests: [&[u8]; 3] = [b"", b"\x25\x60\x95\x13", b"\x25\x60\x95\x13\0\0\0\x01"];
    let (front, request) = (rng.index(6), rng.index(3));
    [fronts[front], requests[request], &bytes].concat()
}
