//! Runs programs on a terminal: what a person sees who runs them.

#![allow(unsafe_code, reason = "no safe code sets the size of a terminal")]

use std::fs::{File, OpenOptions};
use std::num::NonZero;
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::process::Command;

use nix::fcntl::OFlag;
use nix::libc;
use nix::pty::{PtyMaster, grantpt, posix_openpt, ptsname_r, unlockpt};

use super::{Finished, Running};

/// The number of rows of a terminal. All that a program prints must fit.
const ROWS: u16 = 50;

/// Runs `command`, whose stderr is a terminal with so many columns. The environment says that it is
/// an `xterm`, unless it says something else already.
pub(crate) fn run_on_terminal(mut command: Command, columns: u16) -> Finished {
    let (controller, terminal) = open(columns);
    if !command.get_envs().any(|(name, _)| name == "TERM") {
        command.env("TERM", "xterm");
    }
    Running::start_with_stderr(command, terminal.into(), Some(Box::new(controller))).finish()
}

/// Returns the rows that a terminal with so many columns shows after it has got `text`.
pub(crate) fn screen(text: &str, columns: u16) -> String {
    let [rows, width] = [ROWS, columns].map(|n| NonZero::new(n).expect("a terminal has a size"));
    let mut parser = vt100::Parser::new(rows, width, 0);
    parser.process(text.as_bytes());
    let rows: Vec<_> = parser.screen().rows(0, columns).collect();
    let rows: Vec<_> = rows.iter().map(|row| row.trim_end()).collect();
    rows.join("\n").trim_end().to_owned()
}

/// Opens a terminal. Other programs that tests start do not inherit it.
fn open(columns: u16) -> (PtyMaster, File) {
    let flags = OFlag::O_RDWR | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let controller = posix_openpt(flags).expect("there is room for a terminal");
    grantpt(&controller).and_then(|()| unlockpt(&controller)).expect("the terminal is ours");
    let name = ptsname_r(&controller).expect("the terminal has a name");
    let mut options = OpenOptions::new();
    options.read(true).write(true).custom_flags(OFlag::O_NOCTTY.bits());
    let terminal = options.open(name).expect("the terminal is there");
    let size = libc::winsize { ws_row: ROWS, ws_col: columns, ws_xpixel: 0, ws_ypixel: 0 };
    // SAFETY: the kernel reads a `winsize`, and `size` is one.
    let set = unsafe { libc::ioctl(terminal.as_raw_fd(), libc::TIOCSWINSZ, &raw const size) };
    assert_eq!(set, 0, "a terminal has a size");
    (controller, terminal)
}
