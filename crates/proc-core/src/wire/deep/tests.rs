//! Tests of deep values.

use std::collections::HashMap;
use std::fmt::Debug;

use proptest::prelude::*;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::*;
use crate::wire::Described;
use crate::wire::codec::{MAX_DEEP_DEPTH, decode, encode_into};

fn to_bytes<T: Serialize>(value: &T) -> Vec<u8> {
    let mut out = Sink::default();
    encode_into(value, &mut out).unwrap();
    out.into_bytes()
}

/// Puts bytes into a `Deep`, as if they had been encoded.
fn deep_bytes(bytes: &[u8]) -> Vec<u8> {
    to_bytes(&serde_bytes::Bytes::new(bytes))
}

fn refusal<T: DeserializeOwned>(bytes: &[u8]) -> String {
    match decode::<T>(bytes) {
        Ok(_) => panic!("it decodes"),
        Err(error) => error.to_string(),
    }
}

/// Calls `run` in a thread with so many bytes of stack.
fn in_thread(stack: usize, run: impl FnOnce() + Send) {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(stack).spawn_scoped(scope, run);
        thread.expect("there are threads").join().expect("it does not fail");
    });
}

#[derive(Serialize, Deserialize, Debug, Default)]
struct Chain {
    number: u32,
    next: Option<Box<Chain>>,
}

impl Drop for Chain {
    fn drop(&mut self) {
        let mut next = self.next.take();
        while let Some(mut chain) = next {
            next = chain.next.take();
        }
    }
}

impl Chain {
    fn new(len: u32) -> Chain {
        let longer = |chain, number| Chain { number, next: Some(Box::new(chain)) };
        (1..len).rev().fold(Chain { number: len, next: None }, longer)
    }

    fn numbers(&self) -> impl Iterator<Item = u32> {
        std::iter::successors(Some(self), |chain| chain.next.as_deref()).map(|chain| chain.number)
    }
}

const TOO_DEEP: &str = "values nest deeper than 100000 levels: no more are carried; send a Vec, with \
                        indices in place of boxes";

#[test]
fn deep_values_cross_whatever_stack_there_is() {
    // Each part of a chain is two levels.
    let most = MAX_DEEP_DEPTH / 2;
    for stack in [128 << 10, 2 << 20, 300 << 20] {
        in_thread(stack, || {
            let bytes = to_bytes(&(7_u8, Deep(Chain::new(most)), 8_u8));
            let (back, rest) = decode::<(u8, Deep<Chain>, u8)>(&bytes).unwrap();
            assert!(rest.is_empty());
            assert_eq!((back.0, back.2), (7, 8));
            assert!(back.1.numbers().eq(1..=most));
            let bytes = to_bytes(&Deep(Chain::new(most + 1)));
            assert_eq!(refusal::<Deep<Chain>>(&bytes), TOO_DEEP);
        });
    }
}

#[derive(Serialize, Deserialize, Debug, PartialEq, Clone)]
enum Tree {
    Leaf,
    One(Box<Tree>),
    Tuple(u8, Box<Tree>),
    Many(Vec<Tree>),
    Map(HashMap<u8, Tree>),
    Maybe { next: Option<Box<Tree>> },
    Deep(Box<Deep<Tree>>),
}

#[test]
fn exactly_100000_levels_of_one_kind_cross() {
    in_thread(2 << 20, || {
        // The leaf is a level, too.
        let most = MAX_DEEP_DEPTH - 1;
        for (levels, is_fine) in [(most, true), (most + 1, false)] {
            let tree = (0..levels).fold(Tree::Leaf, |tree, _| Tree::One(Box::new(tree)));
            let bytes = to_bytes(&Deep(&tree));
            match decode::<Deep<Tree>>(&bytes) {
                Ok((Deep(back), _)) => {
                    assert!(is_fine);
                    drop_one_by_one(back);
                }
                Err(error) => {
                    assert!(!is_fine);
                    assert_eq!(error.to_string(), TOO_DEEP);
                }
            }
            drop_one_by_one(tree);
        }
    });
}

fn drop_one_by_one(mut tree: Tree) {
    while let Tree::One(next) = tree {
        tree = *next;
    }
}

