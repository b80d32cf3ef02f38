//! Encodes values in postcard's format, with errors in the type's own words.
//!
//! Postcard drops the text of a `custom` error. So only leaves (numbers, strings, lengths, tags) go
//! through postcard here. [`Ser`] and [`De`] themselves walk a value that contains other values.
//! The error of a type thus reaches the caller without ever being a [`postcard::Error`].

use std::fmt::{self, Display, Write};

use postcard::Error as PostcardError;
use postcard::de_flavors::Slice;
use postcard::ser_flavors::Flavor;
use serde::de::value::U32Deserializer;
use serde::de::{DeserializeSeed, IntoDeserializer, Visitor};
use serde::{Deserialize, Serialize, Serializer, de, ser};

use super::Sink;

/// Maximum number of levels that decoded values may nest. Without a maximum, hostile bytes could
/// overflow the stack.
const MAX_DEPTH: u32 = 256;

/// Maximum number of levels that decoded values may nest inside a [`Deep`](super::Deep).
pub(super) const MAX_DEEP_DEPTH: u32 = 100_000;

/// Free stack in bytes that one level of a deep value may use. If less is free, the next level gets
/// a new piece of stack.
const RED_ZONE_BYTES: usize = 512 << 10;

/// Size of a new piece of stack, in bytes. Only the pages that are used take memory.
const STACK_BYTES: usize = 8 << 20;

/// Number of elements that one decode accepts in addition to one for each byte. Some elements take
/// no byte (`Vec<()>`), and nothing else would limit their number.
const MAX_EMPTY_ELEMENTS: usize = 1 << 16;

/// Tells why a value could not be encoded or decoded, in the words of serde or of the type.
#[derive(Debug)]
pub(crate) struct CodecError(Box<str>);

type Result<T, E = CodecError> = std::result::Result<T, E>;
type Name = &'static str;
type Names = &'static [Name];

impl Display for CodecError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for CodecError {}

macro_rules! keep_text {
    ($($side:ident)*) => {$(
        impl $side::Error for CodecError {
            #[cold]
            fn custom<T: Display>(text: T) -> Self {
                CodecError(text.to_string().into())
            }
        }
    )*};
}

keep_text! { ser de }

impl CodecError {
    #[cold]
    #[inline(never)]
    fn new(text: &str) -> Self {
        CodecError(text.into())
    }
}

impl From<PostcardError> for CodecError {
    #[cold]
    #[inline(never)]
    fn from(error: PostcardError) -> Self {
        CodecError::new(match error {
            PostcardError::DeserializeUnexpectedEnd => "the data end too early",
            PostcardError::DeserializeBadVarint => "a number in the data is too big for its type",
            PostcardError::DeserializeBadBool => "a bool in the data is neither 0 nor 1",
            PostcardError::DeserializeBadOption => {
                "the tag of an option in the data is neither 0 nor 1"
            }
            PostcardError::DeserializeBadChar => "a char in the data is not a Unicode character",
            PostcardError::DeserializeBadUtf8 => "a string in the data is not UTF-8",
            PostcardError::CollectStrError => "the type's own Display failed",
            PostcardError::SerializeSeqLengthUnknown => {
                "the type does not know how many elements it has (serde's attribute flatten, an \
                 iterator), which this encoding needs first: wrap it in proc_core::Described"
            }
            PostcardError::WontImplement => {
                "the type asks for a self-describing format (serde_json::Value and serde's \
                 attributes tag, untagged and flatten do), which this encoding is not: wrap it in \
                 proc_core::Described"
            }
            PostcardError::SerializeBufferFull => "there is not enough memory for the value",
            other => return CodecError(format!("postcard refused it: {other}").into()),
        })
    }
}

/// Appends the encoding of `value` to `out`. After an error, `out` is as long as before, so that
/// half a value is never sent.
#[inline]
pub(crate) fn encode_into<T: Serialize + ?Sized>(value: &T, out: &mut Sink) -> Result<()> {
    let before = out.len();
    let output = Out(&mut *out);
    let done = value.serialize(&mut Ser::<false>(postcard::Serializer { output }));
    if done.is_err() {
        out.truncate(before);
    }
    done
}

