//! Memory nodes (NUMA): workers that fill the machine stay on the CPUs of one node, and use its memory.
use super::cores::{allowed_cpus, cores, list};
use contract::pool;
use rustix::thread::{CpuSet, sched_setaffinity};
use std::path::Path;

/// Keeps the calling thread, worker number `worker` of the `workers` of this process, on the CPUs of its memory node, and
/// lets it take its buffers from there. Does nothing on a machine with one node, or if there are fewer workers than
/// cores: other processes probably use the rest, and the system knows where there is room.
pub fn stay_on_a_node(worker: usize, workers: usize) {
    if workers < cores() {
        return;
    }
    let nodes = nodes(Path::new("/"));
    if let Some(node) = node_of(worker, workers, &nodes).filter(|_| nodes.len() > 1) {
        stay(node, &nodes[node]);
    }
}

fn stay(node: usize, cpus: &[usize]) {
    let mut set = CpuSet::new();
    // The set has room for 1024 CPUs.
    cpus.iter().filter(|cpu| **cpu < CpuSet::MAX_CPU).for_each(|cpu| set.set(*cpu));
    // If the system refuses, the worker runs anywhere, which is only slower.
    if sched_setaffinity(None, &set).is_ok() {
        pool::use_node(node);
    }
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
    use rustix::thread::sched_getaffinity;
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

    /// Each worker is on the CPUs of its node, and gets memory that no other node has used.
    #[test]
    fn a_worker_stays_on_its_node() {
        let cpus = allowed_cpus(Path::new("/")).unwrap();
        let one = cpus[cpus.len() - 1];
        let piece = std::thread::spawn(move || {
            stay(1, &[one]);
            let now = sched_getaffinity(None).unwrap();
            assert_eq!((now.count(), now.is_set(one)), (1, true));
            pool::Piece::new(64)
        });
        let (there, here) = (piece.join().unwrap(), pool::Piece::new(64));
        let apart = (there.bytes().as_ptr() as usize).abs_diff(here.bytes().as_ptr() as usize);
        assert!(apart > 1 << 20, "{apart} bytes apart");
        assert_eq!(allowed_cpus(Path::new("/")).unwrap(), cpus, "other threads may run anywhere");
    }
}
