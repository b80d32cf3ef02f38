//! A program that calls `init` late or never: `LATE_WAY=… LATE_START_METHOD=… late`.
//!
//! An executed fork server has the same environment. If `main` ran there, it would do the same
//! again. So each way checks that `main` runs once.

use std::fs::OpenOptions;
use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};
use proc_core::{Child, Error, ErrorKind, Pool, Process, StartMethod};

/// How often the constructor below has run in this process.
static CONSTRUCTED: AtomicU32 = AtomicU32::new(0);

ctor::declarative::ctor! {
    #[ctor(unsafe)]
    #[allow(unsafe_code)]
    fn construct() {
        CONSTRUCTED.fetch_add(1, Ordering::Relaxed);
    }
}

fn constructed(_: ()) -> u32 {
    CONSTRUCTED.load(Ordering::Relaxed)
}

/// A file with a letter for each run of `main`. It is removed when this is dropped.
struct Runs(PathBuf);

impl Runs {
    fn one_more() -> Runs {
        let path = std::env::temp_dir().join("runs-of-main");
        let mut file =
            OpenOptions::new().append(true).create(true).open(&path).expect("it is ours");
        file.write_all(b"x").expect("there is room");
        Runs(path)
    }
}

impl Drop for Runs {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

fn main() {
    let runs = Runs::one_more();
    nix::sys::prctl::set_pdeathsig(Signal::SIGKILL).expect("Linux can");
    let way = std::env::var("LATE_WAY").expect("a way is given");
    let start_method = match std::env::var("LATE_START_METHOD").as_deref() {
        Ok("spawn") => StartMethod::Spawn,
        Ok("fork") => StartMethod::Fork,
        _ => StartMethod::Forkserver,
    };
    match way.as_str() {
        "parked" | "parked-no-init" | "deaf" => {
            for _ in 0..2 {
                match way.as_str() {
                    "deaf" => std::thread::spawn(park_with_blocked_signals),
                    _ => std::thread::spawn(park),
                };
            }
            if way != "parked-no-init" {
                proc_core::init();
            }
            use_everything(start_method);
        }
        "no-init" => use_everything(start_method),
        "no-init-thread" => {
            // The library is first used outside the main thread.
            let thread = std::thread::spawn(move || use_everything(start_method));
            thread.join().expect("it does not panic");
        }
        "fork-no-init" => {
            let pool = Pool::builder().processes(2).start_method(StartMethod::Fork).build();
            let results = pool.and_then(|pool| pool.map(increment, 0..3));
            assert_eq!(results.expect("there was one thread"), [1, 2, 3]);
        }
        "fork-threads" => {
            std::thread::spawn(park);
            let child = Process::new(increment, 1).start_method(StartMethod::Fork).start();
            let error = child.map(drop).expect_err("there are two threads");
            assert!(
                error.kind() == ErrorKind::Start && error.to_string().contains("threads"),
                "{error}"
            );
        }
        "tokio" => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("threads can be made").block_on(init_and_use_async(start_method));
        }
        "tokio-no-init" => {
            let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build();
            runtime.expect("threads can be made").block_on(use_async(start_method));
        }
        "tokio-current" => {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
            runtime.expect("it can be made").block_on(async {
                // This starts a thread of tokio, for blocking work.
                tokio::task::spawn_blocking(|| ()).await.expect("it does not panic");
                init_and_use_async(start_method).await;
            });
        }
        "stdin-first" => {
            assert_eq!(read_stdin(), expected_stdin());
            proc_core::init();
            use_everything(start_method);
        }
        "stdin-last" => {
            use_everything(start_method);
            assert_eq!(read_stdin(), expected_stdin());
        }
        "constructors" => {
            assert_eq!(constructed(()), 1);
            let child = Process::new(constructed, ()).start_method(start_method).start();
            assert_eq!(child.and_then(Child::join).expect("it returns"), 1);
            let pool = Pool::builder().processes(2).start_method(start_method).build();
            let pool = pool.expect("it can be built");
            assert_eq!(pool.map(constructed, [(); 10]).expect("nothing fails"), [1; 10]);
        }
        other => panic!("no such way: {other}"),
    }
    let written = std::fs::read_to_string(&runs.0).expect("it is ours");
    assert_eq!(written, "x", "main ran more than once");
    println!("used");
}

fn park() {
    loop {
        std::thread::park();
    }
}

fn park_with_blocked_signals() {
    SigSet::all().thread_block().expect("signals can be blocked");
    park();
}

fn read_stdin() -> String {
    let mut text = String::new();
    std::io::stdin().read_to_string(&mut text).expect("it can be read");
    text
}

/// The stdin that the test gives this program.
fn expected_stdin() -> String {
    (1..=3).map(|number| format!("line {number}\n")).collect()
}

fn increment(x: u32) -> u32 {
    x + 1
}

fn die(code: i32) {
    std::process::exit(code);
}

fn sleep(_: u32) {
    std::thread::sleep(Duration::from_secs(600));
}

const ROUNDS: u32 = 20;

/// Uses processes and pools in many ways. Exits must be noticed, and timeouts kept.
fn use_everything(start_method: StartMethod) {
    for x in 0..ROUNDS {
        let child = Process::new(increment, x).start_method(start_method).start();
        assert_eq!(child.and_then(Child::join).expect("it returns"), x + 1);
    }
    let pool =
        Pool::builder().processes(2).start_method(start_method).build().expect("it can be built");
    for x in 0..ROUNDS {
        assert_eq!(pool.map(increment, [x, 5]).expect("nothing fails"), [x + 1, 6]);
        expect_death(pool.apply(die, 7));
        let late = pool.options().timeout(Duration::from_millis(20)).map(sleep, [x]);
        assert!(late.expect_err("it sleeps").is_timeout());
        let task = pool.apply_async(sleep, x).expect("the pool is open");
        assert!(task.cancel());
        assert!(task.get().expect_err("it was cancelled").is_cancelled());
    }
    let child = Process::new(sleep, 1).start_method(start_method).start();
    let mut child = child.expect("it can be started");
    assert_eq!(child.join_timeout(Duration::from_millis(10)).expect("it sleeps"), None);
    assert!(child.stop(Duration::from_secs(20)).expect_err("it was stopped").is_death());
}

async fn init_and_use_async(start_method: StartMethod) {
    proc_core::init();
    use_async(start_method).await;
}

async fn use_async(start_method: StartMethod) {
    let pool =
        Pool::builder().processes(2).start_method(start_method).build().expect("it can be built");
    for x in 0..ROUNDS {
        let task = pool.apply_async(increment, x).expect("the pool is open");
        assert_eq!(task.await.expect("nothing fails"), x + 1);
        expect_death(pool.apply_async(die, 7).expect("the pool is open").await);
        let options = pool.options().timeout(Duration::from_millis(20));
        let late = options.apply_async(sleep, x).expect("the pool is open").await;
        assert!(late.expect_err("it sleeps").is_timeout());
        let task = pool.apply_async(sleep, x).expect("the pool is open");
        assert!(task.cancel());
        assert!(task.await.expect_err("it was cancelled").is_cancelled());
        let child = Process::new(increment, x).start_method(start_method).start();
        assert_eq!(child.and_then(Child::join).expect("it returns"), x + 1);
    }
    use_everything(start_method);
}

#[track_caller]
fn expect_death<T>(result: Result<T, Error>) {
    let error = result.map(drop).expect_err("it exits");
    assert!(error.is_death(), "{error}");
    assert_eq!(error.exit_status().and_then(|status| status.code()), Some(7));
}