/// Decodes a value from the front of `bytes`, and returns it with the bytes that are left over.
/// `bytes` may be anything: their length and the type bound the time and the memory that decoding
/// takes.
#[inline]
pub(crate) fn decode<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<(T, &'de [u8])> {
    let mut reader = Reader::new(bytes);
    let from = &mut reader;
    let value = T::deserialize(De::<false> { from, levels: MAX_DEPTH })?;
    Ok((value, reader.plain.finalize()?))
}

/// Tells that the data go on after the value.
pub(super) fn left_over(len: usize) -> String {
    format!("the data have {len} bytes more than the value")
}

/// Appends the encoding of `value` to `out`, on a stack that grows.
pub(super) fn encode_deep<T: Serialize + ?Sized>(value: &T, out: &mut Sink) -> Result<()> {
    let output = Out(out);
    value.serialize(&mut Ser::<true>(postcard::Serializer { output }))
}

/// Like [`decode`], for a value of up to [`MAX_DEEP_DEPTH`] levels, on a stack that grows.
pub(super) fn decode_deep<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> Result<(T, &'de [u8])> {
    let mut reader = Reader::new(bytes);
    let from = &mut reader;
    let value = T::deserialize(De::<true> { from, levels: MAX_DEEP_DEPTH })?;
    Ok((value, reader.plain.finalize()?))
}

/// Goes down by one level. If the value is `DEEP` and little stack is left, the level gets a new
/// piece of stack.
macro_rules! level {
    ($run:expr) => {
        if DEEP { stacker::maybe_grow(RED_ZONE_BYTES, STACK_BYTES, || $run) } else { $run }
    };
}

/// Wraps postcard's serializer, with [`CodecError`] as its error.
struct Ser<'a, const DEEP: bool>(postcard::Serializer<Out<'a>>);

/// Passes the caller's sink to postcard, which takes its output by value.
struct Out<'a>(&'a mut Sink);

impl Flavor for Out<'_> {
    type Output = ();

    #[inline]
    fn try_push(&mut self, byte: u8) -> postcard::Result<()> {
        if self.0.len() == self.0.capacity() {
            self.0.try_grow(1)?;
        }
        self.0.push(byte);
        Ok(())
    }

    #[inline]
    fn try_extend(&mut self, bytes: &[u8]) -> postcard::Result<()> {
        self.0.append(bytes)
    }

    fn finalize(self) -> postcard::Result<()> {
        Ok(())
    }
}

/// Passes to postcard each call whose data contain no other value: a leaf, the start of a compound,
/// or a tag.
macro_rules! pass {
    ($me:ident $($call:ident($($arg:ident: $ty:ty),*);)*) => {$(
        #[inline]
        fn $call($me, $($arg: $ty),*) -> Result<()> {
            Ok($me.0.$call($($arg),*)?)
        }
    )*};
    ($me:ident $($call:ident($($arg:ident: $ty:ty),*) -> $compound:ident;)*) => {$(
        type $compound = Self;
        #[inline]
        fn $call($me, $($arg: $ty),*) -> Result<Self> {
            $me.0.$call($($arg),*)?;
            Ok($me)
        }
    )*};
    ($me:ident $($call:ident($($arg:ident: $ty:ty),*), $value:ident => $tag:expr;)*) => {$(
        #[inline]
        fn $call<T: Serialize + ?Sized>($me, $($arg: $ty,)* $value: &T) -> Result<()> {
            $tag?;
            level!($value.serialize($me))
        }
    )*};
}

