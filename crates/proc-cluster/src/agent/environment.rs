//! Starts agents: the same program runs on each machine, with the address of a server in its
//! environment.

use proc_core::{Error, Pool};

use super::serve;

/// Serves as an agent and does not return, if the environment names a server.
pub(crate) fn serve_if_asked() {
    let Ok(address) = std::env::var("PROC_CLUSTER_AGENT") else { return };
    if let Err(error) = serve_address(&address) {
        eprintln!("agent: {error}");
        std::process::exit(1);
    }
    std::process::exit(0);
}

fn serve_address(address: &str) -> Result<(), Error> {
    let pool = match std::env::var("PROC_CLUSTER_WORKERS") {
        Ok(workers) => {
            let number = workers.parse().map_err(|_| {
                proc_core::remote::invalid_error(format!(
                    "PROC_CLUSTER_WORKERS must be a number of worker processes, not {workers:?}"
                ))
            })?;
            Pool::builder().processes(number)
        }
        Err(_) => Pool::builder(),
    };
    serve(address, pool)
}
