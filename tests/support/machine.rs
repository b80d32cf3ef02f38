//! What tests need and not every machine has.
//!
//! A test that needs one of these things asks here, and is skipped without it. The last test
//! program of the workspace asks for all of them, and says in one line what was skipped.

#![allow(dead_code, reason = "every test file uses its part of this")]

use std::collections::BTreeSet;
use std::fmt::{self, Display, Formatter};
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::{env, fs, process};

/// Says what this machine does not have, and which tests are skipped for that.
#[derive(Debug)]
pub(crate) struct Missing {
    tests: &'static str,
    why: String,
    /// A variable of the environment. If it is set, as in CI, the tests fail and are not skipped.
    required_by: Option<&'static str>,
}

impl Missing {
    fn new(tests: &'static str, why: impl Into<String>) -> Missing {
        Missing { tests, why: why.into(), required_by: None }
    }

    fn required_by(mut self, variable: &'static str) -> Missing {
        self.required_by = Some(variable);
        self
    }
}

impl Display for Missing {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{} ({})", self.tests, self.why)
    }
}

/// Gives what a test needs. If the machine does not have it, the result is `None`, and a line on
/// stderr says what is skipped: once in each test program, however many tests need it.
///
/// # Panics
///
/// The machine does not have it, and the environment says that it must.
#[track_caller]
pub(crate) fn or_skip<T>(needed: Result<T, Missing>) -> Option<T> {
    static TOLD: Mutex<BTreeSet<&str>> = Mutex::new(BTreeSet::new());
    needed
        .map_err(|missing| {
            let is_required = missing.required_by.is_some_and(|name| env::var_os(name).is_some());
            assert!(!is_required, "missing here: {missing}");
            if TOLD.lock().expect("it is held for a moment").insert(missing.tests) {
                // Not eprintln!, which the test harness would hide.
                let _ = writeln!(std::io::stderr(), "skipped: {missing}");
            }
        })
        .ok()
}

/// The interpreter of the Python programs.
pub(crate) fn python3() -> Result<PathBuf, Missing> {
    in_path("python3").ok_or_else(|| {
        Missing::new("Python programs", "no python3 in PATH")
            .required_by("PROC_CORE_REQUIRE_PYTHON")
    })
}

/// A server for fleets: the one that `PROC_CLUSTER_NATS_SERVER` names, the one in `PATH`, or the
/// one that `.ci/nats-server` has fetched.
pub(crate) fn nats_server() -> Result<PathBuf, Missing> {
    let named = env::var_os("PROC_CLUSTER_NATS_SERVER").map(PathBuf::from);
    let fetched = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/nats/nats-server");
    let places = [named, in_path("nats-server"), Some(fetched)];
    places.into_iter().flatten().find(|place| is_new_enough(place)).ok_or_else(|| {
        Missing::new("fleets", "no nats-server of 2.10.27 or newer: .ci/nats-server gets one")
            .required_by("PROC_CLUSTER_REQUIRE_SERVER")
    })
}

/// Whether the library accepts this server. Debian 12, for one, has an older one.
fn is_new_enough(server: &Path) -> bool {
    let Ok(said) = Command::new(server).arg("--version").output() else { return false };
    let said = String::from_utf8_lossy(&said.stdout);
    let version = said.trim().rsplit('v').next().unwrap_or_default();
    let numbers: Vec<u32> = version.split('.').map_while(|part| part.parse().ok()).collect();
    numbers >= vec![2, 10, 27]
}

/// What makes the book: the mdBook in `PATH`, or the one that `.ci/mdbook` has installed.
pub(crate) fn mdbook() -> Result<PathBuf, Missing> {
    let installed = tools().join("bin/mdbook");
    let places = [in_path("mdbook"), Some(installed)];
    places.into_iter().flatten().find(|place| is_mdbook_0_5(place)).ok_or_else(|| {
        Missing::new("the book", "no mdbook of 0.5.4 or a later 0.5: .ci/mdbook installs one")
            .required_by("PROC_CORE_REQUIRE_BOOK")
    })
}

/// Whether this mdBook makes the book as the tests know it.
fn is_mdbook_0_5(mdbook: &Path) -> bool {
    let Ok(said) = Command::new(mdbook).arg("--version").output() else { return false };
    let said = String::from_utf8_lossy(&said.stdout);
    let patch = said.trim().strip_prefix("mdbook v0.5.").and_then(|patch| patch.parse().ok());
    patch.is_some_and(|patch: u32| patch >= 4)
}

/// Chromium, and the driver by which a test controls it.
pub(crate) fn browser() -> Result<(PathBuf, PathBuf), Missing> {
    in_path("chromium").zip(in_path("chromedriver")).ok_or_else(|| {
        let why =
            "no chromium or no chromedriver in PATH: apt-get install chromium chromium-driver";
        Missing::new("the book in a browser", why).required_by("PROC_CORE_REQUIRE_BOOK")
    })
}

/// axe-core, the script that checks whether all readers can read and reach everything on a page.
pub(crate) fn axe() -> Result<PathBuf, Missing> {
    let script = tools().join("axe.min.js");
    script.is_file().then_some(script).ok_or_else(|| {
        Missing::new("accessibility of the book", "no axe-core in target/tools: .ci/axe gets it")
            .required_by("PROC_CORE_REQUIRE_BOOK")
    })
}

