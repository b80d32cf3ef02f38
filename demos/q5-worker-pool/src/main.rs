//! Reads the command line and runs the program in `program.rs`, which the page shows.
//!
//! Run it: `cargo run -p q5-worker-pool`, or watch how workers are replaced:
//! `cargo run -p q5-worker-pool -- --verbose --processes 2 --max-tasks-per-child 3`.
//! `cargo run -p q5-worker-pool -- --help` lists what can be set.

#[expect(
    dead_code,
    reason = "its `main` is for a copy of the file alone"
)]
mod program;

use proc_core::StartMethod;

/// A pool of worker processes, with every argument that Python's `Pool` takes.
#[derive(clap::Parser)]
#[command(version)]
struct Options {
    /// Numbers to raise to the exponent
    #[arg(default_values_t = [3, 4, 5, 6, 6, 7, 87, 8, 8], allow_negative_numbers = true)]
    numbers: Vec<i64>,

    /// How many workers the pool has
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    processes: u16,

    /// The exponent, which the initializer stores in each worker
    #[arg(long, value_name = "E", default_value_t = 2)]
    exponent: u32,

    /// After how many tasks a worker is replaced
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    max_tasks_per_child: u32,

    /// How workers are made: forkserver, fork or spawn
    #[arg(long, value_name = "METHOD", alias = "context", default_value_t = StartMethod::Forkserver)]
    start_method: StartMethod,

    /// Print a line on stderr for each worker when it is ready
    #[arg(long)]
    verbose: bool,
}

impl Options {
    /// Refuses numbers that would overflow in a worker, before a worker is started.
    fn check(self) -> Result<Options, clap::Error> {
        match self.numbers.iter().find(|number| {
            number.checked_pow(self.exponent).is_none()
        }) {
            None => Ok(self),
            Some(number) => Err(clap::Error::raw(
                clap::error::ErrorKind::ValueValidation,
                format!(
                    "{number} to the power of {} does not fit into 64 bits",
                    self.exponent
                ),
            )),
        }
    }
}

fn main() -> anyhow::Result<()> {
    end_without_reader();
    proc_core::init();
    let Options {
        numbers,
        processes,
        exponent,
        max_tasks_per_child,
        start_method,
        verbose,
    } = options();
    let settings = program::Settings {
        processes: processes.into(),
        exponent,
        verbose,
        max_tasks_per_child: max_tasks_per_child.into(),
        start_method,
        numbers,
    };
    program::run(settings)
}

/// Reads the command line. A wrong one ends the program with one line and exit code 2.
fn options() -> Options {
    let options =
        clap::Parser::try_parse().and_then(Options::check);
    options.unwrap_or_else(|error| {
        if error.use_stderr() {
            let message = error.to_string();
            eprintln!(
                "{}",
                message.lines().next().unwrap_or_default()
            );
            std::process::exit(2);
        }
        error.exit() // --help and --version
    })
}

/// Exit code of a process whose output nobody reads any more, as in `… | head -1`. A shell shows
/// the same code for a program that SIGPIPE has killed.
const NO_READER: i32 = 128 + 13;

/// Makes this process end without a message when nobody reads its output any more. `println!`
/// panics in that case, and the hook that is set here ends the process before the panic is printed.
///
/// SIGPIPE stays ignored, since a message to a process that is dead must be an error.
fn end_without_reader() {
    let earlier = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        let message =
            panic.payload_as_str().unwrap_or_default();
        if message.starts_with(
            "failed printing to stdout: Broken pipe",
        ) {
            std::process::exit(NO_READER);
        }
        earlier(panic);
    }));
}
