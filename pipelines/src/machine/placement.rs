//! Where workers run: those that fill a machine stay on a core of their own, and use the memory of its node (NUMA).
//!
//! The system moves threads between cores so that each thread gets the same share of time. If another program keeps a
//! core busy, it thus runs two workers on one core half of the time, and leaves the other core to that program.
use super::cores::{allowed_cpus, core_cpus, cores, list};
use contract::pool;
use rustix::thread::{CpuSet, sched_getaffinity, sched_setaffinity};
use std::path::Path;
use std::sync::OnceLock;

/// The CPUs that threads of this process may run on, before one of them was restricted.
static EVERYWHERE: OnceLock<CpuSet> = OnceLock::new();

/// Where a worker runs.
#[derive(Debug, PartialEq)]
struct Placement {
    cpus: Vec<usize>,
    /// Its memory node, on a machine with several.
    node: Option<usize>,
}

/// Keeps the calling thread, worker number `worker` of the `workers` that compute in this process, on one core if there
/// are as many workers as cores, and on the CPUs of a memory node if there are more workers and several nodes. Buffers
/// come from that node from now on. Does nothing if there are fewer workers than cores: other processes probably use the
/// rest, and the system knows where there is room.
///
/// Threads that this one starts are on the same CPUs, unless they [run anywhere](run_anywhere).
pub fn place_worker(worker: usize, workers: usize) {
    let Some(placement) = placement(Path::new("/"), cores(), worker, workers) else { return };
    if let Ok(all) = sched_getaffinity(None) {
        EVERYWHERE.get_or_init(|| all);
        stay(&placement);
    }
}

/// Lets the calling thread run on all CPUs of this process, if a worker that stays on some of them has started it.
pub fn run_anywhere() {
    if let Some(all) = EVERYWHERE.get() {
        // If the system refuses, the thread stays where it is, which is only slower.
        let _ = sched_setaffinity(None, all);
    }
}

fn stay(placement: &Placement) {
    let mut set = CpuSet::new();
    // The set has room for 1024 CPUs.
    placement.cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(*cpu));
    // If the system refuses, the worker runs anywhere, which is only slower.
    if sched_setaffinity(None, &set).is_ok()
        && let Some(node) = placement.node
    {
        pool::use_node(node);
    }
}

/// Where a worker runs on the machine that is described below the root `/` of the file system, of which this process
/// may use so many cores; `None` if anywhere.
fn placement(root: &Path, cores: usize, worker: usize, workers: usize) -> Option<Placement> {
    if workers < cores || cores < 2 {
        return None;
    }
    let nodes = nodes(root);
    let node_with = |cpu: &usize| nodes.iter().position(|cpus| cpus.contains(cpu));
    let several = |node: usize| Some(node).filter(|_| nodes.len() > 1);
    // A limit of CPU time may allow fewer cores than there are; then none is this worker's own.
    let known = core_cpus(root).filter(|known| known.len() == cores && workers == cores);
    if let Some(mut known) = known {
        // Workers with consecutive numbers sum their gradients first, so they are on the same node.
        known.sort_by_key(|cpus| (cpus.first().and_then(node_with), cpus.first().copied()));
        let cpus = known.swap_remove(worker);
        let node = cpus.first().and_then(node_with).and_then(several);
        return Some(Placement { cpus, node });
    }
    let node = several(node_of(worker, workers, &nodes)?)?;
    Some(Placement { cpus: nodes[node].clone(), node: Some(node) })
}

/// The CPUs of each memory node that this process may run on, below the root `/` of the file system; nodes without any
/// are left out. Empty where the system does not say.
fn nodes(root: &Path) -> Vec<Vec<usize>> {
    let folder = root.join("sys/devices/system/node");
    let read = |name: String| list(std::fs::read_to_string(folder.join(name)).ok()?.trim());
    let known = read("online".into()).zip(allowed_cpus(root));
    let Some((numbers, allowed)) = known else { return Vec::new() };
    let of_node = |node: usize| {
        let mut cpus = read(format!("node{node}/cpulist")).unwrap_or_default();
        cpus.retain(|cpu| allowed.contains(cpu));
        cpus
    };
    numbers.into_iter().map(of_node).filter(|cpus| !cpus.is_empty()).collect()
}

