//! Finds LLVM's profiling runtime, if the program is linked with it.

use std::ffi::{CStr, OsStr, c_char, c_int};
use std::os::unix::ffi::OsStrExt;
use std::path::PathBuf;

use super::threads::SingleThread;

// Weak references to the runtime. The linker writes 0 where there is no such symbol. They are
// written in assembly language, because Rust can declare weak references only on nightly. They are
// hidden, so the linker settles them all, and the loader does not look for them in other libraries:
// the runtime of an image counts that image alone.
#[cfg(all(target_os = "linux", target_pointer_width = "64", not(proc_core_portable)))]
std::arch::global_asm!(
    ".weak __llvm_profile_get_filename",
    ".hidden __llvm_profile_get_filename",
    ".weak __llvm_profile_is_continuous_mode_enabled",
    ".hidden __llvm_profile_is_continuous_mode_enabled",
    ".weak __llvm_profile_reset_counters",
    ".hidden __llvm_profile_reset_counters",
    ".weak __llvm_profile_set_filename",
    ".hidden __llvm_profile_set_filename",
    ".weak __llvm_profile_write_file",
    ".hidden __llvm_profile_write_file",
    ".pushsection .data.rel.ro.proc_core_llvm_profile, \"aw\"",
    ".balign 8",
    ".globl __proc_core_llvm_profile",
    ".hidden __proc_core_llvm_profile",
    "__proc_core_llvm_profile:",
    ".8byte __llvm_profile_get_filename",
    ".8byte __llvm_profile_is_continuous_mode_enabled",
    ".8byte __llvm_profile_reset_counters",
    ".8byte __llvm_profile_set_filename",
    ".8byte __llvm_profile_write_file",
    ".popsection",
);

/// The table above. Its entries are null in a program without the runtime.
#[repr(C)]
struct Table {
    get_filename: Option<unsafe extern "C" fn() -> *const c_char>,
    is_continuous_mode_enabled: Option<unsafe extern "C" fn() -> c_int>,
    reset_counters: Option<unsafe extern "C" fn()>,
    set_filename: Option<unsafe extern "C" fn(*const c_char)>,
    write_file: Option<unsafe extern "C" fn() -> c_int>,
}

#[cfg(all(target_os = "linux", target_pointer_width = "64", not(proc_core_portable)))]
fn table() -> &'static Table {
    unsafe extern "C" {
        #[link_name = "__proc_core_llvm_profile"]
        static TABLE: Table;
    }
    // SAFETY: the assembly code above defines the table, with these five entries.
    unsafe { &TABLE }
}

/// On other systems, programs are as if they had no such runtime.
#[cfg(not(all(target_os = "linux", target_pointer_width = "64", not(proc_core_portable))))]
fn table() -> &'static Table {
    static NOTHING: Table = Table {
        get_filename: None,
        is_continuous_mode_enabled: None,
        reset_counters: None,
        set_filename: None,
        write_file: None,
    };
    &NOTHING
}

/// LLVM's profiling runtime, which counts what this program executes.
#[derive(Clone, Copy)]
pub(super) struct Runtime {
    get_filename: unsafe extern "C" fn() -> *const c_char,
    is_continuous_mode_enabled: unsafe extern "C" fn() -> c_int,
    reset_counters: unsafe extern "C" fn(),
    set_filename: unsafe extern "C" fn(*const c_char),
    write_file: unsafe extern "C" fn() -> c_int,
}

impl Runtime {
    /// Returns the runtime; `None` if the program is not linked with it.
    pub(super) fn linked() -> Option<Runtime> {
        let table = table();
        Some(Runtime {
            get_filename: table.get_filename?,
            is_continuous_mode_enabled: table.is_continuous_mode_enabled?,
            reset_counters: table.reset_counters?,
            set_filename: table.set_filename?,
            write_file: table.write_file?,
        })
    }

    /// Whether the counts are in memory that is mapped from the file.
    pub(super) fn is_continuous(self) -> bool {
        // SAFETY: the function only reads a variable of the runtime.
        unsafe { (self.is_continuous_mode_enabled)() != 0 }
    }

    /// Returns the name of the file, without patterns.
    pub(super) fn name(self) -> Option<PathBuf> {
        // SAFETY: the function returns a new text, or an empty constant if there is no memory.
        let name = unsafe { (self.get_filename)() };
        // SAFETY: it ends with a zero byte, and it is never freed.
        let name = unsafe { CStr::from_ptr(name) };
        Some(OsStr::from_bytes(name.to_bytes()).into()).filter(|name: &PathBuf| name != "")
    }

    /// Sets all counts to zero.
    pub(super) fn reset_counts(self, _: SingleThread) {
        // SAFETY: the function writes to the counts. The token proves that no other thread does.
        unsafe { (self.reset_counters)() }
    }

    /// Gives the runtime the pattern of the file's name.
    pub(super) fn set_name(self, _: SingleThread, pattern: &CStr) {
        // SAFETY: the function copies the text, and replaces variables of the runtime. The token
        // proves that no other thread reads them meanwhile.
        unsafe { (self.set_filename)(pattern.as_ptr()) }
    }

    /// Writes all counts to the file. If that fails, the runtime itself prints why.
    pub(super) fn write_file(self) {
        // SAFETY: programs may call this function at any time. Other threads may go on counting:
        // they do so while the runtime writes at the end of any program, too.
        let _ = unsafe { (self.write_file)() };
    }
}
