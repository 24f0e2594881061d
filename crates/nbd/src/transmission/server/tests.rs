//! Block status as QEMU's server sends it.

use block::ByteRange;

use super::*;

fn extent(start: u64, len: u64, state: ExtentState) -> Extent {
    Extent { range: ByteRange::new(start, len), state }
}

#[test]
fn block_status_is_what_qemu_sends() {
    let extents = [extent(0, 0x20000, ExtentState::Hole), extent(0x20000, 0x1000, ExtentState::Data)];
    let mut out = [0xaa; 64];
    let len = put_block_status(&mut out, Cookie(0x1122_3344_5566_7788), true, 0, &extents).unwrap();
    let seen = b"\x66\x8e\x33\xef\0\x01\0\x05\x11\x22\x33\x44\x55\x66\x77\x88\0\0\0\x14\0\0\0\0\
        \0\x02\0\0\0\0\0\x03\0\0\x10\0\0\0\0\0";
    assert_eq!(&out[..len], seen);
    assert_eq!(len, block_status_len(2));
}

#[test]
fn block_status_is_cut_to_the_room_and_to_32_bits() {
    let many = [extent(0, 512, ExtentState::Data), extent(512, 512, ExtentState::AllocatedZero)];
    let mut out = [0; 39];
    assert_eq!(put_block_status(&mut out, Cookie(0), true, 0, &many), Some(32));
    assert_eq!(out[19], 12);
    assert_eq!(put_block_status(&mut out[..31], Cookie(0), true, 0, &many), None);
    assert_eq!(put_block_status(&mut out, Cookie(0), true, 0, &[]), None);
    let huge = [extent(0, 1 << 33, ExtentState::Hole), extent(1 << 33, 512, ExtentState::Data)];
    let mut out = [0; 64];
    assert_eq!(put_block_status(&mut out, Cookie(0), true, 0, &huge), Some(32));
    assert_eq!(out[24..32], [0xff, 0xff, 0, 0, 0, 0, 0, 3]);
}
