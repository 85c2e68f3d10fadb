//! `report.html`: written whatever becomes of a run, whole by itself, opened in a real browser that may load nothing.
use crate::browser::Offline;
use crate::support::{Scratch, words};

/// Asks for a picture as soon as it is HTML and not text.
const HOSTILE: &str = "<img src=http://probe.invalid/x.png>";

#[test]
fn a_browser_shows_it_and_loads_nothing() {
    let scratch = Scratch::new();
    let source = format!(r#"{{"name": "Made <b>up</b>", "licence": "CC0", "attribution": "all & {HOSTILE}"}}"#);
    scratch.write("SOURCE.json", source);
    let name = r#"run.name="<b onclick='x'>""#;
    let said = scratch.train("r&<b>", &["--set", name, "--set", "run.max_steps=12"]).stderr;
    assert!(said.contains("The report is r&<b>/report.html"), "{said}");
    assert!(said.contains("Data    Made <b>up</b>\nLicence CC0\n"), "{said}");
    assert!(scratch.read("r&<b>/attribution.txt").contains("attribution: all & <img"));
    let html = scratch.read("r&<b>/report.html");
    for piece in
        ["r&amp;&lt;b&gt;", "&lt;img src=http://probe.invalid", "Made &lt;b&gt;up", "&lt;b onclick=&#39;x&#39;"]
    {
        assert!(html.contains(piece), "{piece}");
    }
    assert!(!html.contains("<img") && !html.contains("src=\"") && !html.contains("@import"), "nothing to load");

    let samples = format!("{{\"step\":4,\"prompt\":\"The\",\"text\":\" mill {HOSTILE}\"}}\n");
    scratch.write("r&<b>/samples.jsonl", samples);
    scratch.pipeline(&["report", "r&<b>"]).succeeds();
    let html = scratch.read("r&<b>/report.html");
    assert!(html.contains("<b>The</b> mill &lt;img src=") && !html.contains("<img"), "a sample is text");

    let Some(browser) = Offline::start() else { return };
    // What would be seen if something were loaded.
    scratch.write("control.html", "<img src=http://probe.invalid/x.png>");
    browser.dom(&scratch.path("control.html"));
    let heard = browser.requests();
    assert!(heard.iter().any(|line| line.contains("probe.invalid")), "the listener hears requests: {heard:?}");

    // The pointer is put on a plot, as a reader would.
    let point = "document.querySelector('svg').dispatchEvent(new PointerEvent('pointermove', {clientX: 9999}));";
    let with = |script: &str| html.replace("</body>", &format!("<script>{script}</script></body>"));
    scratch.write("pointed.html", with(point));
    let dom = browser.dom(&scratch.path("pointed.html"));
    assert_eq!(dom.matches(" data-plot=\"").count(), 10, "loss, bits, rate, norm, throughput, MFU, wait, blocks");
    assert_eq!(dom.matches("<span class=\"at\">step 12</span>").count(), 10, "all plots are read at the last step");
    assert!(dom.contains("<p class=\"controls\">"), "scripts ran");
    assert_eq!(dom.matches("<path class=\"smooth\" d=\"M").count(), 6, "all but bits per byte have a mean or a rate");
    for piece in ["<span class=\"state done\">done</span>", "step 12 of 12", "<td>forward</td>", "Bits per byte", "CC0"]
    {
        assert!(dom.contains(piece), "{piece} in {dom}");
    }
    assert_eq!(browser.requests(), [""; 0], "nothing was asked for");

    // Logarithmic axes, and the points as a file.
    let click = "for (const axis of ['x', 'y']) document.getElementById('log-' + axis).click();\
                 document.body.dataset.csv = group.plots[0].csv();";
    scratch.write("log.html", with(click));
    let log = browser.dom(&scratch.path("log.html"));
    let steps = |dom: &str| {
        let labels = dom.split("<text class=\"x\"").skip(1).filter_map(|rest| rest.split_once('>')?.1.split_once('<'));
        labels.map(|(label, _)| label.to_owned()).take(4).collect::<Vec<_>>()
    };
    assert_eq!((steps(&dom), steps(&log)), (words("2 4 6 8"), words("1 2 5 10")));
    let csv = log.split("data-csv=\"").nth(1).unwrap().split("\">").next().unwrap().replace("&quot;", "\"");
    assert!(csv.starts_with("series,\"step\",\"Loss\"\n\"training\",1,"), "{csv}");
    assert_eq!(csv.matches("\n\"validation\",").count(), 3, "{csv}");
}

#[test]
fn it_is_made_again_at_any_time_and_after_a_failure() {
    let scratch = Scratch::new();
    scratch.train("r", &[]);
    std::fs::remove_file(scratch.path("r/report.html")).unwrap();
    let said = scratch.pipeline(&["report", "r"]).succeeds().stdout;
    assert_eq!(said, "r/report.html\n");
    assert!(scratch.read("r/report.html").contains("state done"));
    // A killed run has no times, but everything else.
    let status = scratch.read("r/status.json").replace("\"done\"", "\"running\"").replace("\"times\"", "\"x\"");
    scratch.write("r/status.json", status);
    scratch.pipeline(&["report", "r"]).succeeds();
    let html = scratch.read("r/report.html");
    assert!(html.contains("state stopped") && html.contains("Available after a run that finished"));
    // Event files that cannot be written fail a run.
    std::fs::create_dir(scratch.path("f")).unwrap();
    scratch.write("f/config.toml", "");
    scratch.write("f/tb", "in the way");
    let failed = scratch.pipeline(&["run", "run.toml", "--run-dir", "f"]);
    failed.fails(1, &["stage `record`: cannot write event files in f/tb", "The report is f/report.html"]);
    let html = scratch.read("f/report.html");
    assert!(html.contains("state failed") && html.contains("cannot write event files in f/tb"), "{html}");
    scratch.pipeline(&["report", "nowhere"]).fails(2, &["nowhere is not a run"]);
}

#[test]
fn a_hundred_thousand_steps_are_as_quick_to_read_as_ten() {
    let scratch = Scratch::new();
    std::fs::create_dir(scratch.path("long")).unwrap();
    scratch.write("long/config.toml", "[run]\nname = \"long\"\n");
    let mut metrics = String::new();
    for step in 1..=100_000u64 {
        let loss = 3.0 + 6.0 / (1.0 + step as f64 / 500.0) + (step * 7919 % 100) as f64 / 500.0;
        metrics += &format!(
            "{{\"step\":{step},\"epoch\":1.0,\"tokens\":{},\"loss\":{loss},\"learning_rate\":1e-3,\
             \"gradient_norm\":1.0,\"tok_per_sec\":9000.0,\"mfu\":0.5,\"data_wait_ms\":0.1}}\n",
            step * 4096
        );
    }
    scratch.write("long/metrics.jsonl", metrics);
    scratch.pipeline(&["report", "long"]).succeeds();
    let html = scratch.read("long/report.html");
    assert!(html.contains("step 100000 of 100000") && html.contains("<b>409.6 M</b>"));
    assert!(html.len() < 500_000, "{} bytes", html.len());
}
