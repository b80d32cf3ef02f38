//! The identifier of this program's build. Machines that run equal files have equal identifiers.

use std::fs::File;
use std::io;
use std::sync::OnceLock;

use proc_core::Error;
use proc_core::remote;
use sha2::{Digest, Sha256};

/// Returns the first 16 hexadecimal digits of the SHA-256 of the executed file.
///
/// # Errors
///
/// The file cannot be read.
pub(crate) fn get() -> Result<&'static str, Error> {
    static BUILD: OnceLock<Result<String, String>> = OnceLock::new();
    let build = BUILD.get_or_init(|| hash().map_err(|error| error.to_string()));
    build.as_deref().map_err(|error| {
        remote::fleet_error(format!(
            "the program's own file cannot be read to tell builds apart: {error}"
        ))
    })
}

fn hash() -> io::Result<String> {
    // `/proc/self/exe` opens the executed file even if another file has replaced it on disk.
    let mut file =
        File::open("/proc/self/exe").or_else(|_| File::open(std::env::current_exe()?))?;
    let mut hasher = Sha256::new();
    io::copy(&mut file, &mut hasher)?;
    Ok(hasher.finalize().iter().take(8).map(|byte| format!("{byte:02x}")).collect())
}
