//! Reads the command line and runs the program in `program.rs`, which the page shows.
//!
//! Run it: `cargo run -p q6-four-processes`, or `cargo run -p q6-four-processes -- --processes 8`.
//! `cargo run -p q6-four-processes -- --help` lists what can be set.

#[expect(dead_code, reason = "its `main` is for a copy of the file alone")]
mod program;

/// Four processes, each of which prints a different number.
#[derive(clap::Parser)]
#[command(version)]
struct Options {
    /// How many processes to start
    #[arg(long, value_name = "N", default_value_t = 4, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1000))]
    processes: u16,
}

fn main() -> anyhow::Result<()> {
    proc_core::init();
    program::run(options().processes)
}

/// Reads the command line. A wrong one ends the program with one line and exit code 2.
fn options() -> Options {
    clap::Parser::try_parse().unwrap_or_else(|error: clap::Error| {
        if error.use_stderr() {
            let message = error.to_string();
            eprintln!("{}", message.lines().next().unwrap_or_default());
            std::process::exit(2);
        }
        error.exit() // --help and --version
    })
}
