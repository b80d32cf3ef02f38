//! Tests of the self-describing encoding.

use super::*;
use serde_json::json;
use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;
use std::time::Duration;

use proptest::prelude::*;
use serde_bytes::ByteBuf;

use crate::wire::{Deep, codec};

fn crosses<T: Serialize + DeserializeOwned + PartialEq + Debug>(value: &T) {
    let bytes = encode(value).unwrap();
    assert_eq!(decode::<T>(&bytes).unwrap(), *value, "{bytes:x?}");
}

fn refusal<T: DeserializeOwned>(bytes: &[u8]) -> String {
    match decode::<T>(bytes) {
        Ok(_) => panic!("it decodes"),
        Err(error) => error,
    }
}

#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Ip(IpAddr),
    Number(u64),
    Negative(i64),
    Float(f64),
    Text(String),
    Bytes(ByteBuf),
    List(Vec<Untagged>),
    Map(BTreeMap<u32, Untagged>),
    Maybe { maybe: Option<u8> },
}

#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
#[serde(tag = "kind")]
enum Tagged {
    Struct { x: u32, y: Option<u8> },
    Unit,
    New(Inner),
    Keys { by_number: BTreeMap<i16, bool> },
}

#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
#[serde(tag = "kind", content = "content")]
enum Adjacent {
    Struct { x: u32 },
    Unit,
    New(Inner),
    Tuple(u8, Vec<()>),
}

#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
enum External {
    Unit,
    New(Box<External>),
    Tuple(u8, Option<bool>),
    Struct { maybe: Option<u8> },
}

#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
struct Inner {
    number: i64,
    bytes: ByteBuf,
    external: External,
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    sparse: Vec<u8>,
}