/// The node of a worker: each node gets workers in proportion to its CPUs, with consecutive numbers, since these sum
/// their gradients first.
fn node_of(worker: usize, workers: usize, nodes: &[Vec<usize>]) -> Option<usize> {
    let cpus: usize = nodes.iter().map(Vec::len).sum();
    let mut cpu = worker * cpus / workers;
    nodes.iter().position(|node| {
        let is_here = cpu < node.len();
        cpu = cpu.saturating_sub(node.len());
        is_here
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    fn write(root: &Path, file: &str, content: &str) {
        let path = root.join(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, content).unwrap();
    }

    #[test]
    fn nodes_have_the_cpus_that_may_be_used() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        assert!(nodes(root).is_empty());
        write(root, "proc/self/status", "Name:\tpipeline\nCpus_allowed_list:\t0-5,8-9\n");
        // The third node has memory only, the fourth other CPUs.
        write(root, "sys/devices/system/node/online", "0-3\n");
        for (node, cpus) in [(0, "0-3"), (1, "4-7,8"), (2, "\n"), (3, "10-11")] {
            write(root, &format!("sys/devices/system/node/node{node}/cpulist"), cpus);
        }
        assert_eq!(nodes(root), [vec![0, 1, 2, 3], vec![4, 5, 8]]);
    }

    #[test]
    fn nodes_get_workers_in_proportion_to_their_cpus() {
        let of = |workers: usize, nodes: &[Vec<usize>]| -> Vec<usize> {
            (0..workers).map(|worker| node_of(worker, workers, nodes).unwrap()).collect()
        };
        let even = [vec![0, 1, 2, 3], vec![4, 5, 6, 7]];
        assert_eq!(of(8, &even), [0, 0, 0, 0, 1, 1, 1, 1]);
        assert_eq!(of(4, &even), [0, 0, 1, 1]);
        assert_eq!(of(16, &even).iter().filter(|node| **node == 0).count(), 8);
        assert_eq!(of(4, &[vec![0, 1, 2], vec![4]]), [0, 0, 0, 1]);
        assert_eq!(node_of(0, 2, &[]), None);
    }

    /// As many workers as cores have one each, more workers have a node, and fewer have no place.
    #[test]
    fn workers_that_fill_the_machine_have_a_place() {
        let root = tempfile::tempdir().unwrap();
        let root = root.path();
        let on = |worker, workers| placement(root, 4, worker, workers);
        assert_eq!(on(0, 4), None);
        // Four cores of two threads each, numbered so that even cores are on the first node.
        write(root, "proc/self/status", "Cpus_allowed_list:\t0-7\n");
        for cpu in 0..8 {
            let siblings = format!("{},{}\n", cpu % 4, cpu % 4 + 4);
            write(root, &format!("sys/devices/system/cpu/cpu{cpu}/topology/core_cpus_list"), &siblings);
        }
        assert_eq!(on(1, 4), Some(Placement { cpus: vec![1, 5], node: None }));
        assert_eq!((on(0, 8), on(0, 3)), (None, None), "one node");
        write(root, "sys/devices/system/node/online", "0-1\n");
        write(root, "sys/devices/system/node/node0/cpulist", "0,2,4,6\n");
        write(root, "sys/devices/system/node/node1/cpulist", "1,3,5,7\n");
        let places: Vec<Placement> = (0..4).filter_map(|worker| on(worker, 4)).collect();
        let core = |first: usize, node: usize| Placement { cpus: vec![first, first + 4], node: Some(node) };
        assert_eq!(places, [core(0, 0), core(2, 0), core(1, 1), core(3, 1)]);
        let second = || Some(Placement { cpus: vec![1, 3, 5, 7], node: Some(1) });
        assert_eq!(on(7, 8), second());
        assert_eq!(placement(root, 2, 1, 2), second(), "a limit of two CPUs");
        assert_eq!(on(0, 3), None);
    }

    /// Each worker is on its CPUs and gets memory that no other node has used; a thread that it starts is, too, unless it
    /// may run anywhere.
    #[test]
    fn a_worker_stays_in_its_place() {
        let cpus = allowed_cpus(Path::new("/")).unwrap();
        let one = cpus[cpus.len() - 1];
        let piece = std::thread::spawn(move || {
            EVERYWHERE.get_or_init(|| sched_getaffinity(None).unwrap());
            stay(&Placement { cpus: vec![one], node: Some(1) });
            let count = || sched_getaffinity(None).unwrap().count();
            let (inherited, freed) = std::thread::spawn(move || {
                let inherited = count();
                run_anywhere();
                (inherited, count())
            })
            .join()
            .unwrap();
            assert_eq!((count(), inherited, freed as usize), (1, 1, cpus.len()));
            pool::Piece::new(64)
        });
        let (there, here) = (piece.join().unwrap(), pool::Piece::new(64));
        let apart = (there.bytes().as_ptr() as usize).abs_diff(here.bytes().as_ptr() as usize);
        assert!(apart > 1 << 20, "{apart} bytes apart");
    }
}
