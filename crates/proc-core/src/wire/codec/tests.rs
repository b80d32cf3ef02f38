//! Tests of the encoding.

use super::*;
use proptest::collection::{btree_map, vec};
use proptest::option::of;
use proptest::prelude::*;
use serde::de::DeserializeOwned;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet, LinkedList, VecDeque};
use std::fmt::Debug;
use std::marker::PhantomData;
use std::net::IpAddr;
use std::time::Duration;

fn encode<T: Serialize + ?Sized>(value: &T) -> Vec<u8> {
    let mut out = Sink::default();
    encode_into(value, &mut out).unwrap();
    out.into_bytes()
}

fn refusal<'de, T: Deserialize<'de>>(bytes: &'de [u8]) -> String {
    match decode::<T>(bytes) {
        Ok(_) => panic!("it decodes"),
        Err(error) => error.to_string(),
    }
}

/// Age that cannot be encoded if it is above 150, nor decoded if it is below 0.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Clone, Copy)]
struct Age(i32);

impl Serialize for Age {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            age @ 151.. => Err(ser::Error::custom(format!("{age} is not an age"))),
            age => to.serialize_i32(age),
        }
    }
}

impl<'de> Deserialize<'de> for Age {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        match i32::deserialize(from)? {
            age @ ..0 => Err(de::Error::custom(format!("age must be positive, not {age}"))),
            age => Ok(Age(age)),
        }
    }
}

#[derive(Debug, PartialEq, Clone)]
struct Bytes(Vec<u8>);

impl Serialize for Bytes {
    fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(&self.0)
    }
}

impl<'de> Deserialize<'de> for Bytes {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct V;
        impl Visitor<'_> for V {
            type Value = Bytes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }
            fn visit_bytes<E: de::Error>(self, bytes: &[u8]) -> Result<Bytes, E> {
                Ok(Bytes(bytes.to_vec()))
            }
        }
        from.deserialize_byte_buf(V)
    }
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Eq, Hash, Clone)]
struct Unit;
#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct New<T>(T);
#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct Pair<T>(u8, T);
#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct Rec<T> {
    before: u16,
    value: T,
    after: String,
}
#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
enum Kind<T> {
    Unit,
    New(T),
    Tuple(bool, T),
    Rec { before: Option<u8>, value: T },
}
type Ints = (u8, i8, u16, i16, u32, i32, u64, i64, u128, i128);
#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
struct Big {
    ints: Ints,
    size: (usize, isize),
    floats: (f32, f64),
    chars: [char; 3],
    text: Box<str>,
    bytes: Bytes,
    maybe: Option<Option<Option<Unit>>>,
    units: ((), Unit, PhantomData<u8>),
    kinds: Vec<Kind<Vec<New<i64>>>>,
    tree: BTreeMap<String, Kind<Pair<Option<u32>>>>,
    results: BTreeMap<u16, Result<bool, String>>,
    more: Vec<Big>,
}

prop_compose! {
    fn kind()(which in 0..4, n in any::<i64>(), m in any::<u8>()) -> Kind<i64> {
        match which {
            0 => Kind::Unit,
            1 => Kind::New(n),
            2 => Kind::Tuple(m > 9, n),
            _ => Kind::Rec { before: Some(m), value: n },
        }
    }
}

impl<T> Kind<T> {
    fn map<U>(self, to: impl FnOnce(T) -> U) -> Kind<U> {
        match self {
            Kind::Unit => Kind::Unit,
            Kind::New(value) => Kind::New(to(value)),
            Kind::Tuple(first, value) => Kind::Tuple(first, to(value)),
            Kind::Rec { before, value } => Kind::Rec { before, value: to(value) },
        }
    }
}

prop_compose! {
    fn flat()(
        ints in any::<Ints>(),
        size in any::<(usize, isize)>(),
        floats in any::<(f32, f64)>(),
        chars in any::<[char; 3]>(),
        text in any::<String>(),
        bytes in any::<Vec<u8>>(),
        maybe in of(of(of(Just(Unit)))),
        kinds in vec(kind(), 0..20),
        tree in btree_map(any::<String>(), kind(), 0..9),
        results in btree_map(any::<u16>(), any::<Result<bool, String>>(), 0..9),
    ) -> Big {
        Big {
            ints, size, floats, chars, text: text.into(), bytes: Bytes(bytes), maybe,
            units: ((), Unit, PhantomData),
            kinds: kinds.into_iter().map(|k| k.map(|n| vec![New(n), New(!n)])).collect(),
            tree: tree.into_iter().map(|(t, k)| (t, k.map(|n| Pair(7, Some(n as u32))))).collect(),
            results, more: Vec::new(),
        }
    }
}

