//! Recorded conversations (`transcripts/*.txt`) as test cases.

/// What was sent on a connection and what came back.
pub(crate) struct Case {
    pub(crate) label: &'static str,
    pub(crate) client: Vec<u8>,
    pub(crate) server: Vec<u8>,
    /// Whether the server closed the connection afterwards.
    pub(crate) closed: bool,
}

/// The cases of a file: a line with the label, one with the client's bytes, one with the server's.
pub(crate) fn cases(text: &'static str) -> Vec<Case> {
    let lines: Vec<_> = text.lines().skip_while(|line| !line.starts_with("# ")).collect();
    let case = |lines: &[&'static str]| {
        let server = lines[2].strip_prefix("S: ").unwrap();
        Case {
            label: lines[0].strip_prefix("# ").unwrap(),
            client: bytes(lines[1].strip_prefix("C: ").unwrap()),
            server: bytes(server.trim_end_matches("EOF").trim()),
            closed: server.ends_with("EOF"),
        }
    };
    lines.chunks(3).map(case).collect()
}

fn bytes(hex: &str) -> Vec<u8> {
    let digits = hex.as_bytes().chunks(2);
    digits.map(|d| u8::from_str_radix(std::str::from_utf8(d).unwrap(), 16).unwrap()).collect()
}
