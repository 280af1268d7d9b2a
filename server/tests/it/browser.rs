//! Pages in headless Chromium: with and without script, in a window of a telephone's width, without
//! anything that the policy forbids or that comes from elsewhere. The browser is spoken to over a pair of
//! pipes (`--remote-debugging-pipe`: JSON, each message ended by a zero byte).

use crate::{
    pages::data,
    support::{Server, UNRESOLVED},
};
use serde_json::{Value, json};
use std::{
    fs::{File, OpenOptions},
    io::{BufRead as _, BufReader, Write as _},
    process::{Child, Command, Stdio},
};
use tempfile::TempDir;

const NAMES: [&str; 3] = ["chromium-headless-shell", "chromium", "google-chrome"];

struct Browser {
    child: Child,
    to: File,
    from: BufReader<File>,
    session: Option<String>,
    asked: u64,
    /// What happened meanwhile.
    events: Vec<Value>,
    _folder: TempDir,
}

impl Browser {
    /// Nothing where there is none.
    fn start() -> Option<Self> {
        let there = |name: &&str| {
            let mut command = Command::new(name);
            command.arg("--version").stdout(Stdio::null()).stderr(Stdio::null());
            command.status().is_ok_and(|status| status.success())
        };
        let Some(name) = NAMES.into_iter().find(there) else {
            let note = "chromium is missing (ci/install-deps browser): this test does nothing\n";
            std::io::stderr().write_all(note.as_bytes()).unwrap();
            return None;
        };
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        let made = Command::new("mkfifo").args([path("to"), path("from")]).status().unwrap();
        assert!(made.success());
        // A shell gives the pipes the numbers that the browser expects.
        let script = "exec \"$0\" --headless --no-sandbox --disable-gpu --disable-dev-shm-usage \
                      --no-first-run --disable-background-networking --disable-component-update \
                      --remote-debugging-pipe --user-data-dir=\"$1/profile\" 3<\"$1/to\" 4>\"$1/from\"";
        let child = Command::new("sh")
            .args(["-c", script, name])
            .arg(folder.path())
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let to = OpenOptions::new().write(true).open(path("to")).unwrap();
        let from = BufReader::new(File::open(path("from")).unwrap());
        let (session, events) = (None, Vec::new());
        let mut browser = Self { child, to, from, session, asked: 0, events, _folder: folder };
        let target = browser.ask("Target.createTarget", &json!({ "url": "about:blank" }));
        let attach = json!({ "targetId": target["targetId"], "flatten": true });
        let session = browser.ask("Target.attachToTarget", &attach);
        browser.session = session["sessionId"].as_str().map(str::to_owned);
        for domain in ["Page", "Runtime", "Log", "Network"] {
            browser.ask(&format!("{domain}.enable"), &json!({}));
        }
        Some(browser)
    }

    fn read(&mut self) -> Value {
        let mut bytes = Vec::new();
        self.from.read_until(0, &mut bytes).unwrap();
        assert_eq!(bytes.pop(), Some(0), "the browser ended");
        serde_json::from_slice(&bytes).unwrap()
    }

    fn ask(&mut self, method: &str, params: &Value) -> Value {
        self.asked += 1;
        let mut message = json!({ "id": self.asked, "method": method, "params": params });
        if let Some(session) = &self.session {
            message["sessionId"] = json!(session);
        }
        let mut bytes = serde_json::to_vec(&message).unwrap();
        bytes.push(0);
        self.to.write_all(&bytes).unwrap();
        loop {
            let mut answer = self.read();
            if answer["id"] == json!(self.asked) {
                assert!(answer.get("error").is_none(), "{method}: {answer}");
                return answer["result"].take();
            }
            self.events.push(answer);
        }
    }

