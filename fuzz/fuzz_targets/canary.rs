//! Must fail: shows that the fuzzer finds what can be found.

#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| {
    // One byte after the other: random bytes hardly ever get there, a fuzzer that sees coverage soon does.
    let breaths = data.iter().zip(b"coal").take_while(|(byte, gas)| byte == gas).count();
    assert!(breaths < 4, "the canary is dead, as it should be");
});
