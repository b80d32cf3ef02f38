//! Values whose types need a format that describes itself cross inside `Described`.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::net::IpAddr;

use proc_core::StartMethod;
use proc_core::ipc::{self, IpcSender};
use proc_core::{Child, Deep, Described, InProcess, Message, Pool, Process, Shared};
use serde::{Deserialize, Serialize};

use crate::support::{Arguments, print_result, run};

programs![cross_described, cross_with_channel_ends];

tests! {
    described_values_cross: forkserver spawn fork;
    channel_ends_cross_inside_described_values: forkserver spawn fork;
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged)]
enum Untagged {
    Address(IpAddr),
    Number(i64),
    Maybe { maybe: Option<bool> },
    List(Vec<Untagged>),
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case")]
enum Tagged {
    Keys { by_number: BTreeMap<u32, char> },
    Nothing,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Flat {
    name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    note: Option<String>,
    tagged: Tagged,
    #[serde(flatten)]
    rest: BTreeMap<String, serde_json::Value>,
}

/// What a described value may be part of.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
struct Around {
    before: Vec<u8>,
    described: Option<Described<Untagged>>,
    after: [Described<serde_json::Value>; 2],
}

fn untagged() -> Untagged {
    let maybe = |maybe| Untagged::Maybe { maybe };
    Untagged::List(vec![
        Untagged::Address([127, 0, 0, 1].into()),
        Untagged::Number(i64::MIN),
        maybe(None),
        maybe(Some(true)),
    ])
}

fn flat() -> Flat {
    let tagged = Tagged::Keys { by_number: BTreeMap::from([(7, 'ß')]) };
    let rest = BTreeMap::from([("rest".into(), serde_json::json!([0, -1, 0.5, null, {}]))]);
    Flat { name: "flat".into(), note: None, tagged, rest }
}

fn cross_described(arguments: &Arguments) {
    fn cross<T>(arguments: &Arguments, pool: &Pool<Flat>, value: T)
    where
        T: Clone + Debug + PartialEq + Message + Send + Sync,
    {
        let same = |value: T| value;
        // The pool has threads, so `Fork` is not possible.
        let start_method = match arguments.start_method {
            StartMethod::Fork => StartMethod::Forkserver,
            other => other,
        };
        let child = Process::new(same, value.clone()).start_method(start_method).start();
        assert_eq!(child.and_then(Child::join).expect("it crosses"), value);
        assert_eq!(pool.apply(same, value.clone()).expect("it crosses"), value);
        let values = vec![value.clone(); 10];
        assert_eq!(pool.map(same, values.clone()).expect("they cross"), values);
        assert_eq!(InProcess::new().map(same, values.clone()).expect("they cross"), values);
        let with = pool.with(value.clone());
        let is_same = |data: &T, value: T| *data == value;
        assert_eq!(with.map(is_same, values).expect("they cross"), [true; 10]);
    }
    let pool = Pool::builder().processes(2).start_method(arguments.start_method);
    let pool = pool.state(|Described(flat): Described<Flat>| flat, Described(flat()));
    let pool = pool.build().expect("it starts");
    cross(arguments, &pool, Described(untagged()));
    cross(arguments, &pool, Described(flat()));
    cross(arguments, &pool, Described([Tagged::Nothing, flat().tagged]));
    cross(arguments, &pool, Described(serde_json::json!({ "a": [1, { "b": null }] })));
    let around = Around {
        before: vec![0; 3],
        described: Some(Described(untagged())),
        after: [Described(serde_json::json!([0])), Described(serde_json::Value::Null)],
    };
    cross(arguments, &pool, around.clone());
    cross(arguments, &pool, vec![(1_u8, around); 3]);
    cross(arguments, &pool, Deep((Described(untagged()), flat().tagged == Tagged::Nothing)));
    let is_state = |state: &mut Flat, Described(value): Described<Flat>| *state == value;
    assert!(pool.with_state().apply(is_state, Described(flat())).expect("it crosses"));
    // This one crosses in shared memory.
    cross(arguments, &pool, Described(vec![flat(); 2_000]));
    println!("all crossed");
}

fn described_values_cross(start_method: StartMethod) {
    assert_eq!(run(cross_described, start_method, &[]).succeeded(), "all crossed\n");
}

/// Value with channel ends and shared memory in it, and with zeros before and between them.
#[derive(Serialize, Deserialize)]
struct Ends {
    zeros: [u64; 3],
    sender: Option<IpcSender<u64>>,
    rest: serde_json::Value,
    senders: Vec<IpcSender<u64>>,
    shared: Option<Shared<u64>>,
}

impl Ends {
    fn new(sender: Option<&IpcSender<u64>>, shared: Option<&Shared<u64>>) -> Ends {
        Ends {
            zeros: [0; 3],
            sender: sender.cloned(),
            rest: serde_json::json!([0, 1, { "zero": 0 }]),
            senders: sender.cloned().into_iter().collect(),
            shared: shared.cloned(),
        }
    }

    /// Sends a number to each sender.
    fn send(&self, number: u64) {
        let sum = self.shared.as_ref().map_or(0, |shared| shared.iter().sum::<u64>());
        for sender in self.sender.iter().chain(&self.senders) {
            sender.send(number + sum).expect("somebody receives");
        }
    }
}

fn cross_with_channel_ends(arguments: &Arguments) {
    type Value = Described<serde_json::Value>;
    let pool = arguments.pool(1);
    let (sender, receiver) = ipc::channel::<u64>().expect("there are descriptors");
    let shared = Shared::from_slice(&[1, 2, 3]).expect("there is memory");
    let receive = |count: usize| -> Vec<u64> {
        (0..count).map(|_| receiver.recv().expect("somebody has sent")).collect()
    };
    let ends = || Ends::new(Some(&sender), Some(&shared));
    let zeros = || Described(serde_json::json!([0, 0.5, { "zero": 0 }]));

    let send = |Described(ends): Described<Ends>| ends.send(10);
    print_result("described", pool.apply(send, Described(ends())));
    println!("received {:?}", receive(2));
    print_result("none", pool.apply(send, Described(Ends::new(None, None))));
    let send = |Deep(Described(ends)): Deep<Described<Ends>>| ends.send(20);
    print_result("deep and described", pool.apply(send, Deep(Described(ends()))));
    println!("received {:?}", receive(2));

    type Second = (Value, Described<Ends>);
    type Third = (Deep<IpcSender<u64>>, Value);
    let send = |(_, first, second, third): (Value, IpcSender<u64>, Second, Third)| {
        let (Described(second), Deep(third)) = (second.1, third.0);
        first.send(30).expect("somebody receives");
        second.send(40);
        third.send(50).expect("somebody receives");
    };
    let third = (Deep(sender.clone()), zeros());
    let many = (zeros(), sender.clone(), (zeros(), Described(ends())), third);
    print_result("between others", pool.apply(send, many));
    println!("received {:?}", receive(4));

    let echo = |Described(ends): Described<Ends>| Described(ends);
    pool.apply(echo, Described(ends())).expect("it comes back").send(60);
    println!("received {:?}", receive(2));
}

fn channel_ends_cross_inside_described_values(start_method: StartMethod) {
    let expected = "described: fine\nreceived [16, 16]\nnone: fine\n\
        deep and described: fine\nreceived [26, 26]\n\
        between others: fine\nreceived [30, 46, 46, 50]\nreceived [66, 66]\n";
    assert_eq!(run(cross_with_channel_ends, start_method, &[]).succeeded(), expected);
}
