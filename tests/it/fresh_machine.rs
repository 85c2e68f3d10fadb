//! A machine that has nothing yet: `.ci/system` under package managers that only say what they were asked, and for real
//! in a new Debian root, where the recipe fetches and the program trains.
use crate::support;
use std::os::unix::fs::{PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use tempfile::TempDir;

/// A `PATH` of its own, with almost nothing on it.
struct Machine {
    bin: TempDir,
}

impl Machine {
    /// With the package managers `managers`, for the user `uid`. A manager writes its arguments to `log`.
    fn new(managers: &[&str], uid: u32) -> Self {
        let machine = Self { bin: tempfile::tempdir().unwrap() };
        machine.tool("id", &format!("echo {uid}"));
        machine.tool("cargo", "");
        for manager in managers {
            machine.tool(manager, &format!("echo \"{manager} $*\" >> {}", machine.log().display()));
        }
        machine
    }

    fn log(&self) -> PathBuf {
        self.bin.path().join("log")
    }

    fn tool(&self, name: &str, script: &str) {
        let path = self.bin.path().join(name);
        std::fs::write(&path, format!("#!/bin/sh\n{script}\n")).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
    }

    /// Exit code, what it printed, and what it asked the managers for.
    fn system(&self, arguments: &[&str]) -> (i32, String, Vec<String>) {
        let script = support::repository().join(".ci/system");
        let ran = Command::new("/bin/sh").arg(script).args(arguments).env("PATH", self.bin.path()).output().unwrap();
        let asked = std::fs::read_to_string(self.log()).unwrap_or_default();
        (ran.status.code().unwrap(), said(&ran), asked.lines().map(str::to_owned).collect())
    }
}

fn said(ran: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&ran.stdout), String::from_utf8_lossy(&ran.stderr))
}

#[test]
fn each_package_manager_is_asked_for_what_is_missing_and_that_is_said_before() {
    let expected: [(&str, &[&str]); 4] = [
        (
            "apt-get",
            &[
                "apt-get update -qq",
                "apt-get install -y --no-install-recommends gcc libc6-dev pkg-config libopenblas-dev python3-pip",
            ],
        ),
        ("dnf", &["dnf install -y gcc pkgconf-pkg-config openblas-devel python3-pip"]),
        ("pacman", &["pacman -Sy --needed --noconfirm gcc pkgconf openblas python-pip"]),
        ("brew", &["brew install gcc pkgconf openblas python3"]),
    ];
    for (manager, commands) in expected {
        let (code, said, asked) = Machine::new(&[manager], 0).system(&["python"]);
        assert!(code == 0 && asked == commands, "{asked:?} {said}");
        for command in commands {
            assert!(said.contains(&format!("  {command}\n")), "{said}");
        }
    }
}

#[test]
fn what_is_there_is_not_installed() {
    let machine = Machine::new(&["apt-get"], 0);
    for tool in ["cc", "pkg-config", "python3"] {
        machine.tool(tool, "exit 0");
    }
    assert_eq!(machine.system(&["python"]), (0, String::new(), vec![]));
    machine.tool("pkg-config", "exit 1");
    let (code, said, asked) = machine.system(&[]);
    assert_eq!(
        (code, asked.last().unwrap().as_str()),
        (0, "apt-get install -y --no-install-recommends libopenblas-dev")
    );
    assert!(!said.contains("gcc"), "{said}");
}

#[test]
fn another_user_goes_through_sudo_or_is_told_what_root_has_to_run() {
    let machine = Machine::new(&["apt-get"], 1000);
    let (code, said, asked) = machine.system(&[]);
    assert_eq!((code, asked.len()), (1, 0), "{said}");
    assert!(said.contains("As root, run:\n  apt-get update -qq\n  apt-get install -y"), "{said}");
    machine.tool("sudo", &format!("echo \"sudo $*\" >> {}", machine.log().display()));
    let (code, said, asked) = machine.system(&[]);
    assert_eq!(code, 0, "{said}");
    assert!(asked.len() == 2 && asked.iter().all(|line| line.starts_with("sudo apt-get ")), "{asked:?}");
    assert!(said.contains("Running:\n  sudo apt-get update -qq\n"), "{said}");
}

#[test]
fn an_unknown_system_is_told_what_is_missing() {
    let (code, said, _) = Machine::new(&[], 0).system(&["python"]);
    assert_eq!(code, 1);
    for missing in ["\n  a C compiler, as `cc`\n", "\n  pkg-config\n", "openblas.pc\n", "\n  python3 with pip\n"] {
        assert!(said.contains(missing), "{said}");
    }
}