#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
struct Flat {
    name: String,
    #[serde(flatten)]
    inner: Inner,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

#[derive(Debug, PartialEq, Clone, Copy, Serialize, Deserialize)]
struct Unit;

fn inner() -> Inner {
    Inner {
        number: i64::MIN,
        bytes: ByteBuf::from([0, 255]),
        external: External::New(Box::new(External::Tuple(1, Some(true)))),
        sparse: Vec::new(),
    }
}

#[test]
fn values_of_every_kind_cross() {
    crosses(&(u64::MAX, i64::MIN, u128::MAX, i128::MIN, i128::from(u64::MAX) + 1));
    crosses(&(i128::from(i64::MIN) - 1, -1_i128, 7_u128, u8::MAX, i8::MIN));
    crosses(&('ß', "text".to_owned(), true, ByteBuf::from([0, 1, 255]), Vec::<u8>::new()));
    crosses(&(f32::INFINITY, f64::NEG_INFINITY, f32::MIN_POSITIVE, 1e-320_f64));
    crosses(&(-0.0_f64, -0.0_f32));
    crosses(&vec![External::Unit, External::New(Box::new(External::Struct { maybe: None }))]);
    crosses(&BTreeMap::from([(u64::MAX, 1), (3, 2)]));
    crosses(&BTreeMap::from([((1_u8, 'c'), Some(2_u8))]));
    crosses(&BTreeMap::from([(None, 1), (Some(3_u8), 4)]));
    crosses(&BTreeMap::from([((), 1)]));
    crosses(&BTreeMap::from([(vec![1.5_f32.to_bits()], Unit)]));
    crosses(&BTreeMap::from([(true, Duration::new(1, 2))]));
    crosses(&(IpAddr::from([1, 2, 3, 4]), std::path::PathBuf::from("/tmp"), Ok::<u8, String>(1)));
}

#[test]
fn floats_keep_their_bits() {
    for bits in [0x7ff8_0000_0000_1234, 0xfff0_0000_0000_0001, 0x8000_0000_0000_0000] {
        let back: f64 = decode(&encode(&f64::from_bits(bits)).unwrap()).unwrap();
        assert_eq!(back.to_bits(), bits);
    }
    for bits in [0x7fc0_1234, 0xff80_0001] {
        let back: f32 = decode(&encode(&f32::from_bits(bits)).unwrap()).unwrap();
        assert_eq!(back.to_bits(), bits);
    }
}

#[test]
fn some_of_nothing_becomes_nothing() {
    fn crossed<T: Serialize + DeserializeOwned>(value: T) -> T {
        decode(&encode(&value).unwrap()).unwrap()
    }
    assert_eq!(crossed(Some(())), None);
    assert_eq!(crossed(Some(None::<u8>)), None);
    assert_eq!(crossed(Some(Some(None::<u8>))), None);
    assert_eq!(crossed(Some(serde_json::Value::Null)), None);
    assert_eq!(crossed(Some(Some(3_u8))), Some(Some(3)));
    assert_eq!(crossed(Some(Unit)), Some(Unit));
    assert_eq!(crossed(None::<Unit>), None);
}

#[test]
fn attributes_of_serde_cross() {
    for maybe in [None, Some(7)] {
        crosses(&Untagged::Maybe { maybe });
        crosses(&External::Struct { maybe });
    }
    let list = vec![
        // As in all formats, this type of std calls for text inside serde's buffers.
        Untagged::Ip([1, 2, 3, 4].into()),
        Untagged::Ip([7; 16].into()),
        Untagged::Number(u64::MAX),
        Untagged::Negative(-3),
        Untagged::Float(f64::INFINITY),
        Untagged::Text("text".into()),
        Untagged::Bytes(ByteBuf::from([1, 200])),
    ];
    let map = BTreeMap::from([(0, Untagged::Number(0)), (7, Untagged::List(list.clone()))]);
    crosses(&Untagged::List(list));
    crosses(&Untagged::Map(map));
    crosses(&[Tagged::Struct { x: 1, y: None }, Tagged::Unit, Tagged::New(inner())]);
    crosses(&Tagged::Keys { by_number: BTreeMap::from([(-3, true), (4, false)]) });
    crosses(&[Adjacent::Struct { x: 1 }, Adjacent::Unit, Adjacent::New(inner())]);
    crosses(&Adjacent::Tuple(1, vec![(), ()]));
    let rest = BTreeMap::from([("rest".into(), json!([1, null, -1, 1.5, { "a": "b" }]))]);
    crosses(&Flat { name: "name".into(), inner: inner(), rest });
    let full = Inner { sparse: vec![1, 2], ..inner() };
    crosses(&Flat { name: "name".into(), inner: full, rest: BTreeMap::new() });
    crosses(&json!({ "a": [1, -1, null, true, 1.25, "s", u64::MAX, i64::MIN, { "b": {} }] }));
}

/// serde reads a value that is `tag`, `untagged` or `flatten` through buffers of its own. They give
/// out no integers of 128 bits.
#[test]
fn integers_of_128_bits_are_refused_where_serde_buffers_them() {
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Wide {
        Struct { wide: i128 },
    }
    let bytes = encode(&Wide::Struct { wide: -5 }).unwrap();
    assert_eq!(refusal::<Wide>(&bytes), "i128 is not supported");
}

/// Value of any kind that [`arbitrary`] makes.
#[derive(Debug, PartialEq, Clone, Serialize, Deserialize)]
enum Any {
    Unit,
    Bool(bool),
    Signed(i64),
    Wide(i128, u128),
    Float(u32, char),
    Text(String),
    Bytes(ByteBuf),
    Maybe(Option<Box<Any>>),
    Seq(Vec<Any>),
    Map(BTreeMap<u16, Any>),
    Struct { first: Box<Any>, second: (u8, Box<Any>) },
    Untagged(Untagged),
    Tagged(Tagged),
    Adjacent(Adjacent),
    Flat(Box<Flat>),
    Described(Box<Described<Any>>),
    Deep(Box<Deep<Any>>),
}

fn json() -> impl Strategy<Value = serde_json::Value> {
    let leaf = prop_oneof![
        Just(json!(null)),
        any::<bool>().prop_map(|v| json!(v)),
        any::<i64>().prop_map(|v| json!(v)),
        any::<u64>().prop_map(|v| json!(v)),
        any::<i32>().prop_map(|v| json!(f64::from(v) / 8.0)),
        any::<String>().prop_map(|v| json!(v)),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(|v| json!(v)),
            prop::collection::btree_map(any::<String>(), inner, 0..4).prop_map(|v| json!(v)),
        ]
    })
}