prop_compose! {
    fn big()(mut top in flat(), inner in flat(), more in vec(flat(), 0..3)) -> Big {
        top.more = more;
        top.more.push(Big { more: vec![inner.clone(), inner], ..top.clone() });
        top
    }
}

/// Checks that decoding returns the same value as postcard, or an error where postcard returns one.
fn like_postcard<T: DeserializeOwned + Serialize + Debug>(bytes: &[u8]) {
    match (decode::<T>(bytes), postcard::take_from_bytes::<T>(bytes)) {
        (Ok((ours, rest)), Ok((theirs, remains))) => {
            assert_eq!(encode(&ours), encode(&theirs));
            assert_eq!(rest, remains);
        }
        (Err(_), Err(_)) => {}
        (ours, theirs) => panic!("{ours:?} is not {theirs:?}"),
    }
}

fn like_postcard_all(bytes: &[u8]) {
    like_postcard::<Ints>(bytes);
    like_postcard::<(f32, f64, char, bool, String)>(bytes);
    like_postcard::<Vec<u64>>(bytes);
    like_postcard::<VecDeque<Rec<Kind<Option<Option<u8>>>>>>(bytes);
    like_postcard::<Vec<Kind<Pair<Bytes>>>>(bytes);
    like_postcard::<BTreeMap<u8, BTreeMap<i16, LinkedList<char>>>>(bytes);
    like_postcard::<BTreeSet<Option<bool>>>(bytes);
    like_postcard::<Big>(bytes);
    like_postcard::<(IpAddr, Duration, std::ffi::CString, Result<u8, ()>)>(bytes);
    let _ = decode::<(&str, &[u8], Option<&str>)>(bytes);
    let _ = decode::<HashMap<(), ()>>(bytes);
    let _ = decode::<HashMap<u8, HashMap<Option<bool>, u16>>>(bytes);
    let _ = decode::<Vec<Vec<()>>>(bytes);
    let _ = decode::<Vec<Tree>>(bytes);
    let _ = decode::<serde_json::Value>(bytes);
}

proptest! {
    #[test]
    fn decode_returns_what_was_encoded(value in big(), tail: Vec<u8>) {
        let mut out = Sink::from(vec![1, 2, 3]);
        encode_into(&value, &mut out).unwrap();
        prop_assert_eq!(&out[..3], &[1, 2, 3]);
        prop_assert_eq!(&out[3..], postcard::to_stdvec(&value).unwrap());
        out.extend(&tail);
        prop_assert_eq!(decode::<Big>(&out[3..]).unwrap(), (value, &tail[..]));
    }

    #[test]
    fn any_bytes_decode_as_with_postcard(bytes: Vec<u8>, small in vec(0..4u8, 0..200)) {
        like_postcard_all(&bytes);
        like_postcard_all(&small);
    }

    #[test]
    fn damaged_bytes_decode_as_with_postcard(
        value in big(),
        at: prop::sample::Index,
        to: u8,
        cut: prop::sample::Index,
    ) {
        let mut bytes = encode(&value);
        let at = at.index(bytes.len());
        bytes[at] = to;
        like_postcard_all(&bytes);
        like_postcard_all(&bytes[..cut.index(bytes.len())]);
    }
}

/// Checks that an age keeps the words of its own errors, in encoding and in decoding, wherever
/// `put` puts the age.
fn keeps_text<T: Serialize + DeserializeOwned + Debug>(put: impl Fn(Age) -> T) {
    let mut out = Sink::from(b"kept".to_vec());
    let error = encode_into(&put(Age(200)), &mut out).unwrap_err();
    assert_eq!(error.to_string(), "200 is not an age");
    assert_eq!(out[..], b"kept"[..]);
    let bytes = encode(&put(Age(-1)));
    assert_eq!(bytes, postcard::to_stdvec(&put(Age(-1))).unwrap());
    assert_eq!(refusal::<T>(&bytes), "age must be positive, not -1");
    decode::<T>(&encode(&put(Age(30)))).unwrap();
}

#[test]
fn errors_of_types_keep_their_text() {
    fn rec<T>(value: T) -> Rec<T> {
        let after = "after".to_owned();
        let before = 1000;
        Rec { before, value, after }
    }
    fn kind<T>(value: T) -> Kind<T> {
        let before = Some(3);
        Kind::Rec { before, value }
    }
    keeps_text(|age| age);
    keeps_text(rec);
    keeps_text(|age| (1u8, age, "after".to_owned()));
    keeps_text(|age| [Age(1), age]);
    keeps_text(New);
    keeps_text(|age| Pair(1, age));
    keeps_text(Kind::New);
    keeps_text(|age| Kind::Tuple(true, age));
    keeps_text(kind);
    keeps_text(|age| (Kind::<Age>::Unit, age));
    keeps_text(|age| vec![Age(1), age, Age(2)]);
    keeps_text(|age| HashSet::from([age]));
    keeps_text(|age| BTreeMap::from([(age, 1u8)]));
    keeps_text(|age| HashMap::from([(1u8, age)]));
    keeps_text(Some);
    keeps_text(|age| Some(Some(age)));
    keeps_text(Err::<u8, Age>);
    keeps_text(Box::new);
    keeps_text(|age| BTreeMap::from([(1u8, kind(vec![rec(Some(New(age)))]))]));
    keeps_text(|age| vec![Kind::New(HashMap::from([(9u8, Pair(1, (age, rec([age]))))]))]);
}

