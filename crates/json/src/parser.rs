//! Tokens to a value.
//!
//! Invariant: the depth of recursion is that of the brackets, which the stream bounds.

use serde_json::{Map, Number, Value};

use super::lexer::Kind;
use super::string;
use crate::Error;

/// A token: what it is, and where its text lies.
#[derive(Clone, Copy, Debug)]
pub(super) struct Token {
    pub(super) kind: Kind,
    pub(super) begin: usize,
    pub(super) end: usize,
}

/// The value that `tokens` make. What follows it is passed over, as QEMU does (there is nothing where brackets match).
pub(super) fn parse(text: &[u8], tokens: &[Token]) -> Result<Value, Error> {
    Parser { text, tokens }.value()
}

struct Parser<'t> {
    text: &'t [u8],
    tokens: &'t [Token],
}

impl<'t> Parser<'t> {
    fn value(&mut self) -> Result<Value, Error> {
        let token = self.next()?;
        let text = &self.text[token.begin..token.end];
        match token.kind {
            Kind::LeftCurly => self.object(),
            Kind::LeftSquare => self.list(),
            Kind::String => string::unquote(text).map(Value::String).map_err(|why| failed(&why)),
            Kind::Integer | Kind::Float => Ok(number(&String::from_utf8_lossy(text))),
            Kind::Keyword => keyword(&String::from_utf8_lossy(text)),
            _ => Err(failed("expecting value")),
        }
    }

    fn object(&mut self) -> Result<Value, Error> {
        let mut map = Map::new();
        if self.skip(Kind::RightCurly) {
            return Ok(Value::Object(map));
        }
        loop {
            let Value::String(key) = self.value()? else {
                return Err(failed("key is not a string in object"));
            };
            if self.next()?.kind != Kind::Colon {
                return Err(failed("missing : in object pair"));
            }
            let value = self.value()?;
            if map.insert(key, value).is_some() {
                return Err(failed("duplicate key"));
            }
            match self.next()?.kind {
                Kind::RightCurly => return Ok(Value::Object(map)),
                Kind::Comma => {}
                _ => return Err(failed("expected separator in dict")),
            }
        }
    }

    fn list(&mut self) -> Result<Value, Error> {
        let mut list = Vec::new();
        if self.skip(Kind::RightSquare) {
            return Ok(Value::Array(list));
        }
        loop {
            list.push(self.value()?);
            match self.next()?.kind {
                Kind::RightSquare => return Ok(Value::Array(list)),
                Kind::Comma => {}
                _ => return Err(failed("expected separator in list")),
            }
        }
    }

    fn next(&mut self) -> Result<&'t Token, Error> {
        let (first, rest) = self.tokens.split_first().ok_or_else(|| failed("premature EOI"))?;
        self.tokens = rest;
        Ok(first)
    }

    fn skip(&mut self, kind: Kind) -> bool {
        let there = self.tokens.first().is_some_and(|token| token.kind == kind);
        if there {
            self.tokens = &self.tokens[1..];
        }
        there
    }
}

fn keyword(text: &str) -> Result<Value, Error> {
    match text {
        "true" => Ok(Value::Bool(true)),
        "false" => Ok(Value::Bool(false)),
        "null" => Ok(Value::Null),
        _ => Err(failed(&format!("invalid keyword '{text}'"))),
    }
}

/// A whole number of 64 bits with or without sign, else the nearest of floating point; what is too large for that
/// becomes its largest.
fn number(text: &str) -> Value {
    let whole = text.parse::<i64>().map(Number::from).or_else(|_| text.parse::<u64>().map(Number::from));
    let float = || text.parse::<f64>().unwrap_or(0.0).clamp(f64::MIN, f64::MAX);
    Value::Number(whole.ok().or_else(|| Number::from_f64(float())).unwrap_or_else(|| Number::from(0)))
}

fn failed(why: &str) -> Error {
    Error::new(format!("JSON parse error, {why}"))
}