fn untagged() -> impl Strategy<Value = Untagged> {
    let leaf = prop_oneof![
        any::<IpAddr>().prop_map(Untagged::Ip),
        any::<u64>().prop_map(Untagged::Number),
        (i64::MIN..0).prop_map(Untagged::Negative),
        any::<i32>().prop_map(|v| Untagged::Float(f64::from(v) / 8.0)),
        any::<String>().prop_map(|text| Untagged::Text(format!("text {text}"))),
        // These are not UTF-8, or else they would be taken for text.
        any::<u8>().prop_map(|byte| Untagged::Bytes(ByteBuf::from([byte, 0xff]))),
        any::<Option<u8>>().prop_map(|maybe| Untagged::Maybe { maybe }),
    ];
    leaf.prop_recursive(4, 30, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 1..4).prop_map(|mut list| {
                list.push(Untagged::Negative(-1)); // or else a list of numbers is a list of bytes
                Untagged::List(list)
            }),
            prop::collection::btree_map(any::<u32>(), inner, 1..4).prop_map(Untagged::Map),
        ]
    })
}

fn inners() -> impl Strategy<Value = Inner> {
    (any::<i64>(), any::<Vec<u8>>(), any::<Vec<u8>>(), any::<Option<bool>>()).prop_map(
        |(number, bytes, sparse, maybe)| {
            let external = External::New(Box::new(External::Tuple(1, maybe)));
            Inner { number, bytes: ByteBuf::from(bytes), external, sparse }
        },
    )
}

fn arbitrary() -> impl Strategy<Value = Any> {
    let tagged = prop_oneof![
        any::<(u32, Option<u8>)>().prop_map(|(x, y)| Tagged::Struct { x, y }),
        Just(Tagged::Unit),
        inners().prop_map(Tagged::New),
        any::<BTreeMap<i16, bool>>().prop_map(|by_number| Tagged::Keys { by_number }),
    ];
    let adjacent = prop_oneof![
        any::<u32>().prop_map(|x| Adjacent::Struct { x }),
        Just(Adjacent::Unit),
        inners().prop_map(Adjacent::New),
        (0..4_usize).prop_map(|len| Adjacent::Tuple(1, vec![(); len])),
    ];
    let flat = (any::<String>(), inners(), json()).prop_map(|(name, inner, value)| Flat {
        name,
        inner,
        rest: BTreeMap::from([("rest".to_owned(), value)]),
    });
    let leaf = prop_oneof![
        Just(Any::Unit),
        any::<bool>().prop_map(Any::Bool),
        any::<i64>().prop_map(Any::Signed),
        any::<(i128, u128)>().prop_map(|(i, u)| Any::Wide(i, u)),
        any::<(u32, char)>().prop_map(|(bits, c)| Any::Float(bits, c)),
        any::<String>().prop_map(Any::Text),
        any::<Vec<u8>>().prop_map(|bytes| Any::Bytes(ByteBuf::from(bytes))),
        untagged().prop_map(Any::Untagged),
        tagged.prop_map(Any::Tagged),
        adjacent.prop_map(Any::Adjacent),
        flat.prop_map(|flat| Any::Flat(Box::new(flat))),
    ];
    leaf.prop_recursive(5, 60, 5, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        prop_oneof![
            prop::option::of(boxed.clone()).prop_map(Any::Maybe),
            prop::collection::vec(inner.clone(), 0..5).prop_map(Any::Seq),
            prop::collection::btree_map(any::<u16>(), inner.clone(), 0..5).prop_map(Any::Map),
            (boxed.clone(), any::<u8>(), boxed)
                .prop_map(|(first, n, second)| Any::Struct { first, second: (n, second) }),
            inner.clone().prop_map(|value| Any::Described(Box::new(Described(value)))),
            inner.prop_map(|value| Any::Deep(Box::new(Deep(value)))),
        ]
    })
}