impl<const DEEP: bool> Serializer for &mut Ser<'_, DEEP> {
    type Ok = ();
    type Error = CodecError;

    pass! { self
        serialize_bool(v: bool); serialize_char(v: char);
        serialize_f32(v: f32); serialize_f64(v: f64);
        serialize_i8(v: i8); serialize_i16(v: i16); serialize_i32(v: i32); serialize_i64(v: i64);
        serialize_u8(v: u8); serialize_u16(v: u16); serialize_u32(v: u32);
        serialize_i128(v: i128); serialize_u128(v: u128);
        serialize_str(v: &str);
        serialize_none(); serialize_unit(); serialize_unit_struct(name: Name);
        serialize_unit_variant(name: Name, index: u32, variant: Name);
    }

    pass! { self
        serialize_seq(len: Option<usize>) -> SerializeSeq;
        serialize_map(len: Option<usize>) -> SerializeMap;
        serialize_tuple(len: usize) -> SerializeTuple;
        serialize_tuple_struct(name: Name, len: usize) -> SerializeTupleStruct;
        serialize_struct(name: Name, len: usize) -> SerializeStruct;
        serialize_tuple_variant(name: Name, index: u32, variant: Name, len: usize)
            -> SerializeTupleVariant;
        serialize_struct_variant(name: Name, index: u32, variant: Name, len: usize)
            -> SerializeStructVariant;
    }

    // A unit has no bytes, so `&()` writes the tag alone.
    pass! { self
        serialize_some(), value => self.0.serialize_some(&());
        serialize_newtype_struct(name: Name), value => self.0.serialize_newtype_struct(name, &());
        serialize_newtype_variant(name: Name, index: u32, variant: Name), value =>
            self.0.serialize_newtype_variant(name, index, variant, &());
    }

    /// Notes a 0, which may be a channel end: a channel end is written as a `usize`, its index
    /// among the channel ends of the value.
    #[inline]
    fn serialize_u64(self, v: u64) -> Result<()> {
        if v == 0 {
            self.0.output.0.note_possible_handle();
        }
        Ok(self.0.serialize_u64(v)?)
    }

    /// Notes a zero byte: the bytes may be a value with channel ends that was encoded by other
    /// means.
    #[inline]
    fn serialize_bytes(self, v: &[u8]) -> Result<()> {
        if v.contains(&0) {
            self.0.output.0.note_possible_handle();
        }
        Ok(self.0.serialize_bytes(v)?)
    }

    /// Formats the value once. Postcard would format it twice, the first time to learn the length.
    #[inline]
    fn collect_str<T: Display + ?Sized>(self, value: &T) -> Result<()> {
        let mut text = String::new();
        write!(text, "{value}").map_err(|_| PostcardError::CollectStrError)?;
        self.serialize_str(&text)
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}

/// Writes the parts of a compound one after another: postcard puts nothing between them.
macro_rules! compounds {
    ($($compound:ident { $($call:ident($($key:ident)?)),+ $(; $skip:ident)? })*) => {$(
        impl<const DEEP: bool> ser::$compound for &mut Ser<'_, DEEP> {
            type Ok = ();
            type Error = CodecError;
            $(#[inline]
            fn $call<T: Serialize + ?Sized>(&mut self, $($key: Name,)? value: &T) -> Result<()> {
                level!(value.serialize(&mut **self))
            })+
            $(#[cold]
            fn $skip(&mut self, field: Name) -> Result<()> {
                Err(CodecError(
                    format!(
                        "the field {field} is left out (serde's attribute skip_serializing_if), \
                         which the reader of this encoding cannot see: wrap the type in \
                         proc_core::Described"
                    )
                    .into(),
                ))
            })?
            #[inline]
            fn end(self) -> Result<()> {
                Ok(())
            }
        }
    )*};
}

compounds! {
    SerializeSeq { serialize_element() }
    SerializeTuple { serialize_element() }
    SerializeTupleStruct { serialize_field() }
    SerializeTupleVariant { serialize_field() }
    SerializeMap { serialize_key(), serialize_value() }
    SerializeStruct { serialize_field(_key); skip_field }
    SerializeStructVariant { serialize_field(_key); skip_field }
}

/// Reads the data of one decode.
struct Reader<'de> {
    plain: postcard::Deserializer<'de, Slice<'de>>,
    /// Number of elements that the data may still announce. Each element that takes any bytes
    /// starts with a byte of its own.
    elements_left: usize,
}

