//! Two processes: one prints the even numbers below `N`, the other the odd ones.
//!
//! Run it: `cargo run -p q3-even-odd`, or with another `N`: `cargo run -p q3-even-odd -- 100`

// ANCHOR: program
use proc_core::Process;

fn even(n: u32) {
    for i in (0..n).step_by(2) {
        println!("even: {i}");
    }
}

fn odd(n: u32) {
    for i in (1..n).step_by(2) {
        println!("odd: {i}");
    }
}

fn main() -> anyhow::Result<()> {
    proc_core::init();
    let n = arguments().n;

    let evens = Process::new(even, n).name("even").start()?;
    let odds = Process::new(odd, n).name("odd").start()?;

    evens.join()?;
    odds.join()?;

    println!("END!");
    Ok(())
}
// ANCHOR_END: program

/// Two processes: one prints the even numbers below N, the other the odd ones.
#[derive(clap::Parser)]
#[command(version)]
struct Arguments {
    /// Where to stop: the first number that is not printed
    #[arg(default_value_t = 15, allow_negative_numbers = true)]
    n: u32,
}

/// The command line, or one line about what is wrong with it and exit code 2.
fn arguments() -> Arguments {
    clap::Parser::try_parse().unwrap_or_else(|error: clap::Error| {
        if error.use_stderr() {
            let message = error.to_string();
            eprintln!("{}", message.lines().next().unwrap_or_default());
            std::process::exit(2);
        }
        error.exit() // --help and --version
    })
}