proptest! {
    #[test]
    fn decode_returns_what_was_encoded(value in arbitrary(), json in json()) {
        prop_assert_eq!(&decode::<Any>(&encode(&value).unwrap()).unwrap(), &value);
        prop_assert_eq!(&decode::<serde_json::Value>(&encode(&json).unwrap()).unwrap(), &json);
        let value = (1_u8, Described(value), Deep(Described(json)));
        let mut out = Sink::default();
        codec::encode_into(&value, &mut out).unwrap();
        let back = codec::decode::<(u8, Described<Any>, Deep<Described<_>>)>(&out).unwrap();
        prop_assert_eq!(back, (value, &[][..]));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        bytes: Vec<u8>,
        // Short arrays and maps, numbers, short strings, lengths of other kinds.
        heads in prop::collection::vec(
            prop_oneof![0x80..0x84_u8, 0x90..0x94_u8, 0..4_u8, 0xa0..0xa3_u8, 0xc0..=0xff_u8],
            0..99,
        ),
    ) {
        for bytes in [bytes, heads] {
            let _ = decode::<Any>(&bytes);
            let _ = decode::<serde_json::Value>(&bytes);
            let _ = decode::<Untagged>(&bytes);
            let _ = decode::<Tagged>(&bytes);
            let _ = decode::<Flat>(&bytes);
            let _ = decode::<Vec<Option<Option<u8>>>>(&bytes);
            let _ = codec::decode::<Described<Any>>(&bytes);
        }
    }

    #[test]
    fn damaged_bytes_are_decoded_or_refused(
        value in arbitrary(),
        at: prop::sample::Index,
        to: u8,
        cut: prop::sample::Index,
    ) {
        let mut bytes = encode(&value).unwrap();
        let cut = &bytes[..cut.index(bytes.len())];
        prop_assert!(decode::<Any>(cut).is_err());
        let at = at.index(bytes.len());
        bytes[at] = to;
        let _ = decode::<Any>(&bytes);
        let _ = decode::<serde_json::Value>(&bytes);
        let _ = decode::<Untagged>(&bytes);
    }
}

#[test]
fn bytes_that_announce_too_much_take_little_memory() {
    // A length of 2^32 - 1, as each kind that has a length.
    for head in [0xc6, 0xc9, 0xdb, 0xdd, 0xdf] {
        let mut bytes = vec![head, 0xff, 0xff, 0xff, 0xff];
        bytes.extend([0; 1000]);
        let taken = allocation_counter::measure(|| {
            refusal::<serde_json::Value>(&bytes);
            refusal::<Vec<u64>>(&bytes);
            refusal::<ByteBuf>(&bytes);
            refusal::<BTreeMap<u64, u64>>(&bytes);
            refusal::<Untagged>(&bytes);
        });
        assert!(taken.bytes_max < 10_000, "{} bytes", taken.bytes_max);
    }
    // Many arrays, each of which announces all that follows.
    let nested = [0xdc, 0xff, 0xff].repeat(100);
    let taken = allocation_counter::measure(|| _ = refusal::<serde_json::Value>(&nested));
    assert!(taken.bytes_max < 10_000, "{} bytes", taken.bytes_max);
}

#[test]
fn errors_have_plain_text() {
    let not_described = "the data are not what a Described holds: ";
    for bytes in [&[][..], &[0xa3, b'a'], &[0x92, 1], &[0xc1]] {
        assert!(refusal::<String>(bytes).starts_with(not_described));
    }
    assert_eq!(refusal::<u8>(&encode(&300).unwrap()), "invalid value: integer `300`, expected u8");
    assert_eq!(refusal::<u8>(&[1, 2]), "the data have 1 bytes more than the value");
    assert_eq!(
        refusal::<Untagged>(&encode(&()).unwrap()),
        "data did not match any variant of untagged enum Untagged"
    );
    assert!(refusal::<(u8, u8)>(&encode(&(1, 2, 3)).unwrap()).contains("incorrect length"));
    struct Fails;
    impl Serialize for Fails {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("these are the type's own words"))
        }
    }
    assert_eq!(encode(&[Fails]).unwrap_err(), "these are the type's own words");
    let mut out = Sink::default();
    let error = codec::encode_into(&Described([Fails]), &mut out).unwrap_err();
    assert_eq!(error.to_string(), "these are the type's own words");
}

