//! A web server whose handler uses a pool.

use std::{process, sync::Arc, thread, time::Duration};

use anyhow::Result;
use axum::Router;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header::RETRY_AFTER};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use proc_core::Pool;
use tokio::net::TcpListener;

// Stands for a library that may crash or hang.
fn work(n: u64) -> u64 {
    match n {
        0 => process::abort(),
        1 => thread::sleep(Duration::from_secs(3600)),
        _ => {}
    }
    n * n
}

async fn handle(
    State(pool): State<Arc<Pool>>,
    Path(n): Path<u64>,
) -> Response {
    let second = Duration::from_secs(1);
    let options = pool.options().timeout(second);
    let task = match options.try_apply_async(work, n) {
        Ok(Ok(task)) => task.cancel_on_drop(),
        Ok(Err(_)) => {
            let status = StatusCode::SERVICE_UNAVAILABLE;
            let headers = [(RETRY_AFTER, "1")];
            let why = "too many requests";
            return (status, headers, why).into_response();
        }
        Err(error) => return failure(error),
    };
    // If the client goes away, axum drops the handler here.
    match task.await {
        Ok(square) => square.to_string().into_response(),
        Err(error) => failure(error),
    }
}

fn failure(error: proc_core::Error) -> Response {
    let status = match error.is_timeout() {
        true => StatusCode::GATEWAY_TIMEOUT,
        false => StatusCode::INTERNAL_SERVER_ERROR,
    };
    (status, error.to_string()).into_response()
}

#[tokio::main]
async fn main() -> Result<()> {
    let pool = Pool::builder().processes(4).max_pending(64);
    let pool = Arc::new(pool.build()?);
    let square = get(handle).with_state(pool);
    let app = Router::new().route("/square/{n}", square);
    let listener = TcpListener::bind("127.0.0.1:0").await?;
    println!("http://{}", listener.local_addr()?);
    Ok(axum::serve(listener, app).await?)
}
