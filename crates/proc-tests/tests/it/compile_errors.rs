//! The compiler refuses a function that carries data, and its message says what to do. The page
//! `docs/tour.md` names the messages that newcomers meet first.

use std::process::Command;

tests! {
    functions_that_carry_data_are_refused;
    shared_state_of_wrong_types_is_refused;
    ends_of_pipes_are_refused_as_data;
    page_has_the_messages_of_first_errors;
}

const MESSAGE: &str = "this function captures variables (or is a function pointer), and captured \
                       data cannot cross to another process: use a `fn` item or a closure that \
                       captures nothing, and pass the data by `with` of a pool, or as part of the \
                       argument";

const REFUSED: [&str; 16] = [
    "process",
    "pointer",
    "map",
    "try_map",
    "imap",
    "imap_unordered",
    "apply",
    "apply_async",
    "map_async",
    "preload",
    "options",
    "initializer",
    "state",
    "worker_exit",
    "with_state",
    "broadcast",
];

/// Types that shared state cannot have, and what the compiler says of each.
const WRONG_TYPES: [(&str, &str); 8] = [
    ("value of a string", "the trait bound `String: bytemuck::pod::Pod` is not satisfied"),
    ("value of a reference", "the trait bound `&str: bytemuck::pod::Pod` is not satisfied"),
    ("value of a bool", "the trait bound `bool: bytemuck::pod::Pod` is not satisfied"),
    ("mutex of a vector", "the trait bound `Vec<u8>: bytemuck::pod::Pod` is not satisfied"),
    (
        "array of options",
        "the trait bound `u32: bytemuck::pod_in_option::PodInOption` is not satisfied",
    ),
    (
        "array of large elements",
        "an element of an Array has 1, 2, 4 or 8 bytes: use one Value for larger data",
    ),
    ("value of nothing", "there is nothing to share in values without bytes"),
    ("mutex of nothing", "there is nothing to protect in values without bytes"),
];

/// The mistakes in `src/bin/first_errors.rs`, in the order of the table in `docs/tour.md`.
const FIRST_ERRORS: [&str; 12] = [
    "captures",
    "moves",
    "derive",
    "reference",
    "anyhow",
    "two arguments",
    "no argument",
    "references",
    "vector",
    "not started",
    "no result",
    "result",
];

/// Compiles a program of `src/bin`. The error is what the compiler said.
fn compile(program: &str, refused: &str) -> Result<(), String> {
    let output = Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--offline", "--locked", "--package", "proc-tests"])
        .args(["--bin", program, "--color", "never", "--", "--cfg"])
        .arg(format!("refused={refused:?}"))
        .current_dir(env!("CARGO_MANIFEST_DIR"))
        .output()
        .expect("cargo runs the tests, so it is there");
    match output.status.success() {
        true => Ok(()),
        false => Err(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

fn functions_that_carry_data_are_refused() {
    // Without the refused line the program compiles.
    assert_eq!(compile("refusals", "nothing"), Ok(()));
    for refused in REFUSED {
        let said = compile("refusals", refused).expect_err(refused);
        assert!(said.contains(MESSAGE), "{refused}:\n{said}");
        assert!(said.contains("error[E0080]"), "{refused}:\n{said}");
        // The caller's own line is named.
        assert!(said.contains("src/bin/refusals.rs:"), "{refused}:\n{said}");
    }
}

fn shared_state_of_wrong_types_is_refused() {
    for (refused, why) in WRONG_TYPES {
        let said = compile("refusals", refused).expect_err(refused);
        assert!(said.contains(why), "{refused}:\n{said}");
        assert!(said.contains("src/bin/refusals.rs:"), "{refused}:\n{said}");
    }
}

/// An end of a pipe belongs to one process, and data of `with` go to many.
fn ends_of_pipes_are_refused_as_data() {
    let said = compile("refusals", "connection").expect_err("it is no data");
    assert!(said.contains("cannot be shared between threads safely"), "{said}");
    assert!(said.contains("src/bin/refusals.rs:"), "{said}");
}

fn page_has_the_messages_of_first_errors() {
    let page = concat!(env!("CARGO_MANIFEST_DIR"), "/../../docs/tour.md");
    let page = std::fs::read_to_string(page).expect("the page is there");
    let head = "| message | what to do |\n|---|---|\n";
    let rows = page.split_once(head).expect("the page has the table").1;
    let rows = rows.lines().take_while(|line| line.starts_with("| "));
    let messages: Vec<_> = rows.map(message).collect();
    assert_eq!(messages.len(), FIRST_ERRORS.len(), "{messages:?}");
    assert_eq!(compile("first_errors", "nothing"), Ok(()));
    for (message, refused) in messages.iter().zip(FIRST_ERRORS) {
        let said = compile("first_errors", refused).expect_err(refused);
        let mut rest = said.as_str();
        // The page leaves out some words of a message.
        for part in message.split('…') {
            let found = rest.split_once(part);
            rest = found.unwrap_or_else(|| panic!("{refused}: no {part:?} in\n{said}")).1;
        }
    }
}

/// The message in a row of the table. It is code, between single or double backticks.
fn message(row: &str) -> &str {
    let cell = row.trim_start_matches("| ").split(" | ").next().unwrap_or_default();
    let double = cell.strip_prefix("`` ").and_then(|cell| cell.strip_suffix(" ``"));
    double.unwrap_or(cell.trim_matches('`'))
}
