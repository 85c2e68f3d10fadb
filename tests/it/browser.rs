//! A real browser, where there is one: Chromium without a window.
use std::io::Read;
use std::net::TcpListener;
use std::path::Path;
use std::process::Command;
use std::sync::{Arc, Mutex};
use std::time::Duration;

/// The Chromium that is installed; says so where there is none.
pub fn chromium() -> Option<String> {
    let names = ["chromium", "chromium-browser", "google-chrome"];
    let works = |name: &&str| Command::new(name).arg("--version").output().is_ok_and(|o| o.status.success());
    let found = names.into_iter().find(works).map(str::to_owned);
    if found.is_none() {
        println!("skipped: no chromium here");
    }
    found
}

/// The document at `url` after its scripts have run.
pub fn dom(chromium: &str, url: &str, more: &[String]) -> String {
    let profile = tempfile::tempdir().unwrap();
    let output = Command::new(chromium)
        .args(["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"])
        .args(["--disable-background-networking", "--disable-component-update", "--disable-sync"])
        .arg("--disable-features=NetworkTimeServiceQuerying")
        .args(more)
        .arg(format!("--user-data-dir={}", profile.path().display()))
        .args(["--dump-dom", url])
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout).unwrap()
}

/// A Chromium without a network: in its place is a listener, the proxy of everything, loopback included.
pub struct Offline {
    chromium: String,
    port: u16,
    asked: Arc<Mutex<Vec<String>>>,
}

impl Offline {
    /// `None` where no Chromium is installed, which is said.
    pub fn start() -> Option<Self> {
        let chromium = chromium()?;
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let asked = Arc::new(Mutex::new(Vec::new()));
        let heard = Arc::clone(&asked);
        std::thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let mut stream = stream;
                let mut head = [0; 512];
                let _ = stream.set_read_timeout(Some(Duration::from_secs(2)));
                let n = stream.read(&mut head).unwrap_or(0);
                let head = String::from_utf8_lossy(&head[..n]).into_owned();
                heard.lock().unwrap().extend(head.lines().next().map(str::to_owned));
            }
        });
        Some(Self { chromium, port, asked })
    }

    /// What was asked for since the last time, but for what a Chromium asks its makers on its own.
    pub fn requests(&self) -> Vec<String> {
        let own =
            |line: &String| [".google.com", ".googleapis.com", ".gvt1.com"].iter().any(|host| line.contains(host));
        std::mem::take(&mut *self.asked.lock().unwrap()).into_iter().filter(|line| !own(line)).collect()
    }

    /// The document in a file after its scripts have run.
    pub fn dom(&self, page: &Path) -> String {
        let proxy = [format!("--proxy-server=127.0.0.1:{}", self.port), "--proxy-bypass-list=<-loopback>".into()];
        dom(&self.chromium, &format!("file://{}", page.display()), &proxy)
    }
}