#[test]
fn first_error_is_reported() {
    assert_eq!(refusal::<[Age; 2]>(&encode(&[-1, -2])), "age must be positive, not -1");
    let error = encode_into(&[Age(200), Age(300)], &mut Sink::default()).unwrap_err();
    assert_eq!(error.to_string(), "200 is not an age");
}

#[test]
fn errors_of_serde_keep_their_text() {
    let text = refusal::<Kind<u8>>(&[4]);
    assert_eq!(text, "invalid value: integer `4`, expected variant index 0 <= i < 4");
    assert_eq!(
        refusal::<std::num::NonZeroU8>(&[0]),
        "invalid value: integer `0`, expected a nonzero u8"
    );
}

#[test]
fn errors_of_postcard_have_plain_text() {
    #[derive(Serialize, Deserialize, Debug)]
    #[serde(untagged)]
    enum Untagged {
        Number(u8),
    }
    #[derive(Serialize, Deserialize, Debug)]
    struct Flat {
        #[serde(flatten)]
        inner: BTreeMap<String, u8>,
    }
    #[derive(Serialize, Deserialize, Debug)]
    #[serde(tag = "kind")]
    enum Tagged {
        Number { value: u8 },
    }
    let asks = "the type asks for a self-describing format (serde_json::Value and serde's attributes \
                tag, untagged and flatten do), which this encoding is not: wrap it in \
                proc_core::Described";
    assert_eq!(refusal::<Tagged>(&encode(&Tagged::Number { value: 1 })), asks);
    assert_eq!(refusal::<serde_json::Value>(&[1]), asks);
    assert_eq!(refusal::<Untagged>(&encode(&Untagged::Number(1))), asks);
    assert_eq!(refusal::<de::IgnoredAny>(&[1]), asks);
    assert_eq!(refusal::<Flat>(&[1, 1, 97, 1]), asks);
    assert_eq!(refusal::<Vec<u16>>(&[2, 1]), "the data end too early");
    assert_eq!(refusal::<u16>(&[255; 3]), "a number in the data is too big for its type");
    assert_eq!(refusal::<bool>(&[2]), "a bool in the data is neither 0 nor 1");
    assert_eq!(refusal::<Option<u8>>(&[2]), "the tag of an option in the data is neither 0 nor 1");
    assert_eq!(refusal::<String>(&[1, 255]), "a string in the data is not UTF-8");
    assert_eq!(refusal::<char>(&[1, 255]), "a char in the data is not a Unicode character");

    struct Mute;
    impl Display for Mute {
        fn fmt(&self, _: &mut fmt::Formatter<'_>) -> fmt::Result {
            Err(fmt::Error)
        }
    }
    struct Shown;
    impl Serialize for Shown {
        fn serialize<S: Serializer>(&self, to: S) -> Result<S::Ok, S::Error> {
            to.collect_str(&Mute)
        }
    }
    let mut out = Sink::default();
    let error = encode_into(&Shown, &mut out).unwrap_err();
    assert_eq!(error.to_string(), "the type's own Display failed");
    let error = encode_into(&Flat { inner: BTreeMap::new() }, &mut out).unwrap_err();
    assert!(error.to_string().starts_with("the type does not know how many elements"));
    assert!(error.to_string().ends_with("wrap it in proc_core::Described"));
    assert!(out.is_empty());
}

#[test]
fn decode_returns_exactly_what_was_encoded() {
    for maybe in [None, Some(None), Some(Some(None)), Some(Some(Some(0u8)))] {
        assert_eq!(decode(&encode(&maybe)).unwrap(), (maybe, &[][..]));
    }
    let map: HashMap<u16, Option<String>> = (0..99).map(|n| (n, Some(n.to_string()))).collect();
    assert_eq!(decode(&encode(&map)).unwrap(), (map.clone(), &[][..]));
    let (ip, text) = (IpAddr::from([1, 2, 3, 4]), format_args!("{}-{}", 1, 2).to_string());
    assert_eq!(encode(&ip), postcard::to_stdvec(&ip).unwrap());
    assert_eq!(encode(&format_args!("{}-{}", 1, 2)), encode(&text));
    let bytes = encode(&("some text", Bytes(vec![0, 255])));
    let ((text, raw), _) = decode::<(&str, &[u8])>(&bytes).unwrap();
    assert!(bytes.as_ptr_range().contains(&text.as_ptr()));
    assert!(bytes.as_ptr_range().contains(&raw.as_ptr()));
    assert_eq!((text, raw), ("some text", &[0, 255][..]));
    let nan = f64::from_bits(0x7ff8_0000_0000_1234);
    assert_eq!(decode::<f64>(&encode(&nan)).unwrap().0.to_bits(), nan.to_bits());
}

