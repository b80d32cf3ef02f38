//! How the tests of a file become those of the one test program.

use libtest_mimic::Trial;

/// Lists the tests of a file. A test that takes a start method is one test for each that is named.
///
/// ```text
/// tests! {
///     process_returns: forkserver spawn fork;
///     program_is_there;
///     #[ignore = "takes minutes"]
///     thousand_processes_return;
/// }
/// ```
macro_rules! tests {
    ($($(#[ignore = $why:literal])? $test:ident $(: $($start_method:ident)+)?;)*) => {
        pub(crate) fn tests() -> Vec<libtest_mimic::Trial> {
            let mut tests = Vec::new();
            $( tests.extend(tests!(@trials [$($why)?] $test $($($start_method)+)?)); )*
            tests
        }
    };
    (@trials [] $test:ident) => {
        [$crate::support::trial(concat!(module_path!(), "::", stringify!($test)), $test)]
    };
    (@trials [$why:literal] $test:ident) => {
        tests!(@trials [] $test).map(|trial| trial.with_ignored_flag(true))
    };
    (@trials [] $test:ident $($start_method:ident)+) => {
        [$($crate::support::trial(
            concat!(module_path!(), "::", stringify!($test), "::", stringify!($start_method)),
            || $test(tests!(@start_method $start_method)),
        )),+]
    };
    (@start_method forkserver) => { proc_core::StartMethod::Forkserver };
    (@start_method spawn) => { proc_core::StartMethod::Spawn };
    (@start_method fork) => { proc_core::StartMethod::Fork };
}

/// A test, named by its path in this crate.
pub(crate) fn trial(path: &'static str, test: impl FnOnce() + Send + 'static) -> Trial {
    let (_, name) = path.split_once("::").expect("it is in a module of this crate");
    Trial::test(name, move || {
        // In a thread of its name, as libtest runs it: what is told of a panic names the test.
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(test)?;
        thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        Ok(())
    })
}
