//! Values that cannot be encoded or decoded.

use serde::{Deserialize, Deserializer, Serialize, Serializer, de, ser};

/// A value that can cross between processes, or fails as its number says.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Odd(pub(crate) u32);

pub(crate) const UNWRITABLE: u32 = 1;
pub(crate) const UNREADABLE: u32 = 3;
pub(crate) const PANICS_WHEN_WRITTEN: u32 = 4;
pub(crate) const PANICS_WHEN_READ: u32 = 6;

impl Serialize for Odd {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            UNWRITABLE => Err(ser::Error::custom("odd value 1 stays at home")),
            PANICS_WHEN_WRITTEN => panic!("odd value 4 makes its writer panic"),
            number => number.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Odd {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Odd, D::Error> {
        match u32::deserialize(deserializer)? {
            UNREADABLE => Err(de::Error::custom("odd value 3 is not recognized")),
            PANICS_WHEN_READ => panic!("odd value 6 makes its reader panic"),
            number => Ok(Odd(number)),
        }
    }
}
