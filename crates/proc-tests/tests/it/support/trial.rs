//! Turns the tests of a file into tests of the one test program.

use libtest_mimic::Trial;

/// Lists the tests of a file. A test with start methods becomes one test for each of them.
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

/// Makes a test. Its name is its path in this crate.
pub(crate) fn trial(path: &'static str, test: impl FnOnce() + Send + 'static) -> Trial {
    let (_, name) = path.split_once("::").expect("the test is in a module of this crate");
    Trial::test(name, move || {
        // The thread has the name of the test, as in libtest: so the message of a panic names it.
        let thread = std::thread::Builder::new().name(name.to_owned()).spawn(test)?;
        thread.join().unwrap_or_else(|payload| std::panic::resume_unwind(payload));
        Ok(())
    })
}