#[test]
fn levels_of_each_kind_are_limited() {
    in_thread(2 << 20, || {
        for bytes in [&[1][..], &[2, 0], &[3, 1], &[4, 1, 0], &[5, 1]] {
            assert_eq!(refusal::<Deep<Tree>>(&deep_bytes(&bytes.repeat(1 << 20))), TOO_DEEP);
        }
    });
}

#[test]
fn deeps_inside_each_other_are_limited() {
    let nested = |count| (0..count).fold(Tree::Leaf, |tree, _| Tree::Deep(Box::new(Deep(tree))));
    let most = nested(MAX_DEEP_IN_DEEP);
    for _ in 0..3 {
        assert_eq!(decode::<Tree>(&to_bytes(&most)).unwrap().0, most);
        let error = refusal::<Tree>(&to_bytes(&nested(MAX_DEEP_IN_DEEP + 1)));
        assert!(error.contains("wrap only the outermost value"), "{error}");
    }
}

#[test]
fn errors_have_plain_text() {
    assert_eq!(refusal::<Deep<u8>>(&deep_bytes(&[])), "the data end too early");
    let text = refusal::<Deep<u8>>(&deep_bytes(&[1, 2, 3]));
    assert_eq!(text, "the data have 2 bytes more than the value");
    let text = refusal::<Deep<serde_json::Value>>(&deep_bytes(&[1]));
    assert!(text.ends_with("wrap it in proc_core::Described"), "{text}");
    struct Fails;
    impl Serialize for Fails {
        fn serialize<S: Serializer>(&self, _: S) -> Result<S::Ok, S::Error> {
            Err(S::Error::custom("these are the type's own words"))
        }
    }
    let error = encode_into(&Deep([Fails]), &mut Sink::default()).unwrap_err();
    assert_eq!(error.to_string(), "these are the type's own words");
}

#[test]
fn human_readable_formats_see_the_value_itself() {
    let tree = Deep(Tree::Tuple(1, Box::new(Tree::Leaf)));
    let text = serde_json::to_string(&tree).unwrap();
    assert_eq!(text, r#"{"Tuple":[1,"Leaf"]}"#);
    assert_eq!(serde_json::from_str::<Deep<Tree>>(&text).unwrap(), tree);
    // ipc-channel's own channels, which encode by postcard, carry it, too.
    let bytes = postcard::to_stdvec(&tree).unwrap();
    assert_eq!(postcard::from_bytes::<Deep<Tree>>(&bytes).unwrap(), tree);
}

fn trees() -> impl Strategy<Value = Tree> {
    Just(Tree::Leaf).prop_recursive(6, 40, 4, |inner| {
        let boxed = inner.clone().prop_map(Box::new);
        prop_oneof![
            boxed.clone().prop_map(Tree::One),
            (any::<u8>(), boxed.clone()).prop_map(|(n, tree)| Tree::Tuple(n, tree)),
            prop::collection::vec(inner.clone(), 0..4).prop_map(Tree::Many),
            prop::collection::hash_map(any::<u8>(), inner.clone(), 0..4).prop_map(Tree::Map),
            prop::option::of(boxed).prop_map(|next| Tree::Maybe { next }),
            inner.prop_map(|tree| Tree::Deep(Box::new(Deep(tree)))),
        ]
    })
}

proptest! {
    #[test]
    fn decode_returns_what_was_encoded(tree in trees(), tail: Vec<u8>) {
        let value = (Deep(tree.clone()), Described(Deep(tree)));
        let mut bytes = to_bytes(&value);
        bytes.extend(&tail);
        prop_assert_eq!(decode(&bytes).unwrap(), (value, &tail[..]));
    }

    #[test]
    fn any_bytes_are_decoded_or_refused(
        bytes: Vec<u8>,
        small in prop::collection::vec(0..7_u8, 0..200),
    ) {
        for bytes in [bytes, small] {
            let _ = decode::<Deep<Tree>>(&bytes);
            let _ = decode::<Deep<Tree>>(&deep_bytes(&bytes));
            let _ = decode::<Deep<Vec<(String, f64)>>>(&deep_bytes(&bytes));
        }
    }
}
