//! A browser without a window, which a test controls through its driver.

use std::fmt::Debug;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::pin::pin;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use fantoccini::key::Key;
use fantoccini::wd::WebDriverCompatibleCommand;
use fantoccini::{Client, ClientBuilder};
use hyper_util::client::legacy::connect::HttpConnector;
use nix::errno::Errno;
use nix::sys::signal::{Signal, killpg};
use nix::sys::wait::waitpid;
use nix::unistd::Pid;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use crate::support::machine::{self, or_skip};

/// How long a browser may live, as an argument of `timeout`. It holds even if the test is killed.
const LIFE_SECONDS: &str = "1200";

/// How long one command of a test may take, on the slowest machine.
const COMMAND_LIMIT: Duration = Duration::from_secs(60);

/// A browser with one page. Its processes are in one group, and end with it. (So does its crash
/// handler, which is in another group: it ends when it has lost the browser.)
pub(crate) struct Browser {
    runtime: Runtime,
    client: Client,
    _processes: Group,
}

/// The driver and the browser that it starts.
struct Group {
    /// `timeout`, which runs the driver and leads the group.
    leader: Child,
    /// What the browser writes. It goes when all processes have ended.
    _directory: TempDir,
}

impl Browser {
    /// Starts a browser; gives `None` where there is none.
    pub(crate) fn start() -> Option<Browser> {
        let (chromium, driver) = or_skip(machine::browser())?;
        // Then the processes of the browser are ours to wait for after the driver has ended.
        nix::sys::prctl::set_child_subreaper(true).expect("a subreaper");
        let directory = tempfile::tempdir().expect("a temporary directory");
        let mut leader = Command::new("timeout")
            .args(["--signal=KILL", LIFE_SECONDS])
            .arg(driver)
            .arg("--port=0")
            .env("TMPDIR", directory.path())
            .env("HOME", directory.path())
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .expect("timeout and a driver");
        let stdout = leader.stdout.take().expect("a pipe");
        let processes = Group { leader, _directory: directory };

        // "ChromeDriver was started successfully on port 38751."
        let mut lines = BufReader::new(stdout).lines().map_while(Result::ok);
        let started = |line: &String| line.contains("successfully on port");
        let line = lines.find(started).expect("a driver that starts");
        let port = line.trim_end_matches('.').rsplit(' ').next().expect("a word");
        let port: u16 = port.parse().unwrap_or_else(|_| panic!("no port in {line:?}"));

        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.expect("a runtime");
        let capabilities = json!({
            "goog:chromeOptions": { "binary": chromium, "args": [
                "--headless",
                // Root, as in CI, cannot use the sandbox.
                "--no-sandbox",
                "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1",
                "--disable-background-networking",
                "--disable-component-update",
                // Containers have a small /dev/shm.
                "--disable-dev-shm-usage",
                "--force-device-scale-factor=1",
            ]},
            "goog:loggingPrefs": { "browser": "ALL" },
        });
        let Value::Object(capabilities) = capabilities else { unreachable!("an object") };
        let mut builder = ClientBuilder::new(HttpConnector::new());
        builder.capabilities(capabilities);
        let address = format!("http://127.0.0.1:{port}");
        let client = runtime.block_on(async {
            tokio::time::timeout(COMMAND_LIMIT, builder.connect(&address)).await
        });
        let client = client.expect("a browser that starts in time").expect("a browser that starts");
        Some(Browser { runtime, client, _processes: processes })
    }

    /// Loads a page, and returns when all of it is there.
    pub(crate) fn open(&self, address: &str) {
        self.wait(address, self.client.goto(address));
        // The driver sometimes answers when the page has only begun.
        let is_there =
            format!("document.URL === '{address}' && document.readyState === 'complete'");
        assert!(self.becomes_true(&is_there), "it does not load: {address}");
    }

