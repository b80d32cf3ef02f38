//! The command line: the options of the program, and its end when nobody reads its output.

/// The most workers that can be asked for.
pub(crate) const MAX_WORKERS: usize = 64;

/// Does the same work with threads and with processes, and compares them.
#[derive(clap::Parser)]
#[command(version)]
pub(crate) struct Options {
    /// About how many seconds to measure, from 0.1 to 60
    #[arg(long, default_value_t = 2.0, value_parser = seconds, allow_negative_numbers = true)]
    pub(crate) seconds: f64,

    /// How many threads, and then processes, share the work [default: one for each core]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=MAX_WORKERS as i64), allow_negative_numbers = true)]
    pub(crate) workers: Option<u8>,
}

fn seconds(text: &str) -> Result<f64, String> {
    let seconds = text
        .parse()
        .ok()
        .filter(|seconds| (0.1..=60.0).contains(seconds));
    seconds.ok_or_else(|| {
        "it is no number from 0.1 to 60".into()
    })
}

/// Reads the command line. A wrong one ends the program with one line and exit code 2.
pub(crate) fn options() -> Options {
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
pub(crate) fn end_without_reader() {
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
