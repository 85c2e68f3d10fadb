//! One run on several hosts with addresses of their own, on networks that are late, lose frames, are slow or break: the
//! bits of one process, whatever happens to the network.
#![cfg(target_os = "linux")]
#[path = "hosts_network/network.rs"]
mod network;

use crate::hosts::{Process, assert_same};
use crate::support::Scratch;
use network::Cable::{self, Good, Late, Slow};
use network::Network;
use std::time::{Duration, Instant};

/// A run that is long enough to be disturbed.
const LONG: [&str; 6] =
    ["--set", "run.max_steps=400", "--set", "pack.micro_batches=6", "--set", "checkpoint.interval=40"];

const PORT: &str = "7420";

/// A head on the first host of a network, which waits for `hosts` hosts.
fn head(network: &Network, scratch: &Scratch, hosts: &str, more: &[&str]) -> Process {
    let listen = format!("{}:{PORT}", Network::address(0));
    let fixed = ["run", "run.toml", "--run-dir", "r", "--workers", "1", "--listen", &listen, "--min-hosts", hosts];
    let mut head = Process::spawn(network.command(0, scratch, &[&fixed, more].concat()));
    head.until("Hosts   pipeline join ");
    head
}

fn join(network: &Network, scratch: &Scratch, host: usize) -> Process {
    let head = format!("{}:{PORT}", Network::address(0));
    Process::spawn(network.command(host, scratch, &["join", &head, "--secret-file", "r/secret"]))
}

/// Trains on three hosts, the last one at `cable`. Returns what the head said.
fn trains(cable: Cable, steps: u64) -> Option<String> {
    let options = ["--set", "pack.micro_batches=6", "--set", &format!("run.max_steps={steps}")];
    let network = Network::new(&[Good, Good, cable])?;
    let scratch = Scratch::new();
    scratch.train("one", &options);
    let began = Instant::now();
    let head = head(&network, &scratch, "3", &options);
    let members = [1, 2].map(|host| join(&network, &scratch, host));
    let head = head.end().succeeds();
    for member in members {
        member.end().succeeds();
    }
    println!("{cable:?}: {:.1} s\n{}", began.elapsed().as_secs_f64(), head.stderr);
    assert!(head.stderr.contains("training on 3 hosts from step 0"), "{}", head.stderr);
    assert_same(&scratch, "r", "one");
    Some(head.stderr)
}

#[test]
fn a_host_that_answers_late_is_not_lost() {
    let Some(said) = trains(Late { delay: 0.2, loss: 0.0 }, 6) else { return };
    assert!(!said.contains("lost ") && !said.contains("set aside"), "{said}");
}

#[test]
fn a_host_may_be_slow_to_reach() {
    let Some(said) = trains(Slow("10mbit"), 30) else { return };
    assert!(!said.contains("lost ") && !said.contains("set aside"), "{said}");
}

#[test]
fn frames_may_be_lost() {
    trains(Late { delay: 0.0, loss: 0.05 }, 30);
}

/// Waits until the head has written a checkpoint.
fn until_it_trains(scratch: &Scratch) {
    let began = Instant::now();
    while std::fs::read_dir(scratch.path("r/checkpoints")).map_or(0, Iterator::count) == 0 {
        assert!(began.elapsed() < Duration::from_secs(60), "the head does not train");
        std::thread::sleep(Duration::from_millis(5));
    }
}

/// After a cable was pulled: the head notices it in time, and says so.
fn notices(head: &mut Process) {
    let cut = Instant::now();
    head.until("it does not answer");
    let noticed = cut.elapsed();
    println!("noticed after {:.2} s", noticed.as_secs_f64());
    // 5 s are promised, but this machine may be busy.
    assert!(noticed < Duration::from_secs(8), "{noticed:?}");
}

/// After that: the others go on in time.
fn goes_on(head: &mut Process, hosts: usize) {
    let noticed = Instant::now();
    head.until(&format!("training on {hosts} hosts from step "));
    let formed = noticed.elapsed();
    println!("the next generation trains {:.2} s later", formed.as_secs_f64());
    assert!(formed < Duration::from_secs(12), "10 s are promised: {formed:?}");
}

#[test]
fn a_run_goes_on_when_a_cable_is_pulled_and_the_host_returns_with_it() {
    let Some(network) = Network::new(&[Good; 4]) else { return };
    let scratch = Scratch::new();
    scratch.train("one", &LONG);
    let mut head = head(&network, &scratch, "3", &LONG);
    let [mut first, second] = [1, 2].map(|host| join(&network, &scratch, host));
    head.until("training on 3 hosts from step 0");
    // Takes the place of the one that is cut off.
    let third = join(&network, &scratch, 3);
    head.until(" joined");
    until_it_trains(&scratch);
    network.cut(1);
    notices(&mut head);
    goes_on(&mut head, 3);
    first.until("lost the head; waiting for it to come back");
    // Now the run needs the first.
    network.cut(3);
    notices(&mut head);
    head.until("waiting for hosts: 2 of 3");
    network.mend(1);
    let mended = Instant::now();
    first.until("joined the run");
    head.until("training on 3 hosts from step ");
    println!("trains again {:.2} s after the cable is back", mended.elapsed().as_secs_f64());
    let head = head.end().succeeds();
    println!("{}", head.stderr);
    first.end().succeeds();
    second.end().succeeds();
    drop(third);
    assert_same(&scratch, "r", "one");
}

#[test]
fn a_run_goes_on_after_a_power_loss() {
    let Some(network) = Network::new(&[Good; 3]) else { return };
    let scratch = Scratch::new();
    scratch.train("one", &LONG);
    let mut head = head(&network, &scratch, "2", &LONG);
    let member = join(&network, &scratch, 1);
    head.until("training on 2 hosts from step 0");
    let other = join(&network, &scratch, 2);
    head.until(" joined");
    until_it_trains(&scratch);
    network.cut(1);
    // The others do not hear of it.
    member.signal("KILL");
    notices(&mut head);
    goes_on(&mut head, 2);
    let head = head.end().succeeds();
    println!("{}", head.stderr);
    other.end().succeeds();
    assert_same(&scratch, "r", "one");
}
