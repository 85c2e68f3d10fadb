//! One run, event by event: a head trains alone, a host joins, and the run ends. What a driver sees.
use super::*;
use std::time::Duration;

const LINK: Link = Link(1);
const HOST: HostId = HostId(1);

fn hello(name: &str) -> Hello {
    Hello {
        name: name.into(),
        address: format!("{name}:7421"),
        version: "1".into(),
        backend: "avx2".into(),
        workers: 2,
    }
}

/// Passes an event to the head, and returns its actions except those that only take time: beats and checks.
fn head_does(head: &mut Head, ms: u64, event: HeadEvent) -> Vec<HeadAction> {
    let routine = |action: &HeadAction| {
        matches!(action, HeadAction::CheckOwner | HeadAction::Send { message: ToMember::Beat, .. } | HeadAction::Say(_))
    };
    head.on(Duration::from_millis(ms), event).into_iter().filter(|action| !routine(action)).collect()
}

fn send(message: ToMember) -> HeadAction {
    HeadAction::Send { link: LINK, message }
}

fn report(report: Report) -> HeadEvent {
    HeadEvent::Message { link: LINK, message: ToHead::Report(report) }
}

fn peer(host: HostId, name: &str) -> Peer {
    Peer { host, address: format!("{name}:7421"), workers: 2 }
}

/// The generation of the head alone, and the one after that.
const ALONE: Epoch = Epoch { incarnation: 1, generation: 1 };
const BOTH: Epoch = Epoch { incarnation: 1, generation: 2 };

/// A head that trains alone, to which a host has been admitted.
fn head_with_a_host() -> Head {
    let start = HeadStart { run: RunId(9), incarnation: 1, hello: hello("head"), commit: 0, steps: 12 };
    let config = Config { checkpoint_every: 100, ..Config::default() };
    let mut head = Head::new(config, start, Duration::ZERO);
    let engine = HeadAction::Engine;

    // Alone, the head goes through the same rounds as with others.
    let members = vec![peer(HostId::HEAD, "head")];
    assert_eq!(head_does(&mut head, 0, HeadEvent::Tick), [engine(EngineAction::Obtain { step: 0 })]);
    let done = head_does(&mut head, 1, HeadEvent::Engine(EngineEvent::Obtained { step: 0 }));
    assert_eq!(done, [engine(EngineAction::Connect { epoch: ALONE, members })]);
    let done = head_does(&mut head, 2, HeadEvent::Engine(EngineEvent::Connected { epoch: ALONE }));
    assert_eq!(done, [engine(EngineAction::Start { epoch: ALONE, from: 0 })]);

    // A host joins, and obtains the last commit while the head trains on.
    let done = head_does(&mut head, 3_000, HeadEvent::Admitted { link: LINK, hello: hello("ant") });
    assert_eq!(done, [send(ToMember::Welcome { run: RunId(9), incarnation: 1, host: HOST, commit: 0 })]);
    assert_eq!(head_does(&mut head, 5_000, report(Report::Holds { step: 0 })), []);
    assert_eq!(
        head_does(&mut head, 8_000, HeadEvent::Message { link: LINK, message: ToHead::Beat { work: None } }),
        []
    );

    head
}

