//! The compiler refuses a function that carries data, and its message says what to do.

use std::process::Command;

tests! {
    functions_that_carry_data_are_refused;
}

const MESSAGE: &str = "this function captures variables (or is a function pointer), and captured \
                       data cannot cross to another process: use a `fn` item or a closure that \
                       captures nothing, and pass the data as its argument";

const REFUSED: [&str; 15] = [
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
];

/// Compiles `src/bin/refusals.rs`. The error is what the compiler said.
fn compile(refused: &str) -> Result<(), String> {
    let output = Command::new(env!("CARGO"))
        .args(["rustc", "--quiet", "--offline", "--locked", "--package", "proc-tests"])
        .args(["--bin", "refusals", "--color", "never", "--", "--cfg"])
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
    assert_eq!(compile("nothing"), Ok(()));
    for refused in REFUSED {
        let said = compile(refused).expect_err(refused);
        assert!(said.contains(MESSAGE), "{refused}:\n{said}");
        assert!(said.contains("error[E0080]"), "{refused}:\n{said}");
        // The caller's own line is named.
        assert!(said.contains("src/bin/refusals.rs:"), "{refused}:\n{said}");
    }
}