impl<'de> Reader<'de> {
    #[inline]
    fn new(bytes: &'de [u8]) -> Self {
        let elements_left = bytes.len().saturating_add(MAX_EMPTY_ELEMENTS);
        Reader { plain: postcard::Deserializer::from_bytes(bytes), elements_left }
    }

    #[inline]
    fn take<T: Deserialize<'de>>(&mut self) -> Result<T> {
        Ok(T::deserialize(&mut self.plain)?)
    }
}

/// Wraps postcard's deserializer, with [`CodecError`] as its error.
struct De<'a, 'de, const DEEP: bool> {
    from: &'a mut Reader<'de>,
    levels: u32,
}

impl<'a, 'de, const DEEP: bool> De<'a, 'de, DEEP> {
    /// Goes down by one level.
    #[inline]
    fn below(self) -> Result<Self> {
        let levels = self.levels.checked_sub(1);
        let levels = levels.ok_or_else(|| too_deep(DEEP))?;
        Ok(De { levels, ..self })
    }

    #[inline]
    fn fields(self, left: usize) -> Parts<'a, 'de, DEEP> {
        Parts { de: self, left, has_hint: true }
    }

    #[inline]
    fn elements(self) -> Result<Parts<'a, 'de, DEEP>> {
        let left: u64 = self.from.take()?;
        let left = usize::try_from(left).map_err(|_| PostcardError::DeserializeBadVarint)?;
        let others = self.from.elements_left.checked_sub(left);
        let others =
            others.ok_or_else(|| CodecError::new("a length is more than the data hold"))?;
        self.from.elements_left = others;
        Ok(Parts { de: self, left, has_hint: others >= MAX_EMPTY_ELEMENTS })
    }
}

#[cold]
#[inline(never)]
fn too_deep(is_deep: bool) -> CodecError {
    let (max, advice) = match is_deep {
        false => (MAX_DEPTH, "wrap the deep part in proc_core::Deep, which carries 100000 levels"),
        true => (MAX_DEEP_DEPTH, "no more are carried; send a Vec, with indices in place of boxes"),
    };
    CodecError(format!("values nest deeper than {max} levels: {advice}").into())
}

/// Reads leaves through postcard. Gives each leaf, or access to the parts of a compound, to the
/// visitor.
macro_rules! visits {
    ($($call:ident: $ty:ty => $visit:ident;)*) => {$(
        #[inline]
        fn $call<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value> {
            visitor.$visit(self.from.take::<$ty>()?)
        }
    )*};
    ($me:ident $visitor:ident $($call:ident($($arg:ident: $ty:ty),*) => $body:expr;)*) => {$(
        #[inline]
        fn $call<V: Visitor<'de>>($me, $($arg: $ty,)* $visitor: V) -> Result<V::Value> {
            $body
        }
    )*};
}

impl<'de, const DEEP: bool> de::Deserializer<'de> for De<'_, 'de, DEEP> {
    type Error = CodecError;

    visits! {
        deserialize_bool: bool => visit_bool; deserialize_char: char => visit_char;
        deserialize_i8: i8 => visit_i8; deserialize_u8: u8 => visit_u8;
        deserialize_i16: i16 => visit_i16; deserialize_u16: u16 => visit_u16;
        deserialize_i32: i32 => visit_i32; deserialize_u32: u32 => visit_u32;
        deserialize_i64: i64 => visit_i64; deserialize_u64: u64 => visit_u64;
        deserialize_i128: i128 => visit_i128; deserialize_u128: u128 => visit_u128;
        deserialize_f32: f32 => visit_f32; deserialize_f64: f64 => visit_f64;
        deserialize_str: &'de str => visit_borrowed_str;
        deserialize_bytes: &'de [u8] => visit_borrowed_bytes;
    }

