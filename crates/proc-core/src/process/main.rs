//! Runs a process from inside: calls its function, reports the result, and ends.

use crate::call::{Entry, Fault, Input, Name, State};
use crate::forkserver::{Job, Main, MainInputs, Report, end_idle_workers, lifeline};
use crate::panics::{self, PanicOutput};
use crate::sys;
use crate::wire::{self, Payload, Sink};

/// Exit code of a process whose function panicked. Rust gives the same code to a `main` that
/// panics.
const PANICKED: i32 = 101;

/// Result of the process, encoded: the value that its function has returned, or a [`Fault`] that
/// the process survived.
pub(super) type EncodedResult = Result<Payload, Payload>;

struct Call;
const MAIN: &Entry<Main> = &Entry::new::<Call>(main);

/// Makes the job of a process that calls `function`.
///
/// # Errors
///
/// The function lies outside the program; the error says so in words.
pub(super) fn job(function: Name, arguments: Payload) -> Result<Job, String> {
    Ok(Job {
        main: Name::of_entry::<fn(), _>(MAIN)?,
        setup: Payload::encode_plain(&function)?,
        payloads: vec![arguments],
        receivers: Vec::new(),
        senders: Vec::new(),
        memory: Vec::new(),
    })
}

fn main(inputs: MainInputs) -> ! {
    panics::set_panic_output(PanicOutput::Always);
    let report = inputs.report::<EncodedResult>();
    let MainInputs { job, .. } = inputs;
    let Job { setup, mut payloads, .. } = job;
    let mut out = Sink::default();
    let me = sys::pid();
    let result = setup.decode::<Name>().map_err(Fault::Invalid).and_then(|function| {
        let arguments =
            payloads.first_mut().ok_or_else(|| Fault::Invalid("the job has no argument".into()))?;
        let (bytes, handles) = arguments.parts().map_err(Fault::Arguments)?;
        function.call(Input { bytes, handles }, &mut State::none(), &mut out)
    });
    sys::exit_if_copy_of(me);
    let code = if matches!(result, Err(Fault::Panicked(_))) { PANICKED } else { 0 };
    let result = result
        .and_then(|handles| Payload::new(out.into_bytes(), handles).map_err(Fault::Result))
        .map_err(|fault| Payload::encode(&fault).expect("a fault is text"));
    // If the owner no longer listens, nobody waits for the result.
    if let Err(error) = wire::send(&report, Report::Said(result))
        && let Some(why) = wire::why_not_sent(error)
    {
        let fault = Payload::encode(&Fault::Result(why)).expect("a fault is text");
        let _ = wire::send(&report, Report::Said(Err(fault)));
    }
    lifeline::end_children();
    end_idle_workers();
    sys::end_process(code)
}
