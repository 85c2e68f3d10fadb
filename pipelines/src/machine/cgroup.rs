//! Memory that a container may use: the limits of Linux's control groups, versions 1 and 2
//! (`Documentation/admin-guide/cgroup-v2.rst` and `cgroup-v1/memory.rst` of the kernel).
use std::fs::read_to_string;
use std::path::{Path, PathBuf};

/// Memory of the control groups of a process, in bytes; `u64::MAX` if nothing limits it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct GroupMemory {
    /// The lowest limit.
    pub limit: u64,
    /// The least that is left of a limit: the limit minus what is in use. The page cache does not count, since it is
    /// dropped when memory is needed.
    pub available: u64,
}

impl GroupMemory {
    const UNLIMITED: Self = Self { limit: u64::MAX, available: u64::MAX };
}

/// The names of a version's files in the folder of a control group.
struct Files {
    limit: &'static str,
    usage: &'static str,
    /// The lines of `memory.stat` with the page cache, in bytes.
    cache: [&'static str; 2],
}

const V2: Files = Files { limit: "memory.max", usage: "memory.current", cache: ["active_file", "inactive_file"] };
const V1: Files = Files {
    limit: "memory.limit_in_bytes",
    usage: "memory.usage_in_bytes",
    cache: ["total_active_file", "total_inactive_file"],
};

/// The memory of this process's control groups. `root` is the root of the file system, `/` except in tests.
pub fn memory(root: &Path) -> GroupMemory {
    let groups = read_to_string(root.join("proc/self/cgroup")).unwrap_or_default();
    let all = groups.lines().filter_map(group).flat_map(|(files, mount, path)| {
        let mount = root.join(mount);
        // The limits of all groups that contain it apply. In a container the path may be that on the host, whose folder is
        // not there; then the limit is that of the mount point.
        let folders: Vec<PathBuf> = Path::new(path).ancestors().map(|group| mount.join(group)).collect();
        folders.into_iter().filter_map(|folder| in_folder(&folder, files))
    });
    all.fold(GroupMemory::UNLIMITED, |one, other| GroupMemory {
        limit: one.limit.min(other.limit),
        available: one.available.min(other.available),
    })
}

/// The memory controller's files, mount point and path that a line of `/proc/PID/cgroup` names:
/// `HIERARCHY:CONTROLLERS:/PATH`, without controllers in version 2.
fn group(line: &str) -> Option<(&'static Files, &'static str, &str)> {
    let mut parts = line.splitn(3, ':');
    let (_, controllers, path) = (parts.next()?, parts.next()?, parts.next()?);
    let path = path.trim_start_matches('/');
    match controllers {
        "" => Some((&V2, "sys/fs/cgroup", path)),
        _ if controllers.split(',').any(|name| name == "memory") => Some((&V1, "sys/fs/cgroup/memory", path)),
        _ => None,
    }
}

/// The limit of the group in `folder`, if it has one. ("max" in version 2, and nearly 2^63 in version 1, are none.)
fn in_folder(folder: &Path, files: &Files) -> Option<GroupMemory> {
    let number = |name: &str| read_to_string(folder.join(name)).ok()?.trim().parse::<u64>().ok();
    let limit = number(files.limit).filter(|limit| *limit < 1 << 62)?;
    let stat = read_to_string(folder.join("memory.stat")).unwrap_or_default();
    let of_line = |line: &str| {
        let (name, value) = line.split_once(' ')?;
        files.cache.contains(&name).then(|| value.trim().parse::<u64>().ok())?
    };
    let cache: u64 = stat.lines().filter_map(of_line).sum();
    let used = number(files.usage).unwrap_or(0).saturating_sub(cache);
    Some(GroupMemory { limit, available: limit.saturating_sub(used) })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The memory that these files, by path, describe.
    fn memory_of(files: &[(&str, &str)]) -> GroupMemory {
        let root = tempfile::tempdir().unwrap();
        for (path, content) in files {
            let path = root.path().join(path);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        }
        memory(root.path())
    }

    #[test]
    fn every_group_along_the_path_limits_in_version_2() {
        // The outer group has the lower limit of 2 GiB; the inner one, of 3 GiB, has less left: 3 - (2.5 - 0.25) GiB.
        let files = [
            ("proc/self/cgroup", "0::/user.slice/run.scope\n"),
            ("sys/fs/cgroup/memory.stat", "anon 5\n"),
            ("sys/fs/cgroup/user.slice/memory.max", "2147483648\n"),
            ("sys/fs/cgroup/user.slice/memory.current", "1073741824\n"),
            ("sys/fs/cgroup/user.slice/run.scope/memory.max", "3221225472\n"),
            ("sys/fs/cgroup/user.slice/run.scope/memory.current", "2684354560\n"),
            (
                "sys/fs/cgroup/user.slice/run.scope/memory.stat",
                "anon 7\nfile 999\nactive_file 67108864\ninactive_file 201326592\ninactive_anon 8\n",
            ),
        ];
        assert_eq!(memory_of(&files), GroupMemory { limit: 2 << 30, available: 768 << 20 });
        // The page cache of the inner group, 256 MiB, counts as in use if nothing tells of it: 3 - 2.5 GiB are left.
        assert_eq!(memory_of(&files[..6]), GroupMemory { limit: 2 << 30, available: 512 << 20 });
        assert_eq!(memory_of(&files[..4]), GroupMemory { limit: 2 << 30, available: 1 << 30 });
    }

    #[test]
    fn a_container_sees_its_own_group_at_the_mount_point() {
        let files = [
            ("proc/self/cgroup", "0::/../../kubepods/pod1\n"),
            ("sys/fs/cgroup/memory.max", "1000000\n"),
            ("sys/fs/cgroup/memory.current", "400000\n"),
        ];
        assert_eq!(memory_of(&files), GroupMemory { limit: 1_000_000, available: 600_000 });
        let files = [
            ("proc/self/cgroup", "12:cpu,cpuacct:/docker/x\n4:memory:/docker/x\n1:name=systemd:/\n"),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "1000000\n"),
            ("sys/fs/cgroup/memory/memory.usage_in_bytes", "900000\n"),
            (
                "sys/fs/cgroup/memory/memory.stat",
                "cache 1\nactive_file 5\ntotal_active_file 100000\ntotal_inactive_file 200000\n",
            ),
        ];
        assert_eq!(memory_of(&files), GroupMemory { limit: 1_000_000, available: 400_000 });
    }

    #[test]
    fn what_is_not_limited_or_not_there_limits_nothing() {
        let unlimited = [
            ("proc/self/cgroup", "4:hugetlb,memory:/a\n0::/b\n"),
            ("sys/fs/cgroup/memory/a/memory.limit_in_bytes", "9223372036854771712\n"),
            ("sys/fs/cgroup/memory/a/memory.usage_in_bytes", "5\n"),
            ("sys/fs/cgroup/b/memory.max", "max\n"),
            ("sys/fs/cgroup/b/memory.current", "5\n"),
        ];
        assert_eq!(memory_of(&unlimited), GroupMemory::UNLIMITED);
        assert_eq!(memory_of(&[]), GroupMemory::UNLIMITED);
        assert_eq!(memory_of(&[("proc/self/cgroup", "nonsense\n0::\n::\n")]), GroupMemory::UNLIMITED);
        // More in use than the limit, which was lowered: nothing is left.
        let over = [
            ("proc/self/cgroup", "0::/\n"),
            ("sys/fs/cgroup/memory.max", "10\n"),
            ("sys/fs/cgroup/memory.current", "11\n"),
        ];
        assert_eq!(memory_of(&over), GroupMemory { limit: 10, available: 0 });
    }
}
