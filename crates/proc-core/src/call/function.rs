//! Names a function for another process, by the place of the function's entry in the program image.
//!
//! The compiler makes one constant [`Entry`] for each function type, and marks it with [`MAGIC`]. A
//! [`Name`] is the distance of that entry from a fixed place in the image, with a fingerprint of
//! the types. The receiver accepts a name only if both processes run the same file, the distance
//! leads to readable, aligned memory of the image, the mark is there, and the types agree.
//!
//! The user needs no registry and no macro. The function's type alone says which code to run, so
//! the function must capture nothing.

use std::any::TypeId;
use std::cell::Cell;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::marker::PhantomData;

use serde::{Deserialize, Serialize};

use super::{Stage, State};
use crate::call::Fault;
use crate::panics;
use crate::sys::image::Image;
use crate::wire::{self, Handles, Message, Sink};

/// Stops the compiler, with advice for the user, if a function carries data.
macro_rules! refuse_captures {
    ($F:ty) => {
        const {
            assert!(
                size_of::<$F>() == 0,
                "this function captures variables (or is a function pointer), and captured data \
                 cannot cross to another process: use a `fn` item or a closure that captures \
                 nothing, and pass the data by `with` of a pool, or as part of the argument"
            )
        }
    };
}
pub(crate) use refuse_captures;

const MAGIC: [u8; 16] = *b"proc-core entry\x01";

/// Whether `head` is [`MAGIC`]. Compares it with the complement of the mark: this function must not
/// put a copy of the mark into the image, where only entries may contain it.
fn is_marked(head: &[u8; 16]) -> bool {
    const COMPLEMENT: [u8; 16] = {
        let mut bytes = MAGIC;
        let mut i = 0;
        while i < bytes.len() {
            bytes[i] = !bytes[i];
            i += 1;
        }
        bytes
    };
    head.iter()
        .zip(std::hint::black_box(&COMPLEMENT))
        .all(|(byte, complement)| *byte == !complement)
}

/// Type of the code in an entry. It is a function pointer, so entries of all kinds have the same
/// layout. This matters because an entry is found by its mark alone, and is read before its types
/// are compared.
pub(crate) trait Code: Copy + 'static {}

impl Code for CallFn {}

/// Entry of a function: everything that another process needs in order to use the function. `C` is
/// the type of the code, which says what the entry is for.
#[repr(C)]
pub(crate) struct Entry<C: Code> {
    magic: [u8; 16],
    types: fn() -> u64,
    code: C,
}

impl<C: Code> Entry<C> {
    /// Makes the entry of the function that `T` stands for.
    pub(crate) const fn new<T: 'static>(code: C) -> Entry<C> {
        Entry { magic: MAGIC, types: types::<(T, C)>, code }
    }
}

/// Decodes an argument, calls the function, and appends the encoded result.
pub(crate) type CallFn = fn(Input<'_>, &mut State, &mut Sink) -> Called;

/// Result of a call: the channel ends of the returned value, whose bytes are written already, or a
/// fault.
pub(crate) type Called = Result<Option<Handles>, Fault>;

/// Encoded arguments and the channel ends among them.
pub(crate) struct Input<'a> {
    pub(crate) bytes: &'a [u8],
    pub(crate) handles: Option<Handles>,
}

/// Name of a function for another process of the same program.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub(crate) struct Name {
    image: u64,
    offset: i64,
    types: u64,
}

/// Way to call a function. Each way has its own entry for each set of types.
pub(crate) trait Callable: Sized + 'static {
    const CALL: &'static Entry<CallFn> = &Entry::new::<Self>(Self::call);

    type Result: Message;

    /// Decodes the arguments and calls the function. May panic; `stage` then says at which stage.
    fn task(
        input: Input<'_>,
        state: &mut State,
        stage: &Cell<Stage>,
    ) -> Result<Self::Result, Fault>;

    fn call(input: Input<'_>, state: &mut State, out: &mut Sink) -> Called {
        let stage = Cell::new(Stage::Arguments);
        let run = || {
            let result = Self::task(input, state, &stage)?;
            if wire::may_have_handles::<Self::Result>() {
                wire::drop_collected_handles();
            }
            write_result(result, out, &stage)
        };
        panics::catch(run).unwrap_or_else(|panic| Err(stage.get().fault(panic)))
    }
}

/// Returns a fingerprint of the types that are part of `T`.
fn types<T: 'static>() -> u64 {
    let mut hasher = DefaultHasher::new();
    TypeId::of::<T>().hash(&mut hasher);
    hasher.finish()
}