    /// Makes the window so many pixels wide.
    pub(crate) fn set_width(&self, width: u32) {
        let size =
            json!({ "width": width, "height": 900, "deviceScaleFactor": 1, "mobile": false });
        self.developer_tools("Emulation.setDeviceMetricsOverride", size);
    }

    /// Runs a script in the page, and gives what it returns.
    pub(crate) fn script(&self, script: &str) -> Value {
        self.wait(script, self.client.execute(script, Vec::new()))
    }

    /// Runs a script in the page, which calls `done` with its result.
    pub(crate) fn script_that_waits(&self, script: &str) -> Value {
        let script = format!("const done = arguments[0];\n{script}");
        self.wait(&script, self.client.execute_async(&script, Vec::new()))
    }

    /// Returns when the expression has become true in the page; false if it does not in time.
    pub(crate) fn becomes_true(&self, expression: &str) -> bool {
        const LOOK: &str = "const end = performance.now() + 20000;
            (function look() {
                if (CONDITION) done(true);
                else if (performance.now() > end) done(false);
                else setTimeout(look, 10);
            })();";
        self.script_that_waits(&LOOK.replace("CONDITION", expression)) == Value::Bool(true)
    }

    /// Types into what has the focus.
    pub(crate) fn keys(&self, keys: &str) {
        self.wait(keys, async { self.client.active_element().await?.send_keys(keys).await });
    }

    /// Presses one key.
    pub(crate) fn press(&self, key: Key) {
        self.keys(&char::from(key).to_string());
    }

    /// What the console has received since the last call, one line for each error and warning.
    pub(crate) fn console(&self) -> Vec<String> {
        let log = self.command("se/log", json!({ "type": "browser" }));
        let entries = log.as_array().expect("a list").iter();
        let is_bad =
            |entry: &&Value| ["SEVERE", "WARNING"].iter().any(|bad| entry["level"] == *bad);
        entries.filter(is_bad).map(|entry| entry["message"].to_string()).collect()
    }

    /// A picture of the whole page, in the encoding base64.
    pub(crate) fn picture(&self) -> String {
        let all = json!({ "captureBeyondViewport": true });
        let picture = self.developer_tools("Page.captureScreenshot", all);
        picture["data"].as_str().expect("a picture").to_owned()
    }

    /// Sends a command of Chromium's own protocol.
    fn developer_tools(&self, command: &str, arguments: Value) -> Value {
        self.command("goog/cdp/execute", json!({ "cmd": command, "params": arguments }))
    }

    /// Sends a command that only this driver has.
    fn command(&self, path: &'static str, body: Value) -> Value {
        self.wait(path, self.client.issue_cmd(OwnCommand { path, body }))
    }

    #[track_caller]
    fn wait<T, E: Debug>(&self, what: &str, result: impl Future<Output = Result<T, E>>) -> T {
        let result = pin!(result);
        let what = what.lines().next().unwrap_or_default();
        self.runtime
            .block_on(async { tokio::time::timeout(COMMAND_LIMIT, result).await })
            .unwrap_or_else(|_| panic!("the browser does not answer: {what}"))
            .unwrap_or_else(|error| panic!("the browser refuses: {what}: {error:?}"))
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        let group = Pid::from_raw(self.leader.id().try_into().expect("a pid"));
        let _ = killpg(group, Signal::SIGKILL);
        let _ = self.leader.wait();
        // What the driver had started is ours by now.
        while waitpid(Pid::from_raw(-group.as_raw()), None) != Err(Errno::ECHILD) {}
    }
}

#[derive(Debug)]
struct OwnCommand {
    path: &'static str,
    body: Value,
}

impl WebDriverCompatibleCommand for OwnCommand {
    fn endpoint(
        &self,
        base: &url::Url,
        session: Option<&str>,
    ) -> Result<url::Url, url::ParseError> {
        base.join(&format!("session/{}/{}", session.unwrap_or_default(), self.path))
    }

    fn method_and_body(&self, _: &url::Url) -> (http::Method, Option<String>) {
        (http::Method::POST, Some(self.body.to_string()))
    }
}
