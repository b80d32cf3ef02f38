//! What runs before `main`: how an executed copy of the program takes its role before its `main`
//! begins.

use std::io;
use std::os::fd::{AsRawFd, OwnedFd};

use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;

use super::image::{self, Constructor};

/// What the loader gives to each constructor: the program's arguments and its environment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Arguments {
    pub(crate) count: libc::c_int,
    pub(crate) values: *const *const libc::c_char,
    pub(crate) environment: *const *const libc::c_char,
}

/// Has `$function`, which takes [`Arguments`], called before `main`, among the constructors of the
/// program.
///
/// The value of `$name` is to be read where the function is counted on: a linker leaves out what
/// nobody refers to.
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

/// Calls the constructors of this image that the loader would call after `this`, which does not
/// return.
///
/// They are in the order in which the linker met them, so those of libraries in other languages may
/// be among them. Constructors of shared libraries have run before.
pub(crate) fn run_constructors_after(this: Constructor, arguments: Arguments) {
    let Arguments { count, values, environment } = arguments;
    let others = image::constructors();
    let place = others.iter().position(|other| *other as usize == this as usize);
    for constructor in place.map_or(&[][..], |place| &others[place + 1..]) {
        constructor(count, values, environment);
    }
}

/// Opens what is closed of stdin, stdout and stderr, so that nothing else gets their numbers and
/// has somebody's output written into it.
///
/// Rust's runtime does so before `main`; not before constructors, nor in a program of another
/// language.
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
