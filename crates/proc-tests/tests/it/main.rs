//! Tests of proc-core against real processes, in one test program.
//!
//! Each file has the tests of one topic, and beside them the *programs* that the tests run. A
//! program is a function of this test program, which a test executes again to call the function. So
//! the compiler checks that each program exists, and everything is linked once. [`support`] does
//! the rest.

#[macro_use]
mod support;

mod aborts;
mod calls;
mod channels;
mod chaos;
mod compile_errors;
mod coverage;
mod cpu_affinity;
mod doc_examples;
mod environment;
mod init;
mod late_init;
mod layers;
mod lifetime;
mod limits;
mod loaded_library;
mod managers;
mod panic_hooks;
mod pool;
mod privileges;
mod process;
mod profiles;
mod random_seeds;
mod streams;
mod sync;
mod sync_queue;
mod user_fork;

use std::process::ExitCode;

use libtest_mimic::Trial;
use support::{Entry, MARKER, be_program};

/// The programs of all files.
const PROGRAMS: &[&[Entry]] = &[
    aborts::PROGRAMS,
    calls::broadcast::PROGRAMS,
    calls::deep_values::PROGRAMS,
    calls::described_values::PROGRAMS,
    calls::imap::PROGRAMS,
    calls::large_values::PROGRAMS,
    calls::map::PROGRAMS,
    calls::memory_limit::PROGRAMS,
    calls::nested::PROGRAMS,
    calls::progress_bar::PROGRAMS,
    calls::settings::PROGRAMS,
    calls::stop_requests::PROGRAMS,
    calls::tasks::PROGRAMS,
    calls::values_that_cannot_cross::PROGRAMS,
    calls::with::PROGRAMS,
    channels::crossing::PROGRAMS,
    channels::failed_sends::PROGRAMS,
    channels::few_descriptors::PROGRAMS,
    channels::release::PROGRAMS,
    cpu_affinity::PROGRAMS,
    environment::PROGRAMS,
    init::PROGRAMS,
    lifetime::end_of_main::PROGRAMS,
    lifetime::exec_and_users::PROGRAMS,
    lifetime::fork_servers::PROGRAMS,
    lifetime::killed_program::PROGRAMS,
    lifetime::leaks::PROGRAMS,
    lifetime::real_time_signals::PROGRAMS,
    lifetime::signals::PROGRAMS,
    limits::attributes::PROGRAMS,
    limits::descriptors::PROGRAMS,
    limits::memory::PROGRAMS,
    limits::processes::PROGRAMS,
    managers::PROGRAMS,
    panic_hooks::PROGRAMS,
    pool::corrupt_workers::PROGRAMS,
    pool::end::PROGRAMS,
    pool::failed_starts::PROGRAMS,
    pool::failed_tasks::PROGRAMS,
    pool::killed_workers::PROGRAMS,
    pool::max_pending::PROGRAMS,
    pool::set_up::PROGRAMS,
    pool::shared::PROGRAMS,
    pool::state::PROGRAMS,
    pool::stopped_workers::PROGRAMS,
    pool::worker_count::PROGRAMS,
    privileges::PROGRAMS,
    process::end::PROGRAMS,
    process::start::PROGRAMS,
    process::wait::PROGRAMS,
    random_seeds::PROGRAMS,
    streams::closed::PROGRAMS,
    streams::output::PROGRAMS,
    streams::redirected::PROGRAMS,
    sync_queue::bad_input::PROGRAMS,
    sync_queue::copies::PROGRAMS,
    sync_queue::ends::PROGRAMS,
    sync_queue::kills::PROGRAMS,
    sync_queue::order::PROGRAMS,
    sync_queue::pipes::PROGRAMS,
    sync::barriers::PROGRAMS,
    sync::copies::PROGRAMS,
    sync::kills::PROGRAMS,
    sync::leftovers::PROGRAMS,
    sync::places::PROGRAMS,
    sync::refusals::PROGRAMS,
    sync::shortages::PROGRAMS,
    sync::signals::PROGRAMS,
    sync::waits::PROGRAMS,
    user_fork::program::PROGRAMS,
    user_fork::worker::PROGRAMS,
];

/// The tests of all files.
fn tests() -> Vec<Trial> {
    let files = [
        aborts::tests(),
        calls::broadcast::tests(),
        calls::deep_values::tests(),
        calls::described_values::tests(),
        calls::imap::tests(),
        calls::large_values::tests(),
        calls::map::tests(),
        calls::memory_limit::tests(),
        calls::nested::tests(),
        calls::progress_bar::tests(),
        calls::settings::tests(),
        calls::stop_requests::tests(),
        calls::tasks::tests(),
        calls::values_that_cannot_cross::tests(),
        calls::with::tests(),
        channels::crossing::tests(),
        channels::failed_sends::tests(),
        channels::few_descriptors::tests(),
        channels::reexport::tests(),
        channels::release::tests(),
        chaos::tests(),
        compile_errors::tests(),
        coverage::tests(),
        cpu_affinity::tests(),
        doc_examples::tests(),
        environment::tests(),
        init::tests(),
        late_init::tests(),
        layers::tests(),
        lifetime::end_of_main::tests(),
        lifetime::exec_and_users::tests(),
        lifetime::fork_servers::tests(),
        lifetime::killed_program::tests(),
        lifetime::leaks::tests(),
        lifetime::real_time_signals::tests(),
        lifetime::signals::tests(),
        limits::attributes::tests(),
        limits::descriptors::tests(),
        limits::memory::tests(),
        limits::processes::tests(),
        loaded_library::tests(),
        managers::tests(),
        panic_hooks::tests(),
        pool::corrupt_workers::tests(),
        pool::end::tests(),
        pool::failed_starts::tests(),
        pool::failed_tasks::tests(),
        pool::killed_workers::tests(),
        pool::max_pending::tests(),
        pool::set_up::tests(),
        pool::shared::tests(),
        pool::state::tests(),
        pool::stopped_workers::tests(),
        pool::worker_count::tests(),
        privileges::tests(),
        process::end::tests(),
        process::start::tests(),
        process::wait::tests(),
        profiles::tests(),
        random_seeds::tests(),
        streams::closed::tests(),
        streams::output::tests(),
        streams::redirected::tests(),
        sync_queue::bad_input::tests(),
        sync_queue::copies::tests(),
        sync_queue::ends::tests(),
        sync_queue::kills::tests(),
        sync_queue::order::tests(),
        sync_queue::pipes::tests(),
        sync::barriers::tests(),
        sync::copies::tests(),
        sync::kills::tests(),
        sync::leftovers::tests(),
        sync::places::tests(),
        sync::refusals::tests(),
        sync::shortages::tests(),
        sync::signals::tests(),
        sync::waits::tests(),
        user_fork::program::tests(),
        user_fork::worker::tests(),
    ];
    files.into_iter().flatten().collect()
}

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1);
    if arguments.next().as_deref() == Some(MARKER) {
        be_program(arguments);
        return ExitCode::SUCCESS;
    }
    // Some tests start processes themselves.
    proc_core::init();
    let mut arguments = libtest_mimic::Arguments::from_args();
    // libtest reads this variable too. The default is twice the number of processors, because the
    // tests wait for other processes most of the time.
    let asked = std::env::var("RUST_TEST_THREADS").ok().and_then(|number| number.parse().ok());
    let usual = std::thread::available_parallelism().map_or(2, |number| 2 * number.get());
    arguments.test_threads = arguments.test_threads.or(asked).or(Some(usual));
    libtest_mimic::run(&arguments, tests()).exit_code()
}
