//! `pipeline serve`: the list, curves and events of runs over HTTP, and the page in a real browser.
use crate::browser::{chromium, dom};
use crate::support::Scratch;
use serde_json::{Value, json};
use std::fs::{self, OpenOptions};
use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// A server of the runs in `runs`; ended on drop.
pub struct Server {
    child: Child,
    /// Its address: `127.0.0.1:4711`.
    pub address: String,
}

impl Server {
    /// Starts `command`, which prints its address first.
    pub fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        let address = line.trim().strip_prefix("http://").unwrap_or_else(|| panic!("no address: {line:?}")).to_owned();
        Self { child, address }
    }

    fn of(scratch: &Scratch) -> Self {
        Self::start(scratch.command(&["serve", "--listen", "127.0.0.1:0"]))
    }

    fn request(&self, head: &str) -> BufReader<TcpStream> {
        let mut stream = TcpStream::connect(&self.address).unwrap();
        stream.set_read_timeout(Some(Duration::from_secs(20))).unwrap();
        stream.write_all(format!("{head}\r\nConnection: close\r\n\r\n").as_bytes()).unwrap();
        BufReader::new(stream)
    }

    /// The status and body of an answer.
    pub fn answer(&self, head: &str) -> (u16, String) {
        let mut text = String::new();
        self.request(head).read_to_string(&mut text).unwrap();
        let (head, body) = text.split_once("\r\n\r\n").unwrap_or_else(|| panic!("no head: {text}"));
        (head.split(' ').nth(1).unwrap().parse().unwrap(), body.to_owned())
    }

    pub fn get(&self, path: &str) -> (u16, String) {
        self.answer(&format!("GET {path} HTTP/1.1\r\nHost: {}", self.address))
    }

    #[track_caller]
    pub fn json(&self, path: &str) -> Value {
        let (status, body) = self.get(path);
        assert_eq!(status, 200, "{path}: {body}");
        serde_json::from_str(&body).unwrap_or_else(|error| panic!("{error}: {body}"))
    }

    fn names(&self, filter: &str) -> Vec<String> {
        let found = self.json(&format!("/api/runs?filter={filter}"));
        found["runs"].as_array().unwrap().iter().map(|run| run["name"].as_str().unwrap().to_owned()).collect()
    }

    fn interrupt(mut self) -> Option<i32> {
        Command::new("kill").args(["-INT", &self.child.id().to_string()]).status().unwrap();
        self.child.wait().unwrap().code()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Two runs, one of them in an experiment's folder.
fn scratch() -> Scratch {
    let scratch = Scratch::new();
    scratch.train("runs/a", &[]);
    scratch.train("runs/rates/b", &["--set", "run.seed=2", "--set", "run.max_steps=3"]);
    scratch
}

fn append(scratch: &Scratch, file: &str, text: &str) {
    OpenOptions::new().append(true).open(scratch.path(file)).unwrap().write_all(text.as_bytes()).unwrap();
}

#[test]
fn runs_are_listed_filtered_and_plotted() {
    let scratch = scratch();
    let server = Server::of(&scratch);
    let (status, page) = server.get("/");
    assert!(status == 200 && page.contains("<title>runs · runs</title>") && page.contains("connect-src 'self'"));
    assert!(!page.contains("src=\"") && !page.contains("https://") && !page.contains("@import"), "nothing to load");

    let found = server.json("/api/runs");
    assert_eq!(server.names(""), ["a", "rates/b"]);
    let listed = scratch.pipeline(&["runs", "--json"]).succeeds().stdout;
    let listed: Value = serde_json::from_str(&listed).unwrap();
    for key in ["run", "state", "step", "steps", "loss", "validation_loss", "tok_per_sec", "seen"] {
        assert_eq!(found["runs"][0][key], listed[key], "{key}");
    }
    assert_eq!(found["metrics"][0], "loss");
    assert!(found["metrics"].as_array().unwrap().contains(&json!("validation_loss")), "{found}");
    assert_eq!(server.names("run.seed%3D2"), ["rates/b"]);
    assert_eq!(server.names("optimize.learning_rate%3D0.01%20a"), ["a", "rates/b"], "both names contain an a");
    assert_eq!(server.names("state%3Ddone%20run.max_steps%3E3"), ["a"]);
    let (status, said) = server.get("/api/runs?filter=run.sede%3D1");
    assert!(status == 400 && said.contains("no run has the key `run.sede`; similar: run.seed"), "{said}");

    let metrics = server.json("/api/runs/rates%2Fb/metrics");
    let lines = scratch.metrics("runs/rates/b");
    let losses: Vec<&Value> = lines.iter().map(|line| &line["loss"]).collect();
    assert_eq!(metrics["metrics"]["loss"].as_array().unwrap().iter().collect::<Vec<_>>(), losses);
    assert_eq!(metrics["metrics"]["step"], json!([1.0, 2.0, 3.0]));
    assert_eq!(metrics["metrics"]["validation_loss"], json!([null, null, lines[2]["validation_loss"]]));

    let plot = server.json("/api/plot?metric=loss&run=a&run=rates%2Fb&run=gone&x=tokens&log_x=1&width=300");
    let names: Vec<&Value> = plot["series"].as_array().unwrap().iter().map(|series| &series["name"]).collect();
    assert_eq!(names, ["a", "rates/b"], "a run that is gone has no line");
    assert_eq!(plot["series"][0]["y"].as_array().unwrap().len(), 6);
    assert!(plot["x"]["linear"].is_null() && plot["x"]["log"]["ticks"].as_array().unwrap().len() > 1, "{plot}");
    let zoomed = server.json("/api/plot?metric=loss&run=a&from=2&to=4");
    assert_eq!(zoomed["series"][0]["x"], json!([2.0, 3.0, 4.0]));
    let (status, said) = server.get("/api/plot?metric=loss&zoom=2");
    assert!(status == 400 && said.contains("no parameter `zoom`"), "{said}");

    let (status, report) = server.get("/report/rates%2Fb");
    assert!(status == 200 && report.contains("step 3 of 3"), "{report}");
    assert_eq!(server.interrupt(), Some(130));
}

#[test]
fn nothing_but_runs_is_read_and_only_for_this_machine() {
    let scratch = scratch();
    scratch.train("elsewhere", &["--set", "run.max_steps=1"]);
    std::os::unix::fs::symlink(scratch.path("elsewhere"), scratch.path("runs/link")).unwrap();
    let server = Server::of(&scratch);
    assert_eq!(server.names(""), ["a", "rates/b"], "a link out of the folder is not followed");
    for path in [
        "/api/runs/..%2Felsewhere/metrics",
        "/api/runs/link/metrics",
        "/api/runs/%2Fetc/metrics",
        "/api/runs/rates/metrics",
        "/report/..%2Felsewhere",
        "/report/..",
        "/../../etc/passwd",
        "/runs/a/config.toml",
    ] {
        let (status, said) = server.get(path);
        assert_eq!(status, 404, "{path}: {said}");
    }
    let (status, said) = server.answer("GET /api/runs HTTP/1.1\r\nHost: example.com");
    assert!(status == 403 && !said.contains("rates"), "{said}");
    let (status, _) =
        server.answer(&format!("POST /api/runs HTTP/1.1\r\nHost: {}\r\nContent-Length: 0", server.address));
    assert_eq!(status, 405);

    let taken = ["serve", "--listen", &server.address];
    scratch.pipeline(&taken).fails(1, &["cannot listen on 127.0.0.1:", "another program listens there"]);
    scratch.pipeline(&["serve", "nowhere"]).fails(2, &["nowhere", "is not a folder"]);
    let mut everywhere = scratch.command(&["serve", "--listen", "0.0.0.0:0"]);
    let mut child = everywhere.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut said = String::new();
    BufReader::new(child.stderr.take().unwrap()).read_line(&mut said).unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
    assert!(said.starts_with("warning: whoever can reach this machine can see these runs"), "{said}");
}

/// A run that goes on, resumes at an earlier step, and is deleted.
#[test]
fn a_run_that_changes_is_told_at_once() {
    let scratch = scratch();
    let server = Server::of(&scratch);
    let mut events = server.request(&format!("GET /api/events HTTP/1.1\r\nHost: {}", server.address));
    let mut wait = |what: &str| {
        let (mut seen, began) = (String::new(), Instant::now());
        while !seen.contains(what) {
            assert!(began.elapsed() < Duration::from_secs(20), "no {what} in {seen}");
            let mut line = String::new();
            assert!(events.read_line(&mut line).unwrap() > 0, "the connection ended: {seen}");
            if line.starts_with("data:") {
                seen += &line;
            }
        }
    };
    let steps = || server.json("/api/plot?metric=loss&run=a")["series"][0]["x"].as_array().map_or(0, Vec::len);
    // The first one to listen is told how all runs stand.
    wait("\"name\":\"a\"");
    assert_eq!(steps(), 6);
    let line = scratch.read("runs/a/metrics.jsonl").lines().last().unwrap().replace("\"step\":6", "\"step\":7");
    append(&scratch, "runs/a/metrics.jsonl", &line[..20]);
    assert_eq!(steps(), 6, "half a line is none");
    append(&scratch, "runs/a/metrics.jsonl", &format!("{}\n", &line[20..]));
    wait("\"step\":7");
    assert_eq!(steps(), 7);
    let text = scratch.read("runs/a/metrics.jsonl");
    let shorter: String = text.lines().take(2).map(|line| format!("{line}\n")).collect();
    scratch.write("runs/a/metrics.jsonl", shorter);
    wait("\"step\":2");
    assert_eq!(steps(), 2);
    scratch.train("runs/new", &["--set", "run.max_steps=1"]);
    wait("\"name\":\"new\"");
    fs::remove_dir_all(scratch.path("runs/a")).unwrap();
    wait("\"gone\":[\"a\"]");
    assert_eq!(server.names(""), ["new", "rates/b"]);
    assert_eq!(server.get("/report/a").0, 404);
    fs::remove_dir_all(scratch.path("runs")).unwrap();
    assert_eq!(server.get("/api/runs").0, 500);
    scratch.train("runs/again", &["--set", "run.max_steps=1"]);
    assert_eq!(server.names(""), ["again"]);
}

#[test]
fn a_browser_draws_the_curves() {
    let Some(chromium) = chromium() else { return };
    let scratch = scratch();
    let server = Server::of(&scratch);
    let url = format!("http://{}/", server.address);
    // The document is dumped when the time that the page sees is over.
    let budget = ["--virtual-time-budget=4000".to_owned()];
    // An open connection would stop that time.
    let page = dom(&chromium, &format!("{url}#live=0"), &budget);
    assert_eq!(page.matches(" data-run=").count(), 2, "{page}");
    for piece in ["2 runs, 0 in progress, 2 shown", "data-metric=\"loss\"", "<path class=\"of0 dash0\" d=\"M"] {
        assert!(page.contains(piece), "{piece}: {page}");
    }
    assert_eq!(page.matches("<path class=\"of1 dash0\" d=\"M").count(), 2, "loss and validation loss");
    let chosen = format!("{url}#live=0&filter=run.seed%3D2&run=rates/b&metric=gradient_norm&x=tokens&log_y=1");
    let page = dom(&chromium, &chosen, &budget);
    assert!(
        page.contains("1 run, 0 in progress, 1 shown") && page.contains("<strong>Gradient norm</strong>"),
        "{page}"
    );
    assert!(page.contains(">tokens</text>") && !page.contains("data-metric=\"loss\""), "{page}");
}