#[test]
fn without_rust_the_way_to_it_is_said() {
    let machine = Machine::new(&["apt-get"], 0);
    std::fs::remove_file(machine.bin.path().join("cargo")).unwrap();
    let (code, said, _) = machine.system(&[]);
    assert!(code == 1 && said.contains("https://sh.rustup.rs"), "{said}");
}

/// A new Debian root. Decompressed by debootstrap, entered by chroot; gone when dropped.
struct Root {
    folder: TempDir,
}

impl Root {
    /// `Err`: why there can be none here.
    fn new() -> Result<Self, String> {
        let run = |program: &str, arguments: &[&str]| Command::new(program).args(arguments).output();
        if run("id", &["-u"]).is_ok_and(|ran| ran.stdout != b"0\n") {
            return Err("chroot needs root".into());
        }
        let folder = tempfile::tempdir().map_err(|e| e.to_string())?;
        let path = folder.path().to_string_lossy().into_owned();
        let suite = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
        let suite = suite.lines().find_map(|l| l.strip_prefix("VERSION_CODENAME=")).unwrap_or("stable").to_owned();
        match run("debootstrap", &["--variant=minbase", &suite, &path]) {
            Err(_) => Err("debootstrap is not installed".into()),
            Ok(ran) if !ran.status.success() => Err(format!("debootstrap failed: {}", last_line(&ran))),
            Ok(_) => Ok(Self { folder }.online()),
        }
    }

    /// The network as this machine has it: names, and whom it trusts.
    fn online(self) -> Self {
        for file in ["/etc/resolv.conf", "/etc/hosts", "/etc/ssl/certs/ca-certificates.crt"] {
            if Path::new(file).exists() {
                self.copy(Path::new(file), file.trim_start_matches('/'));
            }
        }
        self
    }

    fn copy(&self, from: &Path, to: &str) {
        let to = self.folder.path().join(to);
        std::fs::create_dir_all(to.parent().unwrap()).unwrap();
        let ran = Command::new("cp").arg("-RL").arg(from).arg(&to).output().unwrap();
        assert!(ran.status.success(), "{}", said(&ran));
    }

    /// Runs a line of shell in the root's /millrace; it must succeed.
    fn shell(&self, line: &str) -> String {
        let ran = Command::new("chroot")
            .arg(self.folder.path())
            .args(["/bin/sh", "-ec", &format!("cd /millrace; {line}")])
            .env("PATH", "/opt/rust:/usr/sbin:/usr/bin:/sbin:/bin")
            .env("HOME", "/root")
            .output()
            .unwrap();
        assert!(ran.status.success(), "{line}\n{}", said(&ran));
        said(&ran)
    }
}

fn last_line(ran: &Output) -> String {
    said(ran).lines().last().unwrap_or_default().to_owned()
}

#[test]
fn a_new_debian_gets_what_it_needs_fetches_a_dump_and_trains() {
    let root = match Root::new() {
        Ok(root) => root,
        Err(why) => return eprintln!("skipped: {why}"),
    };
    for part in [".ci", "data/fetch-wiki.sh", "configs"] {
        root.copy(&support::repository().join(part), &format!("millrace/{part}"));
    }
    root.copy(Path::new(env!("CARGO_BIN_EXE_pipeline")), "millrace/pipeline");
    // What `cargo` builds is tried with the program that these tests were built with: that there is a cargo is enough.
    std::fs::create_dir_all(root.folder.path().join("opt/rust")).unwrap();
    symlink("/bin/true", root.folder.path().join("opt/rust/cargo")).unwrap();
    let first = root.shell(".ci/system python");
    assert!(first.contains("Running:\n  apt-get update -qq\n  apt-get install -y"), "{first}");
    let root = root.online(); // what was installed may have brought certificates of its own
    assert_eq!(root.shell(".ci/system python"), "", "what is there is not installed again");
    root.shell("echo 'int main(void) { return 0; }' > a.c; cc a.c $(pkg-config --cflags --libs openblas); ./a.out");
    let fetched = root.shell("data/fetch-wiki.sh data/cache/wiki");
    assert!(fetched.contains("106 articles"), "{fetched}");
    let trained = root.shell("MILLRACE_GEMM_GFLOPS=100 ./pipeline run configs/tiny.toml --set run.max_steps=3");
    assert!(trained.contains("Done: 3 steps"), "{trained}");
}