/// Decodes the argument. After that, a panic is one of the function.
#[inline]
pub(crate) fn read_argument<A: Message>(input: Input<'_>, stage: &Cell<Stage>) -> Result<A, Fault> {
    let argument = wire::decode_or_panic(input.bytes, input.handles).map_err(Fault::Arguments)?;
    stage.set(Stage::Function);
    Ok(argument)
}

/// Encodes a result and drops it. May panic, as a task may.
#[inline]
pub(crate) fn write_result<R: Message>(result: R, out: &mut Sink, stage: &Cell<Stage>) -> Called {
    stage.set(Stage::Result);
    let encoded = wire::encode_or_panic(&result, out).map_err(Fault::Result);
    // A panic in the destructor of the result counts as a panic of the function.
    stage.set(Stage::Function);
    drop(result);
    encoded
}

/// Function of its argument alone.
pub(crate) struct Plain<F, A, R>(PhantomData<fn(F, A) -> R>);

impl<F, A, R> Callable for Plain<F, A, R>
where
    F: Fn(A) -> R + Copy + 'static,
    A: Message,
    R: Message,
{
    type Result = R;

    #[inline]
    fn task(input: Input<'_>, _: &mut State, stage: &Cell<Stage>) -> Result<R, Fault> {
        let argument = read_argument(input, stage)?;
        Ok(crate::sys::zst_value::<F>()(argument))
    }
}

/// Function of the worker's state and its argument.
pub(crate) struct Stateful<F, S, A, R>(PhantomData<fn(F, S, A) -> R>);

impl<F, S, A, R> Callable for Stateful<F, S, A, R>
where
    F: Fn(&mut S, A) -> R + Copy + 'static,
    S: 'static,
    A: Message,
    R: Message,
{
    type Result = R;

    #[inline]
    fn task(input: Input<'_>, state: &mut State, stage: &Cell<Stage>) -> Result<R, Fault> {
        let argument = read_argument(input, stage)?;
        let result = crate::sys::zst_value::<F>()(state.lend()?, argument);
        state.take_back();
        Ok(result)
    }
}

/// Function that makes the worker's state.
struct StateMaker<F, A, S>(PhantomData<fn(F, A) -> S>);

impl<F, A, S> Callable for StateMaker<F, A, S>
where
    F: Fn(A) -> S + Copy + 'static,
    A: Message,
    S: 'static,
{
    type Result = ();

    fn task(input: Input<'_>, state: &mut State, stage: &Cell<Stage>) -> Result<(), Fault> {
        let argument = read_argument(input, stage)?;
        state.put(crate::sys::zst_value::<F>()(argument));
        Ok(())
    }
}

/// Function that takes the worker's state when the worker ends.
struct StateTaker<F, S>(PhantomData<fn(F, S)>);

impl<F, S> Callable for StateTaker<F, S>
where
    F: Fn(S) + Copy + 'static,
    S: 'static,
{
    type Result = ();

    fn task(_: Input<'_>, state: &mut State, _: &Cell<Stage>) -> Result<(), Fault> {
        let state = state.take()?;
        // Nobody waits for this call, so the message of a panic is printed, as in any thread.
        let _ = panics::catch_and_print(|| crate::sys::zst_value::<F>()(*state));
        Ok(())
    }

    fn call(input: Input<'_>, state: &mut State, _: &mut Sink) -> Called {
        Self::task(input, state, &Cell::new(Stage::Function)).map(|()| None)
    }
}

impl Name {
    /// Returns the name of `F`; an error if its code lies outside the image that contains this
    /// crate.
    pub(crate) fn of<F, A, R>() -> Result<Name, String>
    where
        F: Fn(A) -> R + Copy + 'static,
        A: Message,
        R: Message,
    {
        refuse_captures!(F);
        Name::of_entry::<F, _>(Plain::<F, A, R>::CALL)
    }

    /// Returns the name of a function that makes the worker's state.
    pub(crate) fn of_maker<F, A, S>() -> Result<Name, String>
    where
        F: Fn(A) -> S + Copy + 'static,
        A: Message,
        S: 'static,
    {
        refuse_captures!(F);
        Name::of_entry::<F, _>(StateMaker::<F, A, S>::CALL)
    }

    /// Returns the name of a function that takes the worker's state when the worker ends.
    pub(crate) fn of_taker<F, S>() -> Result<Name, String>
    where
        F: Fn(S) + Copy + 'static,
        S: 'static,
    {
        refuse_captures!(F);
        Name::of_entry::<F, _>(StateTaker::<F, S>::CALL)
    }

    /// Returns the name of an entry of `F`.
    pub(crate) fn of_entry<F, C: Code>(entry: &'static Entry<C>) -> Result<Name, String> {
        let image = Image::get();
        let offset = image.offset_of(entry).ok_or_else(|| {
            format!(
                "{} lies in another shared object than proc-core, so other processes cannot find \
                 it; link both into one program",
                std::any::type_name::<F>()
            )
        })?;
        Ok(Name { image: image.identity(), offset, types: (entry.types)() })
    }