/// Tools that read the coverage data that programs write: `llvm-profdata` and `llvm-cov`.
///
/// They read the files of compilers that have the same LLVM. So they are the compiler's own
/// (`rustup component add llvm-tools`), those in `PATH`, or those that `.ci/llvm-tools` has
/// installed, if their version is right.
pub(crate) fn llvm_tools() -> Result<(PathBuf, PathBuf), Missing> {
    let rustc = || Command::new(env::var_os("RUSTC").unwrap_or_else(|| "rustc".into()));
    let said = |mut command: Command| {
        let output = command.output().map(|output| output.stdout).unwrap_or_default();
        String::from_utf8_lossy(&output).into_owned()
    };
    let (mut version, mut libraries) = (rustc(), rustc());
    version.arg("-vV");
    libraries.args(["--print", "target-libdir"]);
    let version = said(version);
    let version = version.lines().find_map(|line| line.strip_prefix("LLVM version: "));
    let major = version.and_then(|version| version.split('.').next()).unwrap_or("?");
    let own = Path::new(said(libraries).trim()).join("../bin");
    let find = |tool: &str| {
        let installed = tools().join("llvm/bin").join(tool);
        let places = [Some(own.join(tool)), in_path(tool), in_path(&format!("{tool}-{major}"))];
        places.into_iter().flatten().chain([installed]).find(|place| {
            let mut tool = Command::new(place);
            tool.arg("--version");
            said(tool).contains(&format!("LLVM version {major}."))
        })
    };
    find("llvm-profdata").zip(find("llvm-cov")).ok_or_else(|| {
        let why = format!("no llvm-profdata and llvm-cov {major}: .ci/llvm-tools installs them");
        Missing::new("coverage", why).required_by("PROC_CORE_REQUIRE_LLVM_TOOLS")
    })
}

/// The directories of the programs that the recipe about coverage uses: coverage.py and
/// cargo-llvm-cov, those in `PATH` or those that `.ci/coverage-tools` has installed.
pub(crate) fn coverage_tools() -> Result<Vec<PathBuf>, Missing> {
    let find = |program: &str, directory: &str| {
        let installed = tools().join(directory).join(program);
        in_path(program).or_else(|| installed.is_file().then_some(installed))
    };
    let found = find("coverage", "coverage/bin").zip(find("cargo-llvm-cov", "bin"));
    let directory = |program: PathBuf| program.parent().map(Path::to_owned);
    let found = found.and_then(|(python, rust)| directory(python).zip(directory(rust)));
    found.map(|(python, rust)| vec![python, rust]).ok_or_else(|| {
        let why = "no coverage or no cargo-llvm-cov: .ci/coverage-tools installs them";
        Missing::new("the recipe about coverage", why).required_by("PROC_CORE_REQUIRE_LLVM_TOOLS")
    })
}

/// Where the scripts of `.ci` put programs that only tests need.
fn tools() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../target/tools")
}

/// Network namespaces, which are hosts for a test, and bridges between them.
pub(crate) fn network_namespaces() -> Result<(), Missing> {
    let name = format!("probe-{}", process::id());
    let made = ip(&format!("netns add {name}")).and_then(|()| {
        let bridge = ip(&format!("-n {name} link add bridge type bridge"));
        let _ = ip(&format!("netns del {name}"));
        bridge
    });
    made.map_err(|error| {
        let why = format!("no network namespaces: {error}; run as root, with ip");
        Missing::new("several hosts", why).required_by("PROC_CLUSTER_REQUIRE_NAMESPACES")
    })
}

/// Runs `ip`, which sets up networks.
pub(crate) fn ip(arguments: &str) -> Result<(), String> {
    let output = Command::new("ip").args(arguments.split(' ')).output();
    let output = output.map_err(|error| format!("ip: {error}"))?;
    let said = String::from_utf8_lossy(&output.stderr);
    if output.status.success() { Ok(()) } else { Err(format!("ip {arguments}: {}", said.trim())) }
}

/// Root's rights: to give up rights, to become another user, to mount, and to filter system calls.
pub(crate) fn root() -> Result<(), Missing> {
    let is_root = nix::unistd::geteuid().is_root();
    is_root.then_some(()).ok_or_else(|| Missing::new("rights and other users", "not run as root"))
}

/// A cgroup whose memory can be limited.
pub(crate) fn cgroup() -> Result<(), Missing> {
    const PLACES: [(&str, &str); 3] = [
        ("/sys/fs/cgroup/memory", "memory.limit_in_bytes"),
        ("/sys/fs/cgroup", "memory.max"),
        ("/sys/fs/cgroup/unified", "memory.max"),
    ];
    let can_be_made = PLACES.iter().any(|(root, limit)| {
        let cgroup = Path::new(root).join(format!("probe-{}", process::id()));
        let made = fs::create_dir(&cgroup).and_then(|()| fs::write(cgroup.join(limit), "1G"));
        let _ = fs::remove_dir(&cgroup);
        made.is_ok()
    });
    can_be_made.then_some(()).ok_or_else(|| {
        Missing::new("cgroups", "no cgroup with a limit can be made: run as root, on a machine that systemd has started")
    })
}

/// The tool that reads the unit for systemd.
pub(crate) fn systemd_analyze() -> Result<PathBuf, Missing> {
    in_path("systemd-analyze")
        .ok_or_else(|| Missing::new("the unit for systemd", "no systemd-analyze in PATH"))
}

fn in_path(program: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path).map(|directory| directory.join(program)).find(|file| file.is_file())
}