/// Number of elements that a sequence announces.
#[derive(Debug, PartialEq)]
struct Hint(Option<usize>);

impl<'de> Deserialize<'de> for Hint {
    fn deserialize<D: de::Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        struct V;
        impl<'de> Visitor<'de> for V {
            type Value = Hint;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a sequence or a map")
            }
            fn visit_seq<A: de::SeqAccess<'de>>(self, parts: A) -> Result<Hint, A::Error> {
                Ok(Hint(parts.size_hint()))
            }
            fn visit_map<A: de::MapAccess<'de>>(self, parts: A) -> Result<Hint, A::Error> {
                Ok(Hint(parts.size_hint()))
            }
        }
        match from.is_human_readable() {
            true => unreachable!(),
            false => from.deserialize_map(V),
        }
    }
}

#[test]
fn size_hint_is_given_only_if_the_data_are_long_enough() {
    let hint = |bytes: &[u8]| decode::<Hint>(bytes).unwrap().0.0;
    assert_eq!(hint(&encode(&vec![7u8; 1000])), Some(1000));
    assert_eq!(hint(&[4, 0, 0, 0, 0]), Some(4));
    assert_eq!(hint(&[6, 0, 0, 0, 0]), None);
    let too_long = "a length is more than the data hold";
    for length in [1 << 17, 1 << 60, u64::MAX] {
        let bytes = encode(&(length, 7u8));
        assert_eq!(refusal::<Hint>(&bytes), too_long);
        assert_eq!(refusal::<Vec<u64>>(&bytes), too_long);
        assert_eq!(refusal::<Vec<()>>(&bytes), too_long);
        assert_eq!(refusal::<HashMap<(), ()>>(&bytes), too_long);
    }
    // Two lengths: each alone would fit, both together do not.
    assert_eq!(decode::<(Hint, Hint)>(&[2, 2, 0]).unwrap().0, (Hint(Some(2)), Hint(None)));
}

#[test]
fn number_of_empty_elements_is_limited() {
    let units = vec![(); 50_000];
    assert_eq!(decode::<Vec<()>>(&encode(&units)).unwrap().0, units);
    let nested = encode(&vec![vec![(); 60_000]; 1000]);
    assert_eq!(refusal::<Vec<Vec<()>>>(&nested), "a length is more than the data hold");
}

#[derive(Serialize, Deserialize, Debug)]
enum Tree {
    Leaf,
    One(Box<Tree>),
    Many(Vec<Tree>),
    Maybe { next: Option<Box<Tree>> },
}

#[derive(Deserialize, Debug)]
#[allow(dead_code, reason = "only its size counts")]
struct List {
    wide: [u64; 32],
    next: Option<Box<List>>,
}

#[test]
fn depth_of_values_is_limited() {
    let limit = "values nest deeper than 256 levels: wrap the deep part in proc_core::Deep, which \
                 carries 100000 levels";
    for bytes in [&[1][..], &[2], &[3, 1]] {
        assert_eq!(refusal::<Tree>(&bytes.repeat(1 << 20)), limit);
    }
    assert_eq!(refusal::<List>(&[1; 1 << 20]), limit);
    let tree = (0..100).fold(Tree::Leaf, |tree, _| Tree::Many(vec![tree]));
    decode::<Tree>(&encode(&tree)).unwrap();
}

#[test]
fn encode_refuses_fields_that_are_left_out() {
    #[derive(Serialize, Deserialize)]
    struct Sparse {
        #[serde(skip_serializing_if = "Option::is_none")]
        note: Option<u8>,
        last: u8,
    }
    let mut out = Sink::default();
    encode_into(&Sparse { note: Some(1), last: 2 }, &mut out).expect("nothing is left out");
    assert_eq!(out[..], [1, 1, 2]);
    let error = encode_into(&Sparse { note: None, last: 2 }, &mut out).expect_err("it is sparse");
    assert!(error.to_string().contains("the field note is left out"), "{error}");
    assert!(error.to_string().ends_with("wrap the type in proc_core::Described"), "{error}");
}
