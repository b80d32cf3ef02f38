//! The book as mdBook builds it, and a web server for it.

use std::fs;
use std::io::{BufRead, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::thread;

use tempfile::TempDir;

use crate::support::machine::{self, or_skip};
use crate::support::{self, run};

/// How long mdBook may take, as an argument of `timeout`.
const BUILD_SECONDS: &str = "10";

/// A built book.
pub(crate) struct Book {
    directory: TempDir,
    /// What mdBook has said, without the lines that tell what it does.
    pub(crate) complaints: Vec<String>,
}

impl Book {
    /// Builds the book; gives `None` where there is no mdBook.
    pub(crate) fn build() -> Option<Book> {
        let mdbook = or_skip(machine::mdbook())?;
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut build = support::program("timeout");
        build.args(["--signal=KILL", BUILD_SECONDS]).arg(mdbook).arg("build");
        build.arg(support::workspace().join("docs")).arg("-d").arg(directory.path());
        let said = run(&mut build);
        let what_it_does = |line: &&str| line.trim_start().starts_with("INFO ");
        let lines = said.stderr.lines().chain(said.stdout.lines());
        let mut complaints: Vec<_> =
            lines.filter(|line| !what_it_does(line)).map(str::to_owned).collect();
        if !said.status.success() {
            complaints.push(format!("mdbook ended with {}", said.status));
        }
        Some(Book { directory, complaints })
    }

    /// Serves the book, as long as the test program runs; gives the address, which ends in a slash.
    ///
    /// Texts travel compressed, as from most servers of static pages.
    pub(crate) fn serve(&self) -> String {
        let mut compress = support::program("gzip");
        let status =
            run(compress.args(["--keep", "--recursive"]).arg(self.directory.path())).status;
        assert!(status.success(), "gzip: {status}");

        let listener = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = format!("http://{}/", listener.local_addr().expect("an address"));
        let root = self.directory.path().to_owned();
        thread::spawn(move || {
            for connection in listener.incoming().flatten() {
                let root = root.clone();
                thread::spawn(move || answer(&connection, &root));
            }
        });
        address
    }

    /// The size of a file in bytes, not compressed; nothing if there is no such file.
    pub(crate) fn bytes(&self, path: &str) -> u64 {
        fs::metadata(self.directory.path().join(path)).map_or(0, |file| file.len())
    }

    /// Whether the book has this file.
    pub(crate) fn has(&self, path: &str) -> bool {
        self.directory.path().join(path).is_file()
    }
}

/// Answers the requests of a connection, until the browser closes it.
fn answer(connection: &TcpStream, root: &Path) -> Option<()> {
    let mut lines = BufReader::new(connection).lines();
    loop {
        // GET /path?query HTTP/1.1, some headers, and an empty line.
        let request = lines.next()?.ok()?;
        let path = request.split(' ').nth(1)?.split('?').next()?.trim_start_matches('/');
        let path = if path.is_empty() { "index.html" } else { path };
        lines.by_ref().map_while(Result::ok).take_while(|line| !line.is_empty()).for_each(drop);
        let (status, body) = match fs::read(compressed(root, path)) {
            Ok(body) => ("200 OK", body),
            Err(_) => ("404 Not Found", Vec::new()),
        };
        let encoding = if body.is_empty() { "" } else { "Content-Encoding: gzip\r\n" };
        let head = format!(
            "HTTP/1.1 {status}\r\nContent-Type: {}\r\n{encoding}Content-Length: {}\r\n\r\n",
            content_type(path),
            body.len(),
        );
        let mut connection = connection;
        connection.write_all(&[head.as_bytes(), &body].concat()).ok()?;
    }
}

/// Where `gzip` has put the file that travels.
fn compressed(root: &Path, path: &str) -> PathBuf {
    root.join(format!("{path}.gz"))
}

fn content_type(path: &str) -> &'static str {
    match path.rsplit('.').next() {
        Some("html") => "text/html; charset=utf-8",
        Some("css") => "text/css",
        Some("js") => "text/javascript",
        Some("svg") => "image/svg+xml",
        Some("png") => "image/png",
        Some("woff2") => "font/woff2",
        _ => "text/plain; charset=utf-8",
    }
}
