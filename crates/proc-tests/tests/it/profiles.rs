//! The linker keeps the constructor that a fork server needs, however a program is built.
//!
//! Each test builds a small workspace of its own: a program, and a library that calls proc-core for
//! it. That takes minutes, so these tests run only with `--ignored`, as in `.ci/run`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::support::Running;
use crate::support::cargo::{dependency_on_core, host, rustc, take_versions, told_by, write};

tests! {
    #[ignore = "builds a program: .ci/run runs it"]
    optimized_for_size_with_link_time_optimization_stripped_and_aborting;
    #[ignore = "builds a program: .ci/run runs it"]
    thin_link_time_optimization;
    #[ignore = "builds a program: .ci/run runs it"]
    linked_statically;
    #[ignore = "builds a program: .ci/run runs it"]
    in_a_rust_library_that_is_loaded_with_the_program;
}

/// The program has a thread before it uses proc-core, so only the constructor can make a fork
/// server.
const MAIN: &str = r#"
fn main() {
    println!("main");
    std::thread::spawn(|| loop { std::thread::park() });
    for start_method in [proc_core::StartMethod::Forkserver, proc_core::StartMethod::Spawn] {
        println!("{:?}", profiled::used(start_method));
    }
}
"#;

const LIB: &str = r#"
use proc_core::{Child, StartMethod, Error, Pool, Process};
pub fn used(start_method: StartMethod) -> Result<(u32, Vec<u32>), Error> {
    let child = Process::new(|x: u32| x + 1, 41).start_method(start_method).start();
    let pool = Pool::builder().processes(2).start_method(start_method).build()?;
    Ok((child.and_then(Child::join)?, pool.map(|x: u32| x * x, 0..4)?))
}
"#;

/// What the program prints. `main` is printed once, though the program is executed again.
const TOLD: &str = "main\nOk((42, [0, 1, 4, 9]))\nOk((42, [0, 1, 4, 9]))\n";

/// Makes the workspace `name`, whose library is of `kind`.
fn workspace(name: &str, kind: &str) -> PathBuf {
    let root = Path::new(env!("CARGO_TARGET_TMPDIR")).join("profiles").join(name);
    let core = dependency_on_core();
    write(
        &root.join("Cargo.toml"),
        "[workspace]\nmembers = [\"lib\", \"app\"]\nresolver = \"3\"\n",
    );
    let package = |name: &str| format!("[package]\nname = {name:?}\nedition = \"2024\"\n");
    let lib = format!("{}[lib]\ncrate-type = [{kind:?}]\n", package("profiled"));
    write(&root.join("lib/Cargo.toml"), &format!("{lib}[dependencies]\n{core}\n"));
    write(&root.join("lib/src/lib.rs"), LIB);
    let dependencies = format!("[dependencies]\n{core}\nprofiled = {{ path = \"../lib\" }}\n");
    write(&root.join("app/Cargo.toml"), &format!("{}{dependencies}", package("app")));
    write(&root.join("app/src/main.rs"), MAIN);
    take_versions(&root);
    root
}

/// Builds and runs the program, in a profile that is set up by `settings`.
fn is_used(name: &str, kind: &str, flags: &str, settings: &[(&str, &str)]) {
    let root = workspace(name, kind);
    let host = &host();
    let mut build = Command::new(env!("CARGO"));
    build.current_dir(&root).env_remove("CARGO_ENCODED_RUSTFLAGS").env("RUSTFLAGS", flags);
    build.envs(
        settings
            .iter()
            .map(|(setting, value)| (format!("CARGO_PROFILE_RELEASE_{setting}"), value.to_owned())),
    );
    // With `--target`, the flags do not reach build scripts and procedural macros.
    build.args(["build", "--quiet", "--release", "--offline", "-p", "app", "--target", host]);
    build.arg("--target-dir").arg(root.join("target"));
    told_by(build);
    let built = root.join("target").join(host).join("release");
    let mut program = Command::new(built.join("app"));
    let libraries = PathBuf::from(rustc(&["--print", "target-libdir"]));
    let paths = [built.as_path(), &built.join("deps"), &libraries].map(Path::to_owned);
    program.env_clear().stdout(Stdio::piped());
    program.env("LD_LIBRARY_PATH", std::env::join_paths(paths).expect("paths have no colon"));
    assert_eq!(Running::start(program).finish().succeeded(), TOLD, "{name}");
}

fn optimized_for_size_with_link_time_optimization_stripped_and_aborting() {
    let settings = [
        ("LTO", "fat"),
        ("OPT_LEVEL", "z"),
        ("STRIP", "symbols"),
        ("CODEGEN_UNITS", "1"),
        ("PANIC", "abort"),
    ];
    is_used("small", "lib", "", &settings);
}

fn thin_link_time_optimization() {
    is_used("thin", "lib", "", &[("LTO", "thin"), ("OPT_LEVEL", "3")]);
}

fn linked_statically() {
    let _ = writeln!(std::io::stderr(), "needs libc.a, which is part of libc6-dev");
    is_used("static", "lib", "-C target-feature=+crt-static", &[("OPT_LEVEL", "0")]);
}

fn in_a_rust_library_that_is_loaded_with_the_program() {
    is_used("dylib", "dylib", "-C prefer-dynamic", &[("OPT_LEVEL", "0")]);
}