#[test]
fn human_readable_formats_see_the_value_itself() {
    let value = Described(Tagged::Struct { x: 1, y: None });
    let text = serde_json::to_string(&value).unwrap();
    assert_eq!(text, r#"{"kind":"Struct","x":1,"y":null}"#);
    assert_eq!(serde_json::from_str::<Described<Tagged>>(&text).unwrap(), value);
    // ipc-channel's own channels, which encode by postcard, carry it, too.
    let bytes = postcard::to_stdvec(&value).unwrap();
    assert_eq!(postcard::from_bytes::<Described<Tagged>>(&bytes).unwrap(), value);
}

/// Calls `run` in a thread with so many bytes of stack.
fn in_thread(stack: usize, run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, run);
        thread.expect("there are threads").join().expect("it does not fail");
    });
}

const TOO_DEEP: &str = "values nest deeper than the 256 levels that a Described carries";

#[test]
fn nested_values_are_limited() {
    fn lists(levels: u32) -> serde_json::Value {
        (1..levels).fold(json!([]), |list, _| serde_json::Value::Array(vec![list]))
    }
    in_thread(128 << 10, || {
        crosses(&lists(256));
        assert_eq!(refusal::<serde_json::Value>(&encode(&lists(257)).unwrap()), TOO_DEEP);
        // Each of these is one level: an array, a map, a variant with one field.
        for head in [&[0x91][..], &[0x81, 1], &[0x81, 0xa3, b'N', b'e', b'w']] {
            let bytes = head.repeat(1 << 20);
            assert_eq!(refusal::<serde_json::Value>(&bytes), TOO_DEEP);
            assert_eq!(refusal::<Untagged>(&bytes), TOO_DEEP);
            assert_eq!(refusal::<External>(&bytes), TOO_DEEP);
        }
    });
}

#[test]
fn encoding_a_value_that_is_too_deep_overflows_no_stack() {
    in_thread(128 << 10, || {
        let mut value = (0..2_000).fold(External::Unit, |v, _| External::New(Box::new(v)));
        assert_eq!(refusal::<External>(&encode(&value).unwrap()), TOO_DEEP);
        while let External::New(inner) = value {
            value = *inner;
        }
    });
}

/// serde reads such values by functions of its own, which do not watch the stack.
#[test]
fn nested_values_in_buffers_of_serde_overflow_no_stack() {
    fn nested<T>(leaf: T, mut around: impl FnMut(u32, T) -> T) -> T {
        (1..=256).fold(leaf, |value, level| around(level, value))
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(untagged)]
    #[allow(clippy::large_enum_variant, reason = "its size takes stack")]
    enum Large {
        Never([[u64; 16]; 8], bool),
        Next(Vec<Large>),
        End(u8),
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    #[serde(tag = "kind")]
    enum Chain {
        Next { next: Box<Chain> },
        End,
    }
    #[derive(Debug, PartialEq, Serialize, Deserialize)]
    struct FlatChain {
        #[serde(flatten)]
        rest: BTreeMap<String, FlatChain>,
    }
    // The comparison of the values takes more than 128 KiB.
    in_thread(512 << 10, || {
        crosses(&nested(Untagged::Number(7), |level, value| match level % 2 {
            0 => Untagged::List(vec![value]),
            _ => Untagged::Map(BTreeMap::from([(level, value)])),
        }));
        crosses(&nested(Large::End(1), |_, value| Large::Next(vec![value])));
        let chain = (1..256).fold(Chain::End, |next, _| Chain::Next { next: Box::new(next) });
        crosses(&chain);
        let flat = FlatChain { rest: BTreeMap::new() };
        crosses(
            &(1..256).fold(flat, |next, _| FlatChain {
                rest: BTreeMap::from([("next".to_owned(), next)]),
            }),
        );
    });
}
