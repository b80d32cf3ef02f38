//! Runs code before `main`, so that an executed copy of the program takes its role before its
//! `main` begins.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, FdFlag, fcntl};
use nix::libc;

use super::image::{self, Constructor};

/// Arguments of each constructor, from the loader: the program's arguments and its environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments {
    pub(crate) count: libc::c_int,
    pub(crate) values: *const *const libc::c_char,
    pub(crate) environment: *const *const libc::c_char,
}

/// Makes `$function`, which takes [`Arguments`], a constructor of the program: it is called before
/// `main`.
///
/// Code that relies on the call must read the value of `$name`: a linker leaves out statics that
/// nothing refers to.
macro_rules! before_main {
    ($name:ident: $function:path) => {
        #[used]
        #[allow(unsafe_code)]
        #[cfg_attr(target_vendor = "apple", unsafe(link_section = "__DATA,__mod_init_func"))]
        #[cfg_attr(not(target_vendor = "apple"), unsafe(link_section = ".init_array"))]
        static $name: $crate::sys::Constructor = {
            extern "C" fn call(
                count: nix::libc::c_int,
                values: *const *const nix::libc::c_char,
                environment: *const *const nix::libc::c_char,
            ) {
                $function($crate::sys::Arguments { count, values, environment });
            }
            call
        };
    };
}
pub(crate) use before_main;

/// Calls the constructors of this image that come after the constructor `this`. Since `this` does
/// not return, the loader never calls them.
///
/// The linker orders the constructors, so constructors of static libraries in other languages may
/// be among them. The constructors of the shared libraries that this image needs have run before
/// `this`. If this image is a shared library itself, the constructors of the program never run.
pub(crate) fn run_constructors_after(this: Constructor, arguments: Arguments) {
    let Arguments { count, values, environment } = arguments;
    let others = image::constructors();
    let position = others.iter().position(|other| *other as usize == this as usize);
    for constructor in position.map_or(&[][..], |position| &others[position + 1..]) {
        constructor(count, values, environment);
    }
}

/// Opens the standard streams (stdin, stdout, stderr) that are closed. Otherwise another file would
/// get the number of a closed stream, and output would be written into that file.
///
/// Rust's runtime does the same before `main`, but not before constructors, and not in a program of
/// another language.
pub(crate) fn fill_standard_streams() {
    for number in 0..3 {
        // SAFETY: the number is only used to ask whether it is open.
        let fd = unsafe { std::os::fd::BorrowedFd::borrow_raw(number) };
        if fcntl(fd, FcntlArg::F_GETFD).is_err() {
            let Ok(nothing) = null_stream(number as usize) else { return };
            // The kernel gives the lowest free number, which is this one.
            if nothing.as_raw_fd() == number {
                // Programs that this process executes inherit it, as any standard stream.
                let _ = fcntl(&nothing, FcntlArg::F_SETFD(FdFlag::empty()));
                std::mem::forget(nothing);
            }
        }
    }
}

/// Opens an empty stream for stdin (number 0), or a stream that drops what is written to it. If
/// `/dev/null` is missing, a write to the latter fails as on a closed stream.
///
/// # Errors
///
/// There is no descriptor left.
pub(crate) fn null_stream(number: usize) -> io::Result<OwnedFd> {
    let device = std::fs::OpenOptions::new().read(number == 0).write(number > 0).open("/dev/null");
    match device {
        Ok(device) => Ok(device.into()),
        // The reading end of a pipe whose other end is closed. `println` ignores the error of a
        // write to it.
        Err(_) => Ok(std::io::pipe()?.0.into()),
    }
}
