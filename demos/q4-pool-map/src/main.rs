//! Reads the command line and runs the program in `program.rs`, which the page shows.
//!
//! Run it: `cargo run -p q4-pool-map`, or with numbers of your own:
//! `cargo run -p q4-pool-map -- --processes 2 1 2 3`.
//! `cargo run -p q4-pool-map -- --help` lists what can be set.

#[expect(
    dead_code,
    reason = "its `main` is for a copy of the file alone"
)]
mod program;

/// The last number whose square an `i64` can hold.
const MAX: i64 = 3_037_000_499;

/// A pool of workers that squares numbers.
#[derive(clap::Parser)]
#[command(version)]
struct Options {
    /// Numbers to square
    #[arg(
        default_values_t = [3, 4, 5, 6, 6, 7, 87, 8, 8],
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-MAX..=MAX)
    )]
    numbers: Vec<i64>,

    /// How many workers the pool has
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    processes: u16,
}

fn main() -> anyhow::Result<()> {
    end_without_reader();
    proc_core::init();
    let Options { numbers, processes } = options();
    program::run(processes.into(), numbers)
}

/// Reads the command line. A wrong one ends the program with one line and exit code 2.
fn options() -> Options {
    clap::Parser::try_parse().unwrap_or_else(
        |error: clap::Error| {
            if error.use_stderr() {
                let message = error.to_string();
                eprintln!(
                    "{}",
                    message
                        .lines()
                        .next()
                        .unwrap_or_default()
                );
                std::process::exit(2);
            }
            error.exit() // --help and --version
        },
    )
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
