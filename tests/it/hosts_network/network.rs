//! Hosts on a network of their own: network namespaces on a bridge.
//!
//! The namespaces have no names and no way out. The kernel removes each of them, with its devices, when the last of its
//! processes has ended; those that hold them end with the test, however it ends.
use crate::support::{Scratch, python};
use std::io::{BufRead, BufReader};
use std::process::{Child, Command, Stdio};

/// How frames get from a host to the switch and back.
#[derive(Clone, Copy, Debug)]
pub enum Cable {
    /// As fast as this machine can.
    Good,
    /// So many bits per second in each direction, as `tc` writes it.
    Slow(&'static str),
    /// So many seconds late in each direction; a part of the frames is lost.
    Late { delay: f64, loss: f64 },
}

/// A process that is killed when this is dropped.
struct Holder(Child);

impl Holder {
    fn spawn(command: &mut Command) -> Self {
        let spawned = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn();
        Self(spawned.unwrap_or_else(|error| panic!("{command:?}: {error}")))
    }

    /// A process in a new network namespace.
    fn namespace() -> Self {
        let mut holder = Self::spawn(Command::new("unshare").args(["--net", "sh", "-c", "echo ready; exec cat"]));
        holder.until_ready();
        holder
    }

    fn until_ready(&mut self) {
        let mut line = String::new();
        let mut output = BufReader::new(self.0.stdout.take().expect("its output"));
        output.read_line(&mut line).expect("its output");
        assert_eq!(line, "ready\n");
    }

    fn net(&self) -> String {
        format!("--net=/proc/{}/ns/net", self.0.id())
    }

    /// Runs a line of shell in the namespace; it must succeed.
    fn shell(&self, line: &str) {
        let ran = Command::new("nsenter").args([&self.net(), "sh", "-ec", line]).output().expect("nsenter starts");
        assert!(ran.status.success(), "{line}\n{}", String::from_utf8_lossy(&ran.stderr));
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// A switch and the hosts at it.
pub struct Network {
    /// Cables that are programs. They end before their devices do.
    wires: Vec<Holder>,
    hosts: Vec<Holder>,
    switch: Holder,
}

impl Network {
    /// A network with a host for each cable; says so where there can be none.
    pub fn new(cables: &[Cable]) -> Option<Self> {
        if let Err(why) = possible() {
            println!("skipped: no network namespaces here: {why}");
            return None;
        }
        let hosts = cables.iter().map(|_| Holder::namespace()).collect();
        let mut network = Self { wires: Vec::new(), hosts, switch: Holder::namespace() };
        network.switch.shell("ip link add bridge type bridge; ip link set bridge up");
        for (host, cable) in cables.iter().enumerate() {
            network.plug_in(host, *cable);
        }
        Some(network)
    }

    fn plug_in(&mut self, host: usize, cable: Cable) {
        let (port, id, address) = (format!("port{host}"), self.hosts[host].0.id(), Self::address(host));
        if let Cable::Late { delay, loss } = cable {
            let mut wire = Command::new("nsenter");
            wire.args([&self.switch.net(), &python(), "-c", include_str!("wire.py")]);
            wire.args(["cable", &port, &delay.to_string(), &loss.to_string()]);
            let mut wire = Holder::spawn(&mut wire);
            wire.until_ready();
            self.wires.push(wire);
        } else {
            self.switch.shell(&format!("ip link add {port} type veth peer name cable"));
        }
        self.switch.shell(&format!("ip link set cable netns {id}; ip link set {port} master bridge up"));
        self.hosts[host]
            .shell(&format!("ip address add {address}/24 dev cable; ip link set cable up; ip link set lo up"));
        if let Cable::Slow(rate) = cable {
            let limit =
                |device: &str| format!("tc qdisc add dev {device} root tbf rate {rate} burst 16kb latency 100ms");
            self.switch.shell(&limit(&port));
            self.hosts[host].shell(&limit("cable"));
        }
    }

    /// The address of a host.
    pub fn address(host: usize) -> String {
        format!("10.77.0.{}", host + 1)
    }

    /// The program, on a host.
    pub fn command(&self, host: usize, scratch: &Scratch, arguments: &[&str]) -> Command {
        let program = scratch.command(arguments);
        let mut command = Command::new("nsenter");
        // It ends with this thread, even if the test is killed.
        command
            .args([&self.hosts[host].net(), "setpriv", "--pdeathsig", "KILL"])
            .arg(program.get_program())
            .args(program.get_args());
        command.envs(program.get_envs().filter_map(|(key, value)| Some((key, value?)))).current_dir(scratch.path(""));
        command
    }

    /// Pulls the cable of a host out of the switch.
    pub fn cut(&self, host: usize) {
        self.switch.shell(&format!("ip link set port{host} down"));
    }

    /// Puts it back.
    pub fn mend(&self, host: usize) {
        self.switch.shell(&format!("ip link set port{host} up"));
    }
}

/// Whether this system has and allows what networks need; `Err`: what it said.
fn possible() -> Result<(), String> {
    let needs = format!(
        "ip link add bridge type bridge && ip link add near type veth peer name far && ip tuntap add dev wire mode tap &&
         tc qdisc add dev near root tbf rate 10mbit burst 16kb latency 100ms &&
         for program in nsenter setpriv {}; do $program --version >&2 || exit 1; done",
        python()
    );
    let tried = Command::new("unshare").args(["--net", "sh", "-c", &needs]).output();
    let tried = tried.map_err(|error| format!("unshare: {error}"))?;
    if tried.status.success() { Ok(()) } else { Err(String::from_utf8_lossy(&tried.stderr).trim().replace('\n', "; ")) }
}
