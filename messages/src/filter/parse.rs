//! From text to selectors, as containerd reads it: its tokens, its quoting, its words for what is wrong.

use super::{Selector, Test, compile};
use crate::Refusal;

/// What the scanner finds next.
#[derive(Debug, PartialEq, Eq)]
enum Token<'t> {
    End,
    Field(&'t str),
    Value(&'t str),
    Quoted(&'t str),
    Operator(&'t str),
    Separator,
    /// A character that belongs to nothing.
    Other,
    /// A quoted literal that is none, or a null character: the scanner knows why.
    Illegal,
}

/// Parses a filter that is not empty.
pub(super) fn selectors(text: &str) -> Result<Vec<Selector>, Refusal> {
    let mut parser = Parser { text, position: 0, value_next: false, problem: None };
    let mut selectors = vec![parser.selector()?];
    loop {
        match parser.peek() {
            None => return Ok(selectors),
            Some(',') => {
                parser.scan();
                selectors.push(parser.selector()?);
            }
            Some(other) => return Err(parser.error(parser.position, format_args!("unexpected input: {other}"))),
        }
    }
}

struct Parser<'t> {
    text: &'t str,
    /// Where the next character is.
    position: usize,
    /// Set after an operator: what comes is a value, whatever it looks like.
    value_next: bool,
    /// The first thing that was wrong with the characters themselves.
    problem: Option<&'static str>,
}

impl<'t> Parser<'t> {
    fn selector(&mut self) -> Result<Selector, Refusal> {
        let path = self.path()?;
        if matches!(self.peek(), None | Some(',')) {
            return Ok(Selector { path, test: Test::Present });
        }
        let (at, token) = self.scan();
        let operator = match token {
            Token::Operator(operator @ ("==" | "!=" | "~=")) => operator,
            Token::Operator(other) => return Err(self.error(at, format_args!("unsupported operator {other:?}"))),
            token => return Err(self.wrong(at, &token, r#"expected an operator ("=="|"!="|"~=")"#)),
        };
        let value = self.value(operator == "~=")?;
        let test = match operator {
            "==" => Test::Equal(value),
            "!=" => Test::NotEqual(value),
            _ => Test::Matches(compile(&value)?),
        };
        Ok(Selector { path, test })
    }

    fn path(&mut self) -> Result<Vec<String>, Refusal> {
        let mut path = vec![self.field()?];
        while self.peek() == Some('.') {
            self.scan();
            path.push(self.field()?);
        }
        Ok(path)
    }

    fn field(&mut self) -> Result<String, Refusal> {
        match self.scan() {
            (_, Token::Field(field)) => Ok(field.to_owned()),
            (at, Token::Quoted(literal)) => self.unquote(at, literal, false),
            (at, token) => Err(self.wrong(at, &token, "expected field or quoted")),
        }
    }

    fn value(&mut self, other_quotes: bool) -> Result<String, Refusal> {
        match self.scan() {
            (_, Token::Value(value) | Token::Field(value)) => Ok(value.to_owned()),
            (at, Token::Quoted(literal)) => self.unquote(at, literal, other_quotes),
            (at, token) => Err(self.wrong(at, &token, "expected value or quoted")),
        }
    }

    fn unquote(&self, at: usize, literal: &str, other_quotes: bool) -> Result<String, Refusal> {
        if !other_quotes && !literal.starts_with('"') {
            return Err(self.error(at, format_args!("invalid quote encountered")));
        }
        unquote(literal).ok_or_else(|| self.error(at, format_args!("unquoting failed: quote syntax error")))
    }

    /// The error for a token that does not fit, or for what made it illegal.
    fn wrong(&self, at: usize, token: &Token<'_>, expected: &str) -> Refusal {
        match (token, self.problem) {
            (Token::Illegal, Some(problem)) => self.error(at, format_args!("{problem}")),
            _ => self.error(at, format_args!("{expected}")),
        }
    }

    fn error(&self, at: usize, why: std::fmt::Arguments<'_>) -> Refusal {
        let (before, rest) = self.text.split_at(at.min(self.text.len()));
        let mut after = rest.chars();
        Refusal::invalid(match after.next() {
            Some(here) => format!("filters: parse error: [{before} >|{here}|< {}]: {why}", after.as_str()),
            None => format!("filters: parse error: [{before}]: {why}"),
        })
    }

    fn peek(&self) -> Option<char> {
        self.text[self.position..].chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let next = self.peek()?;
        self.position += next.len_utf8();
        if next == '\0' {
            self.problem.get_or_insert("unexpected null");
        }
        Some(next)
    }

    fn skip_while(&mut self, mut fits: impl FnMut(char) -> bool) {
        while self.peek().is_some_and(&mut fits) {
            self.next();
        }
    }

    /// The next token and where it begins.
    fn scan(&mut self) -> (usize, Token<'t>) {
        self.skip_while(char::is_whitespace);
        let at = self.position;
        let Some(first) = self.next() else { return (at, Token::End) };
        let token = match first {
            '\0' => Token::Illegal,
            '"' | '/' | '|' => {
                if self.skip_quoted(first) {
                    Token::Quoted(&self.text[at..self.position])
                } else {
                    Token::Illegal
                }
            }
            ',' | '.' => {
                self.value_next = false;
                Token::Separator
            }
            '=' | '!' | '~' => {
                self.skip_while(|c| matches!(c, '=' | '!' | '~'));
                self.value_next = true;
                Token::Operator(&self.text[at..self.position])
            }
            _ if self.value_next => {
                self.skip_while(|c| c != ',' && !c.is_whitespace() && !c.is_control());
                self.value_next = false;
                Token::Value(&self.text[at..self.position])
            }
            c if is_field(c) => {
                self.skip_while(is_field);
                Token::Field(&self.text[at..self.position])
            }
            _ => Token::Other,
        };
        (at, token)
    }

    /// Goes to the end of a quoted literal; answers whether it is one.
    fn skip_quoted(&mut self, quote: char) -> bool {
        let mut legal = true;
        loop {
            match self.next() {
                None | Some('\n' | '\0') => {
                    self.problem.get_or_insert("quoted literal not terminated");
                    return false;
                }
                Some('\\') => legal &= self.skip_escape(quote),
                Some(c) if c == quote => return legal,
                Some(_) => {}
            }
        }
    }

    fn skip_escape(&mut self, quote: char) -> bool {
        let (radix, digits) = match self.peek() {
            Some(c) if c == quote || matches!(c, 'a' | 'b' | 'f' | 'n' | 'r' | 't' | 'v' | '\\') => {
                self.next();
                return true;
            }
            Some('0'..='7') => (8, 3),
            Some('x') => (16, 2),
            Some('u') => (16, 4),
            Some('U') => (16, 8),
            _ => {
                self.problem.get_or_insert("illegal escape sequence");
                return false;
            }
        };
        if radix == 16 {
            self.next();
        }
        for _ in 0..digits {
            if !self.peek().is_some_and(|c| c.is_digit(radix)) {
                self.problem.get_or_insert("illegal numeric escape sequence");
                return false;
            }
            self.next();
        }
        true
    }
}

fn is_field(c: char) -> bool {
    c == '_' || c.is_ascii_alphanumeric()
}

/// What a quoted literal says. None for an escape that names no character, and for bytes that are no text.
///
/// # Spec
/// Go `strconv.Unquote`, with `/` and `|` treated as the double quote is.
fn unquote(literal: &str) -> Option<String> {
    let quote = literal.chars().next()?;
    let inner = literal.strip_prefix(quote)?.strip_suffix(quote)?;
    let mut bytes = Vec::with_capacity(inner.len());
    let mut rest = inner.chars();
    while let Some(c) = rest.next() {
        if c != '\\' {
            push(&mut bytes, c);
            continue;
        }
        match rest.next()? {
            'a' => bytes.push(0x07),
            'b' => bytes.push(0x08),
            'f' => bytes.push(0x0c),
            'n' => bytes.push(b'\n'),
            'r' => bytes.push(b'\r'),
            't' => bytes.push(b'\t'),
            'v' => bytes.push(0x0b),
            '\\' => bytes.push(b'\\'),
            // One byte, not one character.
            'x' => bytes.push(u8::try_from(number(&mut rest, 2, 16, 0)?).ok()?),
            digit @ '0'..='7' => bytes.push(u8::try_from(number(&mut rest, 2, 8, digit.to_digit(8)?)?).ok()?),
            kind @ ('u' | 'U') => {
                let value = number(&mut rest, if kind == 'u' { 4 } else { 8 }, 16, 0)?;
                let surrogate = (0xd800..0xe000).contains(&value);
                push(&mut bytes, if surrogate { char::REPLACEMENT_CHARACTER } else { char::from_u32(value)? });
            }
            c if c == quote => push(&mut bytes, c),
            _ => return None,
        }
    }
    String::from_utf8(bytes).ok()
}

fn push(bytes: &mut Vec<u8>, c: char) {
    bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes());
}

fn number(rest: &mut std::str::Chars<'_>, digits: usize, radix: u32, first: u32) -> Option<u32> {
    let mut value = first;
    for _ in 0..digits {
        value = value.checked_mul(radix)?.checked_add(rest.next()?.to_digit(radix)?)?;
    }
    Some(value)
}