#[test]
fn a_host_takes_part_from_the_next_generation_until_the_run_ends() {
    let mut head = head_with_a_host();
    let engine = HeadAction::Engine;

    // The generation has trained for a while: it ends after the current step, with a commit.
    assert_eq!(head_does(&mut head, 10_500, HeadEvent::Tick), [HeadAction::Drain { epoch: ALONE }]);
    let part = HeadEvent::Part { epoch: ALONE, step: 7, from: HostId::HEAD, last: true };
    let members = vec![peer(HostId::HEAD, "head"), peer(HOST, "ant")];
    assert_eq!(
        head_does(&mut head, 11_000, part),
        [
            HeadAction::Commit { epoch: ALONE, step: 7 },
            send(ToMember::Committed { step: 7 }),
            HeadAction::Discard { epoch: ALONE },
            send(ToMember::Prepare { epoch: BOTH, from: 7, members: members.clone() }),
            engine(EngineAction::Committed { step: 7 }),
            engine(EngineAction::Stop { epoch: ALONE }),
            engine(EngineAction::Obtain { step: 7 }),
        ]
    );
    assert_eq!(head_does(&mut head, 11_100, HeadEvent::Engine(EngineEvent::Obtained { step: 7 })), []);
    assert_eq!(head_does(&mut head, 11_200, report(Report::Prepared { epoch: BOTH })), []);
    let done = head_does(&mut head, 11_300, HeadEvent::Engine(EngineEvent::Stopped { epoch: ALONE }));
    let connect = EngineAction::Connect { epoch: BOTH, members };
    assert_eq!(done, [send(ToMember::Connect { epoch: BOTH }), engine(connect)], "not before its own workers stopped");
    assert_eq!(head_does(&mut head, 11_400, report(Report::Connected { epoch: BOTH })), []);
    let done = head_does(&mut head, 11_500, HeadEvent::Engine(EngineEvent::Connected { epoch: BOTH }));
    let from = EngineAction::Start { epoch: BOTH, from: 7 };
    assert_eq!(done, [send(ToMember::Start { epoch: BOTH }), engine(from)]);

    // A late part of the first generation is ignored; a step is committed when both parts are there.
    let part = |epoch, from| HeadEvent::Part { epoch, step: 12, from, last: true };
    assert_eq!(head_does(&mut head, 14_000, part(ALONE, HostId::HEAD)), []);
    assert_eq!(head_does(&mut head, 14_000, part(BOTH, HOST)), []);
    assert_eq!(
        head_does(&mut head, 14_100, part(BOTH, HostId::HEAD)),
        [
            HeadAction::Commit { epoch: BOTH, step: 12 },
            send(ToMember::Committed { step: 12 }),
            HeadAction::Discard { epoch: BOTH },
            send(ToMember::Idle),
            HeadAction::Persist { step: 12 },
            engine(EngineAction::Committed { step: 12 }),
            engine(EngineAction::Stop { epoch: BOTH }),
        ]
    );

    // Everybody is told when the last commit is on disk; the head exits when everybody has read that.
    let done = head_does(&mut head, 14_300, HeadEvent::Persisted { step: 12 });
    assert_eq!(done, [send(ToMember::Dismissed(Outcome::Done))]);
    let done = head_does(&mut head, 14_301, HeadEvent::Message { link: LINK, message: ToHead::Goodbye });
    assert_eq!(done, [HeadAction::Exit(Outcome::Done)]);
}

#[test]
fn a_member_that_loses_its_head_looks_for_it() {
    let mut member = Member::new(Config::default(), Duration::ZERO);
    let mut does = |ms, event| member.on(Duration::from_millis(ms), event);
    assert_eq!(does(0, MemberEvent::Tick), [MemberAction::Dial { attempt: 1 }]);
    assert_eq!(does(5, MemberEvent::Linked { attempt: 1, link: LINK }), []);
    let welcome = ToMember::Welcome { run: RunId(9), incarnation: 3, host: HOST, commit: 40 };
    let engine = MemberAction::Engine;
    assert_eq!(
        does(6, MemberEvent::Message { link: LINK, message: welcome }),
        [
            MemberAction::Say(Notice::Welcomed),
            engine(EngineAction::Committed { step: 40 }),
            engine(EngineAction::Obtain { step: 40 }),
        ]
    );
    assert_eq!(does(9, MemberEvent::Closed { link: LINK }), [MemberAction::Say(Notice::HeadLost)]);
    assert_eq!(does(1_009, MemberEvent::Tick), [MemberAction::Dial { attempt: 2 }]);

    // Only a head that is at least as new as the last one will do.
    let link = Link(2);
    assert_eq!(does(1_010, MemberEvent::Linked { attempt: 2, link }), []);
    let old = ToMember::Welcome { run: RunId(9), incarnation: 2, host: HOST, commit: 30 };
    let refused = [MemberAction::Say(Notice::OldHead), MemberAction::Close { link }];
    assert_eq!(does(1_011, MemberEvent::Message { link, message: old }), refused);
}

#[test]
fn a_host_that_cannot_store_the_state_exits_and_a_head_that_cannot_read_it_fails() {
    let cause = || "no space left".to_owned();
    let mut member = Member::new(Config::default(), Duration::ZERO);
    let mut does = |event| member.on(Duration::ZERO, event);
    does(MemberEvent::Tick);
    does(MemberEvent::Linked { attempt: 1, link: LINK });
    let message = ToMember::Welcome { run: RunId(9), incarnation: 3, host: HOST, commit: 40 };
    does(MemberEvent::Message { link: LINK, message });
    let fault = |step| MemberEvent::Engine(EngineEvent::CannotObtain { step, cause: cause() });
    assert_eq!(does(fault(39)), [], "not wanted any more");
    assert_eq!(does(fault(40)), [MemberAction::Exit(Outcome::NoState { cause: cause() })]);

    let start = HeadStart { run: RunId(9), incarnation: 1, hello: hello("head"), commit: 7, steps: 12 };
    let mut head = Head::new(Config::default(), start, Duration::ZERO);
    head_does(&mut head, 0, HeadEvent::Tick);
    let fault = HeadEvent::Engine(EngineEvent::CannotObtain { step: 7, cause: cause() });
    let [HeadAction::Exit(Outcome::Failed(failure))] = &head_does(&mut head, 1, fault)[..] else { panic!() };
    assert_eq!(failure.cause, cause());
}
