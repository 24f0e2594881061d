//! Examples of the specification, what must not pass, and that writing loses nothing.

use proptest::prelude::*;

use super::*;

fn tcp(host: &str, port: u16, export: &str) -> NbdUri {
    NbdUri { address: Address::Tcp { host: host.into(), port }, export: export.into() }
}

fn unix(path: &str, export: &str) -> NbdUri {
    NbdUri { address: Address::Unix(path.into()), export: export.into() }
}

#[test]
fn examples() {
    let cases = [
        ("nbd://example.com/disk", tcp("example.com", 10809, "disk")),
        ("nbd://example.com/", tcp("example.com", 10809, "")),
        ("nbd://example.com", tcp("example.com", 10809, "")),
        ("nbd://example.com//disk", tcp("example.com", 10809, "/disk")),
        ("nbd://example.com:1/hello%20world", tcp("example.com", 1, "hello world")),
        ("NBD://[::1]:10810/%C3%A9", tcp("::1", 10810, "é")),
        ("nbd://[fe80::1%25eth0]:/a/b", tcp("fe80::1%eth0", 10809, "a/b")),
        ("nbd+unix:///disk?socket=sock", unix("sock", "disk")),
        ("nbd+unix:///disk?socket=/run/a%20b", unix("/run/a b", "disk")),
        ("nbd+unix:///?socket=%00/abstract", unix("\0/abstract", "")),
        ("nbd+unix://?socket=x%3Dy%26z", unix("x=y&z", "")),
    ];
    for (text, expected) in cases {
        let uri: NbdUri = text.parse().unwrap();
        assert_eq!(uri, expected, "{text}");
        assert_eq!(uri.to_string().parse(), Ok(expected), "{text}");
    }
    assert_eq!(tcp("::1", 10809, "a b").to_string(), "nbd://[::1]/a%20b");
    assert_eq!(unix("/run/s", "x").to_string(), "nbd+unix:///x?socket=/run/s");
}

#[test]
fn what_cannot_be_followed_says_why() {
    use UriError::*;
    let long = format!("nbd://h/{}", "x".repeat(4097));
    let cases = [
        ("http://h/x", NotNbd),
        ("nbd:unix:/sock", NotNbd),
        ("", NotNbd),
        ("nbds://h/x", TlsUnsupported),
        ("nbds+unix:///?socket=s", TlsUnsupported),
        ("nbd://h/x?tls-type=x509", TlsUnsupported),
        ("nbd://me@h/x", UserUnsupported),
        ("nbd:///x", BadAuthority),
        ("nbd://:7/x", BadAuthority),
        ("nbd://[::1/x", BadAuthority),
        ("nbd+unix://h/x?socket=s", BadAuthority),
        ("nbd://h:65536/", BadPort),
        ("nbd://h:+1/", BadPort),
        ("nbd://[::1]7/", BadPort),
        ("nbd://h/%4", BadEscape),
        ("nbd://h/%zz", BadEscape),
        ("nbd://h/%ff", BadEscape),
        ("nbd://h/x#y", BadEscape),
        ("nbd://h/%00", BadExport),
        (&long, BadExport),
        ("nbd+unix:///x", BadSocket),
        ("nbd+unix:///x?socket=", BadSocket),
        ("nbd+unix:///x?socket=a%00", BadSocket),
        ("nbd+unix:///x?socket=a&socket=b", BadSocket),
        ("nbd://h/x?socket=s", BadSocket),
        ("nbd://h/x?speed=9", UnknownParameter("speed".into())),
    ];
    for (text, expected) in cases {
        assert_eq!(text.parse::<NbdUri>(), Err(expected), "{text}");
    }
}

proptest! {
    #[test]
    fn writing_loses_nothing(
        host in "[^\\x00-\\x1f\\x7f-\\x9f]{1,12}",
        port: u16,
        export in "[^\\x00]{0,20}",
        path in proptest::collection::vec(1u8.., 1..20),
    ) {
        let uri = tcp(&host, port, &export);
        prop_assert_eq!(uri.to_string().parse(), Ok(uri));
        let uri = NbdUri { address: Address::Unix(path), export };
        prop_assert_eq!(uri.to_string().parse(), Ok(uri));
    }

    #[test]
    fn no_text_panics(text in "(nbd(\\+unix)?://)?[%\\[\\]:@/?&=#a0f.s]{0,30}") {
        let _ = text.parse::<NbdUri>();
    }
}
