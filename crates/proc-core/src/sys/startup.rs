//! What runs before `main`: how an executed copy of the program takes its role before anything of the
//! program has run in it.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};

/// Has `$function`, an `extern "C" fn()`, called before `main`, after the runtime's own preparations and
/// before constructors of the program's that have no priority.
///
/// The value of `$name` is to be read where the function is counted on: a linker leaves out what nobody
/// refers to.
macro_rules! before_main {
    ($name:ident: $function:path) => {
        #[used]
        #[allow(unsafe_code)]
        #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
        #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array.00101"))]
        static $name: extern "C" fn() = $function;
    };
}
pub(crate) use before_main;

/// Opens what is closed of stdin, stdout and stderr, so that nothing else gets their numbers and has
/// somebody's output written into it.
///
/// Rust's runtime does so before `main`; not before constructors, nor in a program of another language.
pub(crate) fn fill_standard_streams() {
    for number in 0..3 {
        // SAFETY: the number is only asked about.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        if fcntl(fd, FcntlArg::F_GETFD).is_err() {
            let Ok(nothing) = nothing(number) else { return };
            // The lowest number that is free is this one.
            if nothing.as_raw_fd() == number {
                std::mem::forget(nothing);
            }
        }
    }
}

/// A stream that is empty, or takes anything.
fn nothing(number: i32) -> io::Result<OwnedFd> {
    let device = std::fs::OpenOptions::new().read(number == 0).write(number > 0).open("/dev/null");
    match device {
        Ok(device) => Ok(device.into()),
        // Where there is no such device, a pipe whose other end is closed.
        Err(_) => {
            let (reader, writer) = std::io::pipe()?;
            Ok(if number == 0 { reader.into() } else { writer.into() })
        }
    }
}

/// A stdin without a byte.
pub(crate) fn empty_stdin() -> io::Result<OwnedFd> {
    let (reader, _) = std::io::pipe()?;
    Ok(reader.into())
}
