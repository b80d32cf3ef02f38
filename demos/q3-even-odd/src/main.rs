//! Reads the command line and runs the program in `program.rs`, which the page shows.
//!
//! Run it: `cargo run -p q3-even-odd`, or with another `N`: `cargo run -p q3-even-odd -- 100`.
//! `cargo run -p q3-even-odd -- --help` lists what can be set.

#[expect(dead_code, reason = "its `main` is for a copy of the file alone")]
mod program;

/// Two processes: one prints the even numbers below N, the other the odd ones.
#[derive(clap::Parser)]
#[command(version)]
struct Options {
    /// Where to stop: the first number that is not printed
    #[arg(default_value_t = 15, allow_negative_numbers = true)]
    n: u32,
}

fn main() -> anyhow::Result<()> {
    proc_core::init();
    program::run(options().n)
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
