//! Values as they lie in the store, decoded by whoever wants them.

use crate::{Answer, Refusal, codec};
use ::bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use std::{fmt, marker::PhantomData};

/// An encoded `T`, in lists that are long: what passes them on decodes nothing, what shows them has one at a time.
#[derive(Serialize, Deserialize)]
#[serde(transparent)]
pub struct Stored<T> {
    #[serde(with = "crate::bytes::shared")]
    bytes: Bytes,
    #[serde(skip)]
    of: PhantomData<fn() -> T>,
}

impl<T> Stored<T> {
    /// Of its encoding ([`codec::encode`]), which is kept where it lies.
    #[must_use]
    pub const fn new(bytes: Bytes) -> Self {
        Self { bytes, of: PhantomData }
    }

    /// The same, with bytes of its own: what lies in a page of the database keeps it from being used again.
    #[must_use]
    pub fn apart(self) -> Self {
        Self::new(Bytes::copy_from_slice(&self.bytes))
    }
}

impl<T: DeserializeOwned> Stored<T> {
    /// The value, whose fields of bytes are parts of this one's ([`codec::decode_shared`]).
    ///
    /// # Errors
    /// `DataLoss` for what is none.
    pub fn get(&self) -> Answer<T> {
        codec::decode_shared(&self.bytes).map_err(|refusal| Refusal::data_loss(format!("stored: {}", refusal.detail)))
    }
}

impl<T: Serialize> Stored<T> {
    /// Of a value.
    ///
    /// # Errors
    /// As [`codec::encode`].
    pub fn of(value: &T) -> Answer<Self> {
        codec::encode(value).map(|bytes| Self::new(bytes.into()))
    }
}

impl<T> Clone for Stored<T> {
    fn clone(&self) -> Self {
        Self::new(self.bytes.clone())
    }
}

impl<T> fmt::Debug for Stored<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Stored").field(&format_args!("{} bytes", self.bytes.len())).finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Any, RefusalKind};

    #[test]
    fn a_value_is_a_part_of_its_bytes_until_it_is_taken_apart() {
        let any = Any::new(Any::SPEC, vec![7; 100]);
        let bytes = Bytes::from(codec::encode(&any).unwrap());
        let lies_in = |stored: &Stored<Any>| bytes.as_ptr_range().contains(&stored.get().unwrap().value.as_ptr());
        let stored = Stored::<Any>::new(bytes.clone());
        assert!(stored.get().unwrap() == any && lies_in(&stored));
        let apart = stored.apart();
        assert!(apart.get().unwrap() == any && !lies_in(&apart));
    }

    #[test]
    fn it_is_passed_on_as_it_is() {
        let stored = Stored::of(&Any::new("x", vec![1, 2, 3])).unwrap();
        let passed: Vec<Stored<Any>> = codec::decode(&codec::encode(&vec![stored.clone()]).unwrap()).unwrap();
        assert_eq!(passed[0].get().unwrap(), stored.get().unwrap());
        assert_eq!(Stored::<Any>::new(Bytes::from_static(&[9])).get().unwrap_err().kind, RefusalKind::DataLoss);
    }
}