    /// Loads a page to the end; what it asked for, and what the browser complained about.
    fn load(&mut self, url: &str, width: u32, script: bool) -> (Vec<String>, Vec<String>) {
        let size =
            json!({ "width": width, "height": 800, "deviceScaleFactor": 1, "mobile": width < 500 });
        self.ask("Emulation.setDeviceMetricsOverride", &size);
        self.ask("Emulation.setScriptExecutionDisabled", &json!({ "value": !script }));
        self.events.clear();
        self.ask("Page.navigate", &json!({ "url": url }));
        while !self.events.iter().any(|event| event["method"] == "Page.loadEventFired") {
            let event = self.read();
            self.events.push(event);
        }
        let (mut asked, mut said) = (Vec::new(), Vec::new());
        for event in &self.events {
            let params = &event["params"];
            match event["method"].as_str().unwrap_or_default() {
                "Network.requestWillBeSent" => {
                    asked.extend(params["request"]["url"].as_str().map(str::to_owned));
                }
                "Log.entryAdded" | "Runtime.consoleAPICalled" | "Runtime.exceptionThrown" => {
                    said.push(params.to_string());
                }
                _ => {}
            }
        }
        (asked, said)
    }

    /// What an expression is in the page.
    fn value(&mut self, expression: &str) -> Value {
        let asked =
            json!({ "expression": expression, "returnByValue": true, "awaitPromise": true });
        self.ask("Runtime.evaluate", &asked)["result"]["value"].take()
    }

    /// The page as it is now.
    fn page(&mut self) -> String {
        let root = self.ask("DOM.getDocument", &json!({}))["root"]["nodeId"].clone();
        let html = self.ask("DOM.getOuterHTML", &json!({ "nodeId": root }));
        html["outerHTML"].as_str().unwrap().to_owned()
    }
}

impl Drop for Browser {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn paths() -> [String; 6] {
    let unresolved = format!("/build/{UNRESOLVED}");
    ["/", "/kernels", "/search?q=6", "/unresolved", "/build/4444444444", &unresolved]
        .map(str::to_owned)
}

#[test]
fn pages_work_with_and_without_script() {
    let Some(mut browser) = Browser::start() else { return };
    let data = data();
    let server = Server::start(&data);
    for path in paths() {
        let url = server.url(&path);
        let copies = |page: &str| page.matches("class=\"copy\"").count();
        let hidden = |page: &str| page.matches("type=\"button\" hidden").count();
        let (asked, said) = browser.load(&url, 1200, false);
        let plain = browser.page();
        assert_eq!(said, Vec::<String>::new(), "{path}");
        assert!(asked.iter().all(|asked| *asked == url || asked == "data:,"), "{path}: {asked:?}");
        assert_eq!(hidden(&plain), copies(&plain), "{path}");
        let (asked, said) = browser.load(&url, 1200, true);
        let page = browser.page();
        assert_eq!(said, Vec::<String>::new(), "{path}");
        assert!(asked.iter().all(|asked| *asked == url || asked == "data:,"), "{path}: {asked:?}");
        // Buttons that copy are all that a script adds.
        assert_eq!((hidden(&page), copies(&page)), (0, copies(&plain)), "{path}");
        let text = |page: &str| page.replace(" hidden=\"\"", "").len();
        assert_eq!(text(&page), text(&plain), "{path}");
    }
    // What somebody puts into a page does nothing there.
    let url = server.url("/kernels");
    browser.load(&url, 1200, true);
    let injected = "const s = document.createElement('script'); s.textContent = 'window.evil = 1'; \
                    document.body.append(s); String(window.evil)";
    assert_eq!(browser.value(injected), json!("undefined"));
}

#[test]
fn nothing_is_wider_than_a_telephone() {
    let Some(mut browser) = Browser::start() else { return };
    let data = data();
    let server = Server::start(&data);
    for path in paths() {
        for width in [390, 1200] {
            browser.load(&server.url(&path), width, true);
            let found =
                browser.value("[innerWidth, document.documentElement.scrollWidth <= innerWidth]");
            assert_eq!(found, json!([width, true]), "{path}");
        }
    }
}

/// Every text against what is behind it (WCAG 2, 1.4.3), in both colours.
#[test]
fn text_stands_out_from_its_ground() {
    let Some(mut browser) = Browser::start() else { return };
    let data = data();
    let server = Server::start(&data);
    for scheme in ["light", "dark"] {
        let features = json!([{ "name": "prefers-color-scheme", "value": scheme }]);
        browser.ask("Emulation.setEmulatedMedia", &json!({ "features": features }));
        for path in paths() {
            browser.load(&server.url(&path), 1200, true);
            let weak = browser.value(include_str!("contrast.js"));
            assert_eq!(weak, json!([]), "{scheme} {path}");
        }
    }
}
