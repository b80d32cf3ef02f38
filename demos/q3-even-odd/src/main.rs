//! Reads the command line and runs the program in `program.rs`, which the page shows.
//!
//! Run it: `cargo run -p q3-even-odd`, or with another `N`: `cargo run -p q3-even-odd -- 100`.
//! `cargo run -p q3-even-odd -- --help` lists what can be set.

#[expect(
    dead_code,
    reason = "its `main` is for a copy of the file alone"
)]
mod program;

/// Two processes: one prints the even numbers below N, the other the odd ones.
#[derive(clap::Parser)]
#[command(version)]
struct Options {
    /// The processes print numbers below this one
    #[arg(
        default_value_t = 15,
        allow_negative_numbers = true
    )]
    n: u32,
}

fn main() -> anyhow::Result<()> {
    end_without_reader(); // before `init`: all processes inherit it
    proc_core::init();
    let result = program::run(options().n);
    if result.as_ref().is_err_and(is_without_reader) {
        std::process::exit(NO_READER); // as the process did
    }
    result
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

/// Makes this process, and all that it starts, end without a message when nobody reads their output
/// any more. `println!` panics in that case, and the hook that is set here ends the process before
/// the panic is printed.
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

/// Whether a process has ended because nobody read its output any more.
fn is_without_reader(error: &anyhow::Error) -> bool {
    let status = error
        .downcast_ref()
        .and_then(proc_core::Error::exit_status);
    status.and_then(|status| status.code())
        == Some(NO_READER)
}