    visits! { self visitor
        deserialize_string() => {
            let text = self.from.take::<&'de str>()?;
            let mut owned = String::new();
            owned.try_reserve_exact(text.len()).map_err(|_| PostcardError::SerializeBufferFull)?;
            owned.push_str(text);
            visitor.visit_string(owned)
        };
        deserialize_byte_buf() => {
            let bytes = self.from.take::<&'de [u8]>()?;
            let mut owned = Vec::new();
            owned.try_reserve_exact(bytes.len()).map_err(|_| PostcardError::SerializeBufferFull)?;
            owned.extend_from_slice(bytes);
            visitor.visit_byte_buf(owned)
        };
        deserialize_option() => match self.from.take::<Option<()>>()? {
            None => visitor.visit_none(),
            Some(()) => {
                let below = self.below()?;
                level!(visitor.visit_some(below))
            }
        };
        deserialize_unit() => visitor.visit_unit();
        deserialize_unit_struct(_name: Name) => visitor.visit_unit();
        deserialize_newtype_struct(_name: Name) => visitor.visit_newtype_struct(self);
        deserialize_seq() => visitor.visit_seq(self.below()?.elements()?);
        deserialize_map() => visitor.visit_map(self.below()?.elements()?);
        deserialize_tuple(len: usize) => visitor.visit_seq(self.below()?.fields(len));
        deserialize_tuple_struct(_name: Name, len: usize) => self.deserialize_tuple(len, visitor);
        deserialize_struct(_name: Name, fields: Names) =>
            self.deserialize_tuple(fields.len(), visitor);
        deserialize_enum(_name: Name, _names: Names) => visitor.visit_enum(self.below()?);
        deserialize_any() => { drop(visitor); Err(PostcardError::WontImplement.into()) };
        deserialize_identifier() => self.deserialize_any(visitor);
        deserialize_ignored_any() => self.deserialize_any(visitor);
    }

    #[inline]
    fn is_human_readable(&self) -> bool {
        false
    }
}

impl<'de, const DEEP: bool> de::EnumAccess<'de> for De<'_, 'de, DEEP> {
    type Error = CodecError;
    type Variant = Self;

    #[inline]
    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, Self)> {
        let index: U32Deserializer<CodecError> = self.from.take::<u32>()?.into_deserializer();
        Ok((seed.deserialize(index)?, self))
    }
}

impl<'de, const DEEP: bool> de::VariantAccess<'de> for De<'_, 'de, DEEP> {
    type Error = CodecError;

    visits! { self visitor
        tuple_variant(len: usize) => visitor.visit_seq(self.fields(len));
        struct_variant(fields: Names) => visitor.visit_seq(self.fields(fields.len()));
    }

    #[inline]
    fn unit_variant(self) -> Result<()> {
        Ok(())
    }

    #[inline]
    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<S::Value> {
        level!(seed.deserialize(self))
    }
}

/// Remaining parts of a compound. `has_hint` says whether the type gives their number, or there are
/// enough bytes for them. Only then does a visitor get their number, since it reserves memory for
/// so many.
struct Parts<'a, 'de, const DEEP: bool> {
    de: De<'a, 'de, DEEP>,
    left: usize,
    has_hint: bool,
}

impl<'de, const DEEP: bool> Parts<'_, 'de, DEEP> {
    #[inline]
    fn part<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        let (from, levels) = (&mut *self.de.from, self.de.levels);
        level!(seed.deserialize(De::<DEEP> { from, levels }))
    }
}

impl<'de, const DEEP: bool> de::SeqAccess<'de> for Parts<'_, 'de, DEEP> {
    type Error = CodecError;

    #[inline]
    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        if self.left == 0 {
            return Ok(None);
        }
        self.left -= 1;
        self.part(seed).map(Some)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        self.has_hint.then_some(self.left)
    }
}

impl<'de, const DEEP: bool> de::MapAccess<'de> for Parts<'_, 'de, DEEP> {
    type Error = CodecError;

    #[inline]
    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>> {
        de::SeqAccess::next_element_seed(self, seed)
    }

    #[inline]
    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value> {
        self.part(seed)
    }

    #[inline]
    fn size_hint(&self) -> Option<usize> {
        de::SeqAccess::size_hint(self)
    }
}

#[cfg(test)]
mod tests;
