//! `init`: missing, late, repeated.

use proc_core::{Pool, Process, StartMethod};

use crate::{Arguments, Scenario};

pub(crate) const SCENARIOS: &[(&str, Scenario)] = &[
    ("init-missing", init_missing),
    ("init-late", init_late),
    ("init-twice", init_twice),
    ("init-in-child", init_in_child),
];

/// The scenarios that call `init` themselves, or do not.
pub(crate) fn is_without_init(name: &str) -> bool {
    const NAMES: [&str; 8] = [
        "init-missing",
        "init-late",
        "many-ends-before-init",
        "file-sizes",
        "hidden-directory",
        "hooks",
        "refused-call",
        "rights",
    ];
    NAMES.contains(&name)
}

fn init_missing(arguments: &Arguments) {
    use_everything(arguments.context);
}

/// With a second thread that lives on.
fn init_late(arguments: &Arguments) {
    let (stop, stopped) = std::sync::mpsc::channel::<()>();
    let thread = std::thread::spawn(move || stopped.recv());
    proc_core::init();
    use_everything(arguments.context);
    drop(stop);
    assert!(thread.join().expect("it does not panic").is_err());
}

fn init_twice(arguments: &Arguments) {
    proc_core::init();
    use_everything(arguments.context);
    proc_core::init();
    use_everything(arguments.context);
}

fn init_in_child(arguments: &Arguments) {
    let nested = |x: u32| {
        proc_core::init();
        use_everything(StartMethod::Forkserver);
        proc_core::init();
        x
    };
    let child = Process::new(nested, 5).start_method(arguments.context).start();
    println!("process {}", child.and_then(proc_core::Child::join).expect("init is harmless"));
    let pool = Pool::builder().processes(1).start_method(arguments.context).build();
    println!("pool {}", pool.and_then(|pool| pool.apply(nested, 6)).expect("init is harmless"));
}

fn use_everything(context: StartMethod) {
    let child = Process::new(double, 21).start_method(context).start().expect("it can be started");
    assert_eq!(child.join().expect("it returns"), 42);
    let pool = Pool::builder().processes(2).start_method(context).build();
    let pool = pool.expect("it can be built");
    assert_eq!(pool.map(double, 0..10).expect("nothing fails").iter().sum::<u32>(), 90);
    println!("used");
}

fn double(x: u32) -> u32 {
    2 * x
}
