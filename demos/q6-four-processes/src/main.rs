//! Four processes, each of which prints a different number.
//!
//! Run it: `cargo run -p q6-four-processes`, or `cargo run -p q6-four-processes -- --processes 8`

// ANCHOR: program
use proc_core::Process;

fn print_number(number: u16) {
    println!("Process {number} is printing: {number}");
}

fn main() -> anyhow::Result<()> {
    proc_core::init();
    let processes = arguments().processes;

    // Start all of them first: joining each at once would run them one after the other.
    let mut children = Vec::new();
    for number in 0..processes {
        children.push(Process::new(print_number, number).start()?);
    }
    for child in children {
        child.join()?;
    }
    Ok(())
}
// ANCHOR_END: program

/// Four processes, each of which prints a different number.
#[derive(clap::Parser)]
#[command(version)]
struct Arguments {
    /// How many processes to start
    #[arg(long, value_name = "N", default_value_t = 4, allow_negative_numbers = true, value_parser = clap::value_parser!(u16).range(1..=1000))]
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