    /// Returns the name as plain words, for shared memory.
    pub(crate) fn to_words(self) -> [u64; 3] {
        [self.image, self.offset as u64, self.types]
    }

    /// Returns the name that [`to_words`](Name::to_words) turned into these words.
    pub(crate) fn from_words([image, offset, types]: [u64; 3]) -> Name {
        Name { image, offset: offset as i64, types }
    }

    /// Returns the code that the name leads to. Checks the name before anything is called.
    pub(crate) fn resolve<C: Code>(&self) -> Result<&'static C, String> {
        const { assert!(size_of::<C>() == size_of::<fn()>(), "it is a function pointer") };
        let image = Image::get();
        if self.image != image.identity() {
            let why = "the function belongs to another build of this program: run the same build";
            return Err(why.into());
        }
        let entry: Option<&'static Entry<C>> = image.at_offset(self.offset, is_marked);
        let entry = entry.ok_or("no function of this program has this name")?;
        if (entry.types)() != self.types {
            return Err("the function with this name has other types".into());
        }
        Ok(&entry.code)
    }

    /// Calls the function that the name leads to, which must be a [`Callable`].
    pub(crate) fn call(&self, input: Input<'_>, state: &mut State, out: &mut Sink) -> Called {
        self.resolve::<CallFn>().map_err(Fault::Invalid)?(input, state, out)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn double(x: i32) -> i32 {
        2 * x
    }

    fn name_of<F: Fn(A) -> R + Copy + 'static, A: Message, R: Message>(_: F) -> Name {
        Name::of::<F, A, R>().expect("tests are one image")
    }

    #[test]
    fn call_by_name_calls_the_function() {
        let (mut bytes, mut out) = (Sink::default(), Sink::default());
        wire::encode_into(&21, &mut bytes).expect("an integer");
        let input = Input { bytes: &bytes, handles: None };
        name_of(double).call(input, &mut State::none(), &mut out).expect("it returns");
        assert_eq!(wire::decode::<i32>(&out, None), Ok(42));
    }

    fn count(count: &mut u32, by: u32) -> u32 {
        assert!(by > 0, "nothing to count");
        *count += by;
        *count
    }

    /// Calls `count` as a worker does, and returns its result for `by`.
    fn counted(state: &mut State, by: u32) -> Result<u32, Fault> {
        fn name_of<F: Fn(&mut u32, u32) -> u32 + Copy + 'static>(_: F) -> Name {
            let entry = Stateful::<F, u32, u32, u32>::CALL;
            Name::of_entry::<F, _>(entry).expect("tests are one image")
        }
        let (mut bytes, mut out) = (Sink::default(), Sink::default());
        wire::encode_into(&by, &mut bytes).expect("an integer");
        name_of(count).call(Input { bytes: &bytes, handles: None }, state, &mut out)?;
        Ok(wire::decode(&out, None).expect("an integer"))
    }

    #[test]
    fn state_is_lent_and_a_panic_spoils_it() {
        let mut state = State::none();
        state.put(40_u32);
        assert!(matches!(counted(&mut state, 2), Ok(42)));
        assert!(matches!(counted(&mut state, 1), Ok(43)));
        assert!(!state.is_spoilt());
        assert!(matches!(counted(&mut state, 0), Err(Fault::Panicked(_))));
        assert!(state.is_spoilt());
    }

    #[test]
    fn state_of_another_type_is_a_fault() {
        let mut state = State::none();
        assert!(matches!(counted(&mut state, 2), Err(Fault::Invalid(_))));
        state.put("text");
        assert!(matches!(counted(&mut state, 2), Err(Fault::Invalid(_))));
        assert!(!state.is_spoilt());
    }

    #[test]
    fn functions_have_different_names() {
        let names = [name_of(double), name_of(|x: i32| x), name_of(|x: i32| i64::from(x))];
        assert_ne!(names[0], names[1]);
        assert_ne!(names[1], names[2]);
    }

    #[test]
    fn resolve_refuses_wrong_names() {
        let name = name_of(double);
        let other_types = name_of(|x: u8| x);
        for (wrong, text) in [
            (Name { image: name.image ^ 1, ..name }, "another build"),
            (Name { offset: name.offset + 8, ..name }, "no function"),
            (Name { offset: i64::MAX, ..name }, "no function"),
            (Name { types: other_types.types, ..name }, "other types"),
        ] {
            let Err(why) = wrong.resolve::<CallFn>() else { panic!("{wrong:?} resolved") };
            assert!(why.contains(text), "{why}");
        }
    }
}
