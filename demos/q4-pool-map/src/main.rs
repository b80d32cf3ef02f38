//! A pool of workers that squares numbers.
//!
//! Run it: `cargo run -p q4-pool-map`, or with numbers of your own:
//! `cargo run -p q4-pool-map -- --processes 2 1 2 3`

// ANCHOR: program
use proc_core::Pool;

fn square(x: i64) -> i64 {
    x * x
}

fn main() -> anyhow::Result<()> {
    proc_core::init();
    let Arguments { numbers, processes } = arguments();

    let pool = Pool::builder().processes(processes.into()).build()?;
    let squares = pool.map(square, numbers)?;

    println!("{squares:?}");
    Ok(())
}
// ANCHOR_END: program

/// The last number whose square an `i64` can hold.
const MAX: i64 = 3_037_000_499;

/// A pool of workers that squares numbers.
#[derive(clap::Parser)]
#[command(version)]
struct Arguments {
    /// What to square
    #[arg(
        default_values_t = [3, 4, 5, 6, 6, 7, 87, 8, 8],
        allow_negative_numbers = true,
        value_parser = clap::value_parser!(i64).range(-MAX..=MAX)
    )]
    numbers: Vec<i64>,

    /// How many workers to share the numbers among
    #[arg(long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u16).range(1..=1000))]
    processes: u16,
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
