//! Bytes to tokens, one byte at a time.

/// What a token is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Kind {
    /// `{`
    LeftCurly,
    /// `}`
    RightCurly,
    /// `[`
    LeftSquare,
    /// `]`
    RightSquare,
    /// `:`
    Colon,
    /// `,`
    Comma,
    /// A whole number.
    Integer,
    /// A number with a fraction or an exponent.
    Float,
    /// Lower-case letters.
    Keyword,
    /// A string with its quotes.
    String,
    /// What is no token.
    Error,
}

/// Where the lexer is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
enum State {
    #[default]
    Start,
    /// Garbage was reported: what follows is passed over up to a character that may begin something new.
    Recovery,
    Quoted {
        by: u8,
    },
    Escaped {
        by: u8,
    },
    Minus,
    Zero,
    Digits,
    Point,
    Fraction,
    Exponent,
    ExponentSign,
    ExponentDigits,
    Keyword,
}

/// What a state makes of a byte.
enum Step {
    /// The byte belongs to the token, which goes on.
    Take(State),
    /// The byte ends the token.
    TakeAndEnd(Kind),
    /// The token ended before the byte, which begins something new.
    EndBefore(Kind),
    /// The byte is nothing.
    Skip(State),
    /// The byte begins something new.
    Again,
}

/// What came of a byte.
#[derive(Debug)]
pub(super) struct Fed {
    /// The byte is done with; else it is to be fed again.
    pub(super) consumed: bool,
    /// The byte belongs to the token under way.
    pub(super) kept: bool,
    /// The token under way is complete.
    pub(super) token: Option<Kind>,
}

/// A lexer; the bytes of its token under way belong to the caller.
#[derive(Debug, Default)]
pub(super) struct Lexer(State);

impl Lexer {
    /// Takes one byte.
    pub(super) fn feed(&mut self, byte: u8) -> Fed {
        let (next, consumed, kept, token) = match step(self.0, byte) {
            Step::Take(next) => (next, true, true, None),
            Step::TakeAndEnd(Kind::Error) => (State::Recovery, true, true, Some(Kind::Error)),
            Step::TakeAndEnd(kind) => (State::Start, true, true, Some(kind)),
            Step::EndBefore(kind) => (State::Start, false, false, Some(kind)),
            Step::Skip(next) => (next, true, false, None),
            Step::Again => (State::Start, false, false, None),
        };
        self.0 = next;
        Fed { consumed, kept, token }
    }

    /// Gives the token under way up.
    pub(super) fn give_up(&mut self) {
        self.0 = State::Recovery;
    }
}

fn step(state: State, byte: u8) -> Step {
    use State::{
        Digits, Escaped, Exponent, ExponentDigits, ExponentSign, Fraction, Keyword, Minus, Point, Quoted,
        Recovery, Start, Zero,
    };
    match (state, byte) {
        (Start, _) => begin(byte),
        (Recovery, _) if resumes(byte) => Step::Again,
        (Recovery, _) => Step::Skip(Recovery),
        (Quoted { by }, b) if b == by => Step::TakeAndEnd(Kind::String),
        (Quoted { by }, b'\\') => Step::Take(Escaped { by }),
        (Quoted { by } | Escaped { by }, 0x20..=0xfd) => Step::Take(Quoted { by }),
        (Minus, b'0') => Step::Take(Zero),
        (Minus | Digits, b'0'..=b'9') => Step::Take(Digits),
        (Zero | Digits, b'.') => Step::Take(Point),
        (Zero | Digits | Fraction, b'e' | b'E') => Step::Take(Exponent),
        (Zero, b'0'..=b'9') => Step::TakeAndEnd(Kind::Error),
        (Zero | Digits, _) => Step::EndBefore(Kind::Integer),
        (Point | Fraction, b'0'..=b'9') => Step::Take(Fraction),
        (Exponent, b'+' | b'-') => Step::Take(ExponentSign),
        (Exponent | ExponentSign | ExponentDigits, b'0'..=b'9') => Step::Take(ExponentDigits),
        (Fraction | ExponentDigits, _) => Step::EndBefore(Kind::Float),
        (Keyword, b'a'..=b'z') => Step::Take(Keyword),
        (Keyword, _) => Step::EndBefore(Kind::Keyword),
        _ => Step::TakeAndEnd(Kind::Error),
    }
}

fn begin(byte: u8) -> Step {
    match byte {
        b' ' | b'\t' | b'\r' | b'\n' => Step::Skip(State::Start),
        b'"' | b'\'' => Step::Take(State::Quoted { by: byte }),
        b'-' => Step::Take(State::Minus),
        b'0' => Step::Take(State::Zero),
        b'1'..=b'9' => Step::Take(State::Digits),
        b'a'..=b'z' => Step::Take(State::Keyword),
        b'{' => Step::TakeAndEnd(Kind::LeftCurly),
        b'}' => Step::TakeAndEnd(Kind::RightCurly),
        b'[' => Step::TakeAndEnd(Kind::LeftSquare),
        b']' => Step::TakeAndEnd(Kind::RightSquare),
        b':' => Step::TakeAndEnd(Kind::Colon),
        b',' => Step::TakeAndEnd(Kind::Comma),
        _ => Step::TakeAndEnd(Kind::Error),
    }
}

/// Structural and control characters (but tabs), and bytes that UTF-8 never has.
fn resumes(byte: u8) -> bool {
    match byte {
        b'\t' => false,
        0..=0x1f | 0xfe | 0xff | b'{' | b'}' | b'[' | b']' | b':' | b',' => true,
        _ => false,
    }
}
