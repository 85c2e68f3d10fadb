//! Real heads and members, and what happens to them. Times are printed and compared only with limits that a busy
//! machine keeps: `cargo test -p millrace-pipelines net::tests::processes -- --nocapture`.
use super::hosts::{Process, Run, Setup};
use super::{S, eventually};
use crate::hosts::Outcome;

/// The documentation promises 15 seconds at most. Tests fail later, since other programs may use the machine.
const LATE: u64 = 40_000;

/// A head and two members that train together.
fn three() -> (Run, Process, Process, Process) {
    let mut run = Run::new(2);
    let head = run.start_head("head");
    let [ant, bee] = ["ant", "bee"].map(|name| run.start_member(name));
    head.says("training on 3 hosts");
    (run, head, ant, bee)
}

/// Stops the run by a signal to the head, and checks its result.
fn stop(run: &Run, mut head: Process, members: &mut [Process]) {
    head.signal("TERM");
    assert_eq!(head.ends(), Some(143), "{}", head.output());
    for member in members {
        assert_eq!(member.ends(), Some(143), "{}", member.output());
    }
    assert!(run.check() > 0);
}

/// Prints a time, and checks that it is not far too long.
fn within(what: &str, from: u64, to: u64) {
    println!("{what}: {} ms", to.saturating_sub(from));
    assert!(to.saturating_sub(from) < LATE, "{what}");
}

#[test]
fn a_run_ends_everywhere_when_its_last_step_is_done() {
    let mut run = Run::new(3);
    run.setup.steps = 203;
    let mut head = run.start_head("head");
    let mut members = ["ant", "bee"].map(|name| run.start_member(name));
    assert_eq!(head.ends(), Some(0), "{}", head.output());
    for member in &mut members {
        assert_eq!(member.ends(), Some(0), "{}", member.output());
        assert!(member.output().contains("outcome: Done"), "{}", member.output());
    }
    assert_eq!(run.check(), 203);
}

#[test]
fn a_head_and_members_run_in_threads() {
    let mut run = Run::new(3);
    run.setup.steps = 77;
    let start = |setup: Setup| std::thread::spawn(move || setup.run(|_| {}, None).unwrap());
    let mut hosts = vec![start(Setup { is_head: true, ..run.setup.clone() })];
    eventually("listens", || run.path().join("address").exists());
    run.setup.head = std::fs::read_to_string(run.path().join("address")).unwrap();
    hosts.extend(["ant", "bee"].map(|name| start(Setup { name: name.into(), ..run.setup.clone() })));
    for host in hosts {
        assert_eq!(host.join().unwrap(), Outcome::Done);
    }
    assert_eq!(run.check(), 77);
}

#[test]
fn a_member_is_killed() {
    let (run, head, mut ant, bee) = three();
    let killed = ant.signal("KILL");
    let (lost, _) = head.says("lost ant");
    within("kill -9 of a member is noticed after", killed, lost);
    let (next, _) = head.says_after(killed, "training on 2 hosts");
    within("… the next generation trains after", killed, next);
    assert_eq!(ant.ends(), None);
    // It comes back, as another host.
    let again = run.start_member("ant-2");
    head.says_after(next, "training on 3 hosts");
    stop(&run, head, &mut [bee, again]);
}

#[test]
fn a_member_is_stopped_for_a_while() {
    let (run, head, ant, bee) = three();
    let stopped = ant.signal("STOP");
    let (lost, line) = head.says("lost ant");
    assert!(line.contains("does not answer"), "{line}");
    within("SIGSTOP of a member is noticed after", stopped, lost);
    let (next, _) = head.says_after(stopped, "training on 2 hosts");
    within("… the next generation trains after", stopped, next);
    ant.signal("CONT");
    ant.says("joining anew");
    head.says_after(next, "training on 3 hosts");
    stop(&run, head, &mut [ant, bee]);
}

#[test]
fn a_head_that_was_stopped_first_hears_what_has_arrived() {
    let mut run = Run::new(3);
    let head = run.start_head("head");
    // They wait for the head, which itself gives up members that are silent for four seconds.
    run.setup.silence = 60 * S;
    let [ant, bee] = ["ant", "bee"].map(|name| run.start_member(name));
    head.says("training on 3 hosts");
    head.signal("STOP");
    std::thread::sleep(6 * S);
    head.signal("CONT");
    std::thread::sleep(S);
    assert_eq!(head.count("lost"), 0, "{}", head.output());
    stop(&run, head, &mut [ant, bee]);
}

#[test]
fn a_head_is_stopped_for_so_long_that_its_members_leave_it() {
    let (run, head, ant, bee) = three();
    let stopped = head.signal("STOP");
    let (lost, _) = ant.says("lost the head");
    within("SIGSTOP of the head is noticed after", stopped, lost);
    bee.says("lost the head");
    let continued = head.signal("CONT");
    let (next, _) = head.says_after(continued, "training on 3 hosts");
    within("a head that was continued trains with its members after", continued, next);
    stop(&run, head, &mut [ant, bee]);
}

