//! The number of cores that this process may use.
use std::collections::BTreeMap;
use std::path::Path;

/// The number of cores that this process may use, given its CPU affinity and control groups. Hardware threads that
/// share a core count once: they also share its multiply-add units, which a worker keeps busy alone.
pub fn cores() -> usize {
    let threads = std::thread::available_parallelism().map_or(1, usize::from);
    core_cpus(Path::new("/")).map_or(threads, |cores| cores.len().min(threads))
}

/// The CPUs of each physical core, as far as this process may run on them, below the root `/` of the file system. `None`
/// where the system does not say.
pub(super) fn core_cpus(root: &Path) -> Option<Vec<Vec<usize>>> {
    let core = |cpu: usize| {
        let topology = root.join(format!("sys/devices/system/cpu/cpu{cpu}/topology"));
        // The second name is that of Linux before 5.3.
        let siblings =
            ["core_cpus_list", "thread_siblings_list"].map(|name| std::fs::read_to_string(topology.join(name)));
        siblings.into_iter().find_map(Result::ok)
    };
    let mut cores: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for cpu in allowed_cpus(root)? {
        cores.entry(core(cpu)?).or_default().push(cpu);
    }
    Some(cores.into_values().collect()).filter(|cores: &Vec<_>| !cores.is_empty())
}

/// The CPUs that this process may run on, below the root `/` of the file system. `None` where the system does not say.
pub(super) fn allowed_cpus(root: &Path) -> Option<Vec<usize>> {
    let status = std::fs::read_to_string(root.join("proc/self/status")).ok()?;
    list(status.lines().find_map(|line| line.strip_prefix("Cpus_allowed_list:"))?.trim())
}

/// The numbers in a list like `0-3,8`.
pub(super) fn list(text: &str) -> Option<Vec<usize>> {
    let mut numbers = Vec::new();
    for range in text.split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        numbers.extend(first.parse::<usize>().ok()?..=last.parse().ok()?);
    }
    Some(numbers)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs;

    #[test]
    fn threads_of_a_core_count_once() {
        let root = tempfile::tempdir().unwrap();
        let physical = || core_cpus(root.path()).map(|cores| cores.len());
        assert_eq!(physical(), None);
        fs::create_dir_all(root.path().join("proc/self")).unwrap();
        let allow = |cpus: &str| {
            let status = format!("Name:\tpipeline\nCpus_allowed:\tff\nCpus_allowed_list:\t{cpus}\nMems_allowed:\t1\n");
            fs::write(root.path().join("proc/self/status"), status).unwrap();
        };
        // Four cores with two threads each, numbered as Linux usually does; the fourth core has an older kernel's file.
        for cpu in 0..8 {
            let topology = root.path().join(format!("sys/devices/system/cpu/cpu{cpu}/topology"));
            fs::create_dir_all(&topology).unwrap();
            let name = if cpu % 4 == 3 { "thread_siblings_list" } else { "core_cpus_list" };
            fs::write(topology.join(name), format!("{},{}\n", cpu % 4, cpu % 4 + 4)).unwrap();
        }
        for (cpus, cores) in [("0-7", 4), ("0-3", 4), ("0,4", 1), ("1-2,5", 2), ("7", 1)] {
            allow(cpus);
            assert_eq!(physical(), Some(cores), "{cpus}");
        }
        for unknown in ["", "0-", "8"] {
            allow(unknown);
            assert_eq!(physical(), None, "{unknown}");
        }
    }

    #[test]
    fn this_machine_has_a_core() {
        assert!(cores() >= 1);
    }
}
