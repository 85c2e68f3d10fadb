//! A training loop on several processes, which here are threads that communicate by sockets.
use super::toys::{Outcome, Values, initial, plain, training};
use super::watch::{Call, Fault};
use super::{Setup, within};
use crate::engine::{Broken, Connections, Stop, Traffic, execute_together};
use anyhow::Result;
use proptest::prelude::*;
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::Ordering::{Relaxed, SeqCst};
use std::time::Duration;

/// Sockets between all pairs of processes: by process, then by the other one.
fn connected(processes: usize) -> Vec<Vec<Option<TcpStream>>> {
    let mut sockets: Vec<Vec<_>> = (0..processes).map(|_| (0..processes).map(|_| None).collect()).collect();
    for (a, b) in (0..processes).flat_map(|a| (0..a).map(move |b| (a, b))) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        sockets[a][b] = Some(TcpStream::connect(listener.local_addr().unwrap()).unwrap());
        sockets[b][a] = Some(listener.accept().unwrap().0);
    }
    sockets
}

/// The outcome of each process that runs the same training, and the bytes that they have sent.
fn together(setups: Vec<Setup>, sockets: Vec<Vec<Option<TcpStream>>>) -> Vec<(Result<()>, Arc<Outcome>, u64)> {
    let all = setups.iter().map(|setup| setup.workers as u32).collect();
    divided(setups, sockets, all)
}

/// The same, with so many workers of each process that compute leaves.
fn divided(
    setups: Vec<Setup>,
    sockets: Vec<Vec<Option<TcpStream>>>,
    computing: Vec<u32>,
) -> Vec<(Result<()>, Arc<Outcome>, u64)> {
    within(Duration::from_secs(30), move || {
        let processes = setups.into_iter().zip(sockets).enumerate().map(|(process, (setup, sockets))| {
            let computing = computing.clone();
            std::thread::spawn(move || {
                let (outcome, traffic) = (Arc::new(Outcome::default()), Arc::new(Traffic::default()));
                let job = setup.job(training(&setup, &outcome, initial()));
                let connections = Connections {
                    process,
                    computing,
                    sockets,
                    traffic: Arc::clone(&traffic),
                    cancellation: Default::default(),
                };
                let ended = execute_together(job, connections).map(|_| ());
                (ended, outcome, traffic.sent.load(Relaxed))
            })
        });
        let processes: Vec<_> = processes.collect();
        processes.into_iter().map(|process| process.join().unwrap()).collect()
    })
}

#[test]
fn leaves_are_divided_by_the_workers_that_compute() {
    for (computing, workers, lanes) in
        [(vec![2, 1], 2, 6), (vec![1, 3], 3, 4), (vec![3, 1, 1], 3, 16), (vec![1, 1], 4, 5)]
    {
        let setup = || Setup { checkpoint: Some(3), ..Setup::new(workers, lanes, 7) };
        let setups = computing.iter().map(|_| setup()).collect();
        for (result, outcome, _) in divided(setups, connected(computing.len()), computing.clone()) {
            result.unwrap();
            assert_eq!(parameters(&outcome), plain(lanes, 7), "{computing:?} of {workers} workers, {lanes} lanes");
        }
    }
}

fn parameters(outcome: &Outcome) -> Values {
    outcome.parameters.lock().unwrap().values().cloned().collect()
}

#[test]
fn every_process_has_the_result_of_a_plain_loop() {
    for (processes, workers, lanes) in [(2, 1, 4), (2, 2, 3), (3, 1, 6), (3, 2, 2)] {
        let setup = || Setup { checkpoint: Some(3), ..Setup::new(workers, lanes, 7) };
        let ended = together((0..processes).map(|_| setup()).collect(), connected(processes));
        for (process, (result, outcome, _)) in ended.into_iter().enumerate() {
            result.unwrap();
            let name = format!("process {process} of {processes} with {workers} workers, {lanes} lanes");
            assert_eq!(parameters(&outcome), plain(lanes, 7), "{name}");
            assert!(outcome.most_alive.load(SeqCst) <= 1, "{name}: more than one micro-batch at a time");
            let checkpoints: Vec<_> = outcome.checkpoints.lock().unwrap().keys().copied().collect();
            assert_eq!(checkpoints, if process == 0 { vec![2, 5, 6] } else { Vec::new() }, "{name}");
        }
    }
}

#[test]
fn a_request_to_stop_ends_all_processes_after_the_same_step() {
    let stop = Arc::new(Stop::default());
    stop.ask();
    let setups = [Some(Arc::clone(&stop)), None].map(|stop| Setup { stop, ..Setup::new(2, 4, 1_000_000) });
    let ended = together(setups.into(), connected(2));
    let steps = stop.last().unwrap() + 1;
    for (result, outcome, _) in ended {
        result.unwrap();
        assert_eq!(parameters(&outcome), plain(4, steps));
    }
}

/// The process where a stage fails says so, and all others that they have lost it.
#[test]
fn a_failure_on_one_process_ends_all() {
    for failing in 0..3 {
        let setups = (0..3).map(|process| {
            let fault = Fault { stage: "backward", worker: None, call: Call::StepDone(2), panics: false };
            let fault = (process == failing).then_some(fault);
            Setup { fault, ..Setup::new(1, 6, 50) }
        });
        let ended = together(setups.collect(), connected(3));
        for (process, (result, ..)) in ended.into_iter().enumerate() {
            let error = result.unwrap_err();
            assert_eq!(error.is::<Broken>(), process != failing, "process {process}: {error:#}");
            assert!(process != failing || format!("{error:#}").contains("stage `backward`, step 2"), "{error:#}");
        }
    }
}

#[test]
fn a_process_that_is_gone_is_an_error() {
    let sockets = connected(2);
    let gone = sockets[1][0].as_ref().unwrap().try_clone().unwrap();
    let ends = std::thread::spawn(move || {
        std::thread::sleep(Duration::from_millis(300));
        gone.shutdown(Shutdown::Both).unwrap();
    });
    let ended = together(vec![Setup::new(2, 4, 1_000_000), Setup::new(2, 4, 1_000_000)], sockets);
    ends.join().unwrap();
    for (result, ..) in ended {
        let error = result.unwrap_err();
        let broken = error.downcast_ref::<Broken>().expect("a broken connection");
        assert!(broken.process < 2, "{error:#}");
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]
    #[test]
    fn any_small_run_is_a_plain_loop(
        processes in 2usize..4, workers in 1usize..3, lanes in 1u32..8, steps in 0u64..7, prefetch in 0u64..4,
    ) {
        let setup = || Setup { prefetch, checkpoint: Some(1 + prefetch), ..Setup::new(workers, lanes, steps) };
        for (result, outcome, _) in together((0..processes).map(|_| setup()).collect(), connected(processes)) {
            prop_assert!(result.is_ok(), "{:#}", result.unwrap_err());
            prop_assert_eq!(parameters(&outcome), plain(lanes, steps));
        }
    }
}
