//! Protobuf read by a schema that is data: enough for figures, and no more.

use super::schema::{Field, Kind, Schema};
use crate::output::json::{Object, array, string};
use wharf_messages::{Answer, Refusal};

/// Messages within messages; figures have three levels.
const DEPTH_MAX: usize = 8;

/// A decoded message: its fields in the schema's order.
#[derive(Debug)]
pub struct Message {
    schema: &'static Schema,
    values: Vec<Vec<Value>>,
}

#[derive(Debug)]
enum Value {
    Number(u64),
    Text(String),
    Message(Message),
}

impl Message {
    /// Decodes a message.
    ///
    /// # Errors
    /// `InvalidArgument` for bytes that are no such message.
    pub fn decode(schema: &'static Schema, bytes: &[u8]) -> Answer<Self> {
        Self::decode_at(schema, bytes, 0)
    }

    fn decode_at(schema: &'static Schema, mut bytes: &[u8], depth: usize) -> Answer<Self> {
        let bad = || Refusal::invalid(format!("damaged metrics: {} is not a valid message", schema.name));
        if depth > DEPTH_MAX {
            return Err(bad());
        }
        let mut values: Vec<Vec<Value>> = schema.fields.iter().map(|_| Vec::new()).collect();
        while !bytes.is_empty() {
            let tag = varint(&mut bytes).ok_or_else(bad)?;
            let place = schema.fields.iter().position(|field| u64::from(field.number) == tag >> 3);
            match (tag & 7, place.map(|place| (place, schema.fields[place].kind))) {
                (0, Some((place, Kind::Number | Kind::Numbers))) => {
                    values[place].push(Value::Number(varint(&mut bytes).ok_or_else(bad)?));
                }
                (0, _) => {
                    varint(&mut bytes).ok_or_else(bad)?;
                }
                (2, known) => {
                    let length = varint(&mut bytes).and_then(|n| usize::try_from(n).ok());
                    let (mut body, rest) = length.and_then(|n| bytes.split_at_checked(n)).ok_or_else(bad)?;
                    bytes = rest;
                    match known {
                        Some((place, Kind::Text)) => {
                            values[place].push(Value::Text(String::from_utf8(body.to_vec()).map_err(|_| bad())?));
                        }
                        Some((place, Kind::Message(inner) | Kind::Messages(inner))) => {
                            values[place].push(Value::Message(Self::decode_at(inner, body, depth + 1)?));
                        }
                        Some((place, Kind::Numbers)) => {
                            while !body.is_empty() {
                                values[place].push(Value::Number(varint(&mut body).ok_or_else(bad)?));
                            }
                        }
                        Some((_, Kind::Number)) | None => {}
                    }
                }
                (1, _) => bytes = bytes.get(8..).ok_or_else(bad)?,
                (5, _) => bytes = bytes.get(4..).ok_or_else(bad)?,
                _ => return Err(bad()),
            }
        }
        Ok(Self { schema, values })
    }

    /// The figure at a path, as `ctr`'s table shows it. None if the message around it is absent; zero if only it is.
    #[must_use]
    pub fn figure(&self, path: &[&str]) -> Option<String> {
        let (first, rest) = path.split_first()?;
        let place = self.schema.fields.iter().position(|field| field.name == *first)?;
        let values = &self.values[place];
        match (self.schema.fields[place].kind, values.last()) {
            (Kind::Message(_), Some(Value::Message(inner))) => inner.figure(rest),
            (Kind::Number, Some(Value::Number(number))) => Some(number.to_string()),
            (Kind::Number, None) => Some("0".to_owned()),
            (Kind::Numbers, _) => {
                let numbers = values.iter().map(Value::json).collect::<Vec<_>>();
                Some(format!("[{}]", numbers.join(" ")))
            }
            _ => None,
        }
    }

    /// The message as JSON, without what is zero or absent.
    #[must_use]
    pub fn json(&self) -> String {
        let fields = self.schema.fields.iter().zip(&self.values);
        fields.fold(Object::new(), |object, (field, values)| add(object, field, values)).finish()
    }
}

fn add(object: Object, field: &Field, values: &[Value]) -> Object {
    match (field.kind, values.last()) {
        (_, None) | (Kind::Number, Some(Value::Number(0))) => object,
        (Kind::Numbers | Kind::Messages(_), _) => object.raw(field.name, &array(values.iter().map(Value::json))),
        (_, Some(value)) => object.raw(field.name, &value.json()),
    }
}

impl Value {
    fn json(&self) -> String {
        match self {
            Self::Number(number) => number.to_string(),
            Self::Text(text) => string(text),
            Self::Message(message) => message.json(),
        }
    }
}

/// Reads a varint of at most ten bytes.
fn varint(bytes: &mut &[u8]) -> Option<u64> {
    let mut value = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        value |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}
