//! From bytes to values: counts brackets, and hands a value to the parser when the last one has closed.

use serde_json::Value;

use super::lexer::{Kind, Lexer};
use super::parser::{self, Token};
use crate::Error;

/// Bounds on one value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Bytes of its tokens, white space between them not counted.
    pub bytes: usize,
    /// Tokens.
    pub tokens: usize,
    /// Brackets within one another; bounds the depth of recursion too.
    pub nesting: i32,
}

impl Limits {
    /// QEMU's.
    pub const QEMU: Self = Self { bytes: 64 << 20, tokens: 2 << 20, nesting: 1024 };
}

/// A stream of values.
#[derive(Debug)]
pub struct Stream {
    limits: Limits,
    lexer: Lexer,
    held: Held,
}

/// The value under way.
#[derive(Debug, Default)]
struct Held {
    text: Vec<u8>,
    tokens: Vec<Token>,
    /// Where the token under way begins.
    begin: usize,
    curly: i32,
    square: i32,
}

impl Stream {
    /// An empty stream.
    pub fn new(limits: Limits) -> Self {
        Self { limits, lexer: Lexer::default(), held: Held::default() }
    }

    /// Takes bytes until a value or an error is complete; answers how many it took, and that. `None`: it took all,
    /// and needs more.
    pub fn feed(&mut self, bytes: &[u8]) -> (usize, Option<Result<Value, Error>>) {
        let mut at = 0;
        while let Some(byte) = bytes.get(at) {
            let fed = self.lexer.feed(*byte);
            at += usize::from(fed.consumed);
            if fed.kept {
                self.held.text.push(*byte);
            }
            if self.held.text.len() >= self.limits.bytes {
                self.held = Held::default();
                self.lexer.give_up();
                return (at, Some(Err(Error::new("JSON token size limit exceeded"))));
            }
            let outcome = fed.token.and_then(|kind| self.held.token(kind, self.limits));
            if let Some(outcome) = outcome {
                // A large value leaves no large buffers behind.
                self.held = Held::default();
                return (at, Some(outcome));
            }
        }
        (at, None)
    }

    /// No more bytes come: the value or the error that they end with, if they end with one.
    pub fn end(mut self) -> Option<Result<Value, Error>> {
        // White space ends what is under way, but for a string, which would go on.
        match self.lexer.feed(b' ').token {
            Some(kind) => {
                if let Some(outcome) = self.held.token(kind, self.limits) {
                    return Some(outcome);
                }
            }
            None if self.held.begin < self.held.text.len() => {
                return Some(Err(stray(&self.held.text[self.held.begin..])));
            }
            None => {}
        }
        (!self.held.tokens.is_empty()).then(|| parser::parse(&self.held.text, &self.held.tokens))
    }

    /// Bytes of memory that are held for the value under way.
    pub fn held(&self) -> usize {
        self.held.text.capacity() + self.held.tokens.capacity() * size_of::<Token>()
    }
}

impl Held {
    /// Takes a token, whose bytes are the last ones of the text; answers a value or an error that it completes.
    fn token(&mut self, kind: Kind, limits: Limits) -> Option<Result<Value, Error>> {
        match kind {
            Kind::LeftCurly => self.curly += 1,
            Kind::RightCurly => self.curly -= 1,
            Kind::LeftSquare => self.square += 1,
            Kind::RightSquare => self.square -= 1,
            Kind::Error => return Some(Err(stray(&self.text[self.begin..]))),
            _ => {}
        }
        if self.tokens.len() >= limits.tokens {
            return Some(Err(Error::new("JSON token count limit exceeded")));
        }
        if self.curly + self.square > limits.nesting {
            return Some(Err(Error::new("JSON nesting depth limit exceeded")));
        }
        self.tokens.push(Token { kind, begin: self.begin, end: self.text.len() });
        self.begin = self.text.len();
        let open = (self.curly > 0 || self.square > 0) && self.curly >= 0 && self.square >= 0;
        (!open).then(|| parser::parse(&self.text, &self.tokens))
    }
}

/// Garbage, shown up to a zero byte.
fn stray(bytes: &[u8]) -> Error {
    let shown = bytes.split(|byte| *byte == 0).next().unwrap_or_default();
    Error::new(format!("JSON parse error, stray '{}'", String::from_utf8_lossy(shown)))
}