#[test]
fn a_head_is_killed_and_started_again() {
    let (mut run, mut head, ant, bee) = three();
    std::thread::sleep(S / 2);
    let killed = head.signal("KILL");
    head.ends();
    let (lost, _) = ant.says("lost the head");
    within("kill -9 of the head is noticed after", killed, lost);
    // Its port is free again at once.
    let head = run.start_head("head-2");
    let (next, line) = head.says("training on 3 hosts");
    assert!(line.contains("generation 2."), "{line}");
    within("… the next generation trains after", killed, next);
    stop(&run, head, &mut [ant, bee]);
}

#[test]
fn a_head_is_replaced_while_it_runs() {
    let (mut run, mut head, ant, bee) = three();
    let address = std::mem::take(&mut run.setup.head);
    std::fs::remove_file(run.path().join("address")).unwrap();
    let begun = head.says("training on 3 hosts").0;
    let mut newer = run.start_head("head-2");
    assert_ne!(run.setup.head, address);
    assert_eq!(head.ends(), Some(1));
    let (superseded, _) = head.says("outcome: Superseded");
    println!("a head that was replaced exits {} ms after it began to train", superseded - begun);
    newer.signal("TERM");
    assert_eq!(newer.ends(), Some(143));
    run.check();
    // Its members look for a head at the old address.
    for mut member in [ant, bee] {
        member.says("lost the head");
        member.signal("TERM");
        assert_eq!(member.ends(), Some(143), "{}", member.output());
    }
}

#[test]
fn a_slow_host_obtains_a_commit_although_there_are_newer_ones() {
    let mut run = Run::new(1);
    let head = run.start_head("head");
    head.says("training on 1 host");
    // Forty commits.
    let ant = run.start("ant", |setup| setup.slow = S);
    head.says("training on 2 hosts");
    stop(&run, head, &mut [ant]);
}

#[test]
fn a_member_is_asked_to_leave() {
    let (run, head, mut ant, bee) = three();
    ant.signal("TERM");
    assert_eq!(ant.ends(), Some(143));
    assert!(ant.output().contains("outcome: Left"), "{}", ant.output());
    let (left, _) = head.says("ant left");
    head.says_after(left, "training on 2 hosts");
    stop(&run, head, &mut [bee]);
}

#[test]
fn a_stage_fails() {
    let mut run = Run::new(2);
    let mut head = run.start_head("head");
    let mut member = run.start("ant", |setup| setup.fails_at = Some(20));
    for process in [&mut head, &mut member] {
        assert_eq!(process.ends(), Some(1));
        assert!(process.output().contains("it is not finite"), "{}", process.output());
    }
}

#[test]
fn who_cannot_join_knows_why() {
    let mut run = Run::new(1);
    let mut head = run.start_head("head");
    let secret = run.path().join("other-secret");
    crate::hosts::net::secret::Secret::create_or_read(&secret).unwrap();
    let mut other_secret = run.start("ant", |setup| setup.secret = secret);
    let mut other_version = run.start("bee", |setup| setup.version = "2.0".into());
    let mut nowhere = run.start("cat", |setup| setup.head = "127.0.0.1:1".into());
    let mut port_in_use = run.start("dog", |setup| setup.is_head = true);
    let stranger = std::net::TcpStream::connect(&run.setup.head).unwrap();

    assert_eq!(port_in_use.ends(), Some(9));
    let text = format!("cannot listen on {}: another program listens there", run.setup.head);
    port_in_use.says(&text);
    assert_eq!(other_version.ends(), Some(1));
    other_version.says("Rejected(Version { head: \"1.0\", host: \"2.0\" })");
    head.says("bee is not admitted: the head runs version 1.0 and this host version 2.0");
    assert_eq!(other_secret.ends(), Some(1));
    let (_, line) = other_secret.says("outcome: Unreachable");
    assert!(line.contains(&run.setup.head) && line.contains("it has another secret"), "{line}");
    assert_eq!(nowhere.ends(), Some(1));
    let (_, line) = nowhere.says("outcome: Unreachable");
    assert!(line.contains("127.0.0.1:1") && line.contains("connection refused"), "{line}");
    head.says("did not prove the secret");
    drop(stranger);
    head.signal("TERM");
    assert_eq!(head.ends(), Some(143));
    run.check();
}

#[test]
fn a_member_whose_listener_cannot_be_reached_is_set_aside() {
    let mut run = Run::new(1);
    let head = run.start_head("head");
    let ant = run.start_member("ant");
    head.says("training on 2 hosts");
    // `bee` has a larger index than `ant`, and connects to it; `cat` cannot connect to `bee`.
    let bee = run.start("bee", |setup| setup.address = "127.0.0.1:1".into());
    head.says("training on 3 hosts");
    let cat = run.start_member("cat");
    let (_, line) = cat.says("cannot connect to");
    assert!(line.contains("127.0.0.1:1: connection refused"), "{line}");
    let (aside, _) = head.says("is set aside");
    head.says_after(aside, "training on 3 hosts");
    stop(&run, head, &mut [ant, bee, cat]);
}
