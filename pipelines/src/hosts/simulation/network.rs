//! The network: connections that deliver in order until they break, delays, losses and cuts.
//!
//! As with TCP, a lost segment arrives later, and so does everything behind it. What is sent into a cut arrives when
//! the cut is over. A process that dies closes its connections; one whose machine loses power does not.
use super::world::{MS, Pid, Process, Running, S, Time, What, World};
use crate::hosts::{HeadEvent, Hello, Link, MemberEvent, ToHead, ToMember};

/// What travels on a control connection.
#[derive(Clone, Debug)]
pub enum Packet {
    Hello(Hello),
    ToHead(ToHead),
    ToMember(ToMember),
}

/// The member's end of a connection.
pub const MEMBER: usize = 0;
/// The head's end.
pub const HEAD: usize = 1;

/// A control connection.
pub struct Connection {
    pub ends: [Pid; 2],
    pub open: [bool; 2],
    /// It was reset for no reason.
    pub reset: bool,
    /// When the head heard from the member first.
    pub admitted: Time,
    /// When the last packet to each end arrives.
    last: [Time; 2],
    /// Packets of earlier flows are lost.
    flow: [u32; 2],
}

/// No packets pass from one machine to another.
pub struct Cut {
    pub from: usize,
    pub to: usize,
    pub until: Time,
}

/// All connections, and the weather.
#[derive(Default)]
pub struct Network {
    pub links: Vec<Connection>,
    pub cuts: Vec<Cut>,
    /// Pairs of machines that can connect but exchange no large packets, and until when.
    pub bad_pairs: Vec<(usize, usize, Time)>,
    /// Until when every packet takes 200 ms.
    pub slow_until: Time,
    /// Until when 5 % of the packets are lost.
    pub lossy_until: Time,
}

impl Network {
    /// Until when nothing passes from one machine to another.
    pub fn cut_until(&self, from: usize, to: usize, now: Time) -> Option<Time> {
        let cuts = self.cuts.iter().filter(|cut| cut.from == from && cut.to == to && cut.until > now);
        cuts.map(|cut| cut.until).max()
    }

    /// Whether two machines cannot talk to each other.
    pub fn is_cut(&self, a: usize, b: usize, now: Time) -> bool {
        self.cut_until(a, b, now).is_some() || self.cut_until(b, a, now).is_some()
    }
}

impl World {
    /// How long a packet takes between two machines, if nothing is cut.
    pub fn latency(&mut self, from: usize, to: usize) -> Time {
        if from == to {
            return self.random.between(20, 100);
        }
        let mut latency = self.random.between(100, 3 * MS);
        if self.now < self.network.slow_until {
            latency += self.random.between(150 * MS, 200 * MS);
        }
        if self.now < self.network.lossy_until {
            // Retransmitted after a time-out that doubles.
            let mut timeout = 250 * MS;
            while self.random.chance(5) {
                latency += timeout;
                timeout *= 2;
            }
        }
        latency
    }

    /// When something that is sent now arrives.
    pub fn arrival(&mut self, from: usize, to: usize) -> Time {
        let latency = self.latency(from, to);
        match self.network.cut_until(from, to, self.now) {
            Some(until) => until + self.random.between(0, S) + latency,
            None => self.now + latency,
        }
    }

    /// Sends a packet from one end of a link.
    pub fn send(&mut self, link: usize, from: usize, packet: Packet) {
        let connection = &self.network.links[link];
        if !connection.open[from] {
            return;
        }
        let to = 1 - from;
        let (sender, receiver) = (connection.ends[from], connection.ends[to]);
        let machines = (self.processes[sender].machine, self.processes[receiver].machine);
        let at = self.arrival(machines.0, machines.1);
        if self.processes[receiver].running == Running::Dead && self.network_answers(receiver) {
            // Its kernel answers that there is no such connection.
            return self.at(at + MS, What::Closed { link, end: from });
        }
        let connection = &mut self.network.links[link];
        connection.last[to] = connection.last[to].max(at);
        let (at, flow) = (connection.last[to], connection.flow[to]);
        if at > self.now + 1_500 * MS {
            // The segment was lost several times: its receiver has a reason to find the sender silent.
            self.processes[sender].disturbed = self.processes[sender].disturbed.max(at);
        }
        self.at(at, What::Deliver { link, end: to, flow, packet });
    }

    /// Whether the machine of a process has power, so that its kernel answers for a dead process.
    fn network_answers(&self, pid: Pid) -> bool {
        !self.checks.without_power(self.processes[pid].machine, self.now)
    }

    /// A packet arrives.
    pub fn deliver(&mut self, link: usize, end: usize, flow: u32, packet: Packet) {
        let connection = &self.network.links[link];
        if !connection.open[end] || connection.flow[end] != flow {
            return;
        }
        let pid = connection.ends[end];
        let name = Link(link as u64);
        match packet {
            Packet::Hello(hello) => {
                self.network.links[link].admitted = self.now;
                self.head_event(pid, HeadEvent::Admitted { link: name, hello });
            }
            Packet::ToHead(message) => self.head_event(pid, HeadEvent::Message { link: name, message }),
            Packet::ToMember(message) => {
                if let ToMember::Welcome { incarnation, .. } = message {
                    self.processes[pid].incarnation = self.processes[pid].incarnation.max(incarnation);
                }
                self.member_event(pid, MemberEvent::Message { link: name, message });
            }
        }
    }

    /// A process closes its end; the other learns of it after what was sent before.
    pub fn close(&mut self, link: usize, end: usize) {
        if !self.network.links[link].open[end] {
            return;
        }
        self.network.links[link].open[end] = false;
        let [from, to] = [end, 1 - end].map(|end| self.processes[self.network.links[link].ends[end]].machine);
        let at = self.arrival(from, to).max(self.network.links[link].last[1 - end]);
        self.at(at, What::Closed { link, end: 1 - end });
    }

    /// The end of a process that dies: what it had sent may be lost, and with its machine's power it says nothing.
    pub fn drop_links(&mut self, pid: Pid, power_loss: bool) {
        for link in 0..self.network.links.len() {
            for end in [MEMBER, HEAD] {
                let connection = &self.network.links[link];
                if connection.ends[end] != pid || !connection.open[end] {
                    continue;
                }
                if power_loss {
                    self.network.links[link].open[end] = false;
                    continue;
                }
                if self.random.chance(30) {
                    // Unread input: the kernel resets the connection.
                    let connection = &mut self.network.links[link];
                    connection.flow[1 - end] += 1;
                    connection.last[1 - end] = 0;
                }
                self.close(link, end);
            }
        }
    }

    /// A connection is reset, for no reason that either end knows of.
    pub fn reset(&mut self, link: usize) {
        let connection = &mut self.network.links[link];
        connection.reset = true;
        connection.flow = connection.flow.map(|flow| flow + 1);
        for end in [MEMBER, HEAD] {
            let delay = self.random.between(0, 300 * MS);
            self.after(delay, What::Closed { link, end });
        }
    }

    /// An end learns that its connection is closed.
    pub fn learn_closed(&mut self, link: usize, end: usize) {
        if !std::mem::take(&mut self.network.links[link].open[end]) {
            return;
        }
        let pid = self.network.links[link].ends[end];
        let link = Link(link as u64);
        if end == HEAD {
            self.head_event(pid, HeadEvent::Closed { link });
        } else {
            self.member_event(pid, MemberEvent::Closed { link });
        }
    }

    /// A member tries to reach the head.
    pub fn dial(&mut self, pid: Pid, attempt: u64) {
        let alive: Vec<Pid> =
            self.heads.iter().copied().filter(|head| self.processes[*head].running != Running::Dead).collect();
        let from = self.processes[pid].machine;
        let head = match alive[..] {
            [] => None,
            [head] => Some(head),
            [.., older, _] if self.random.chance(40) => Some(older),
            [.., newest] => Some(newest),
        };
        let to = head.map_or(0, |head| self.processes[head].machine);
        let reachable = !self.network.is_cut(from, to, self.now) && !self.checks.without_power(to, self.now);
        if !reachable {
            return self.after(2_900 * MS, What::Dialled { pid, attempt, head: None });
        }
        let delay: Time = (0..3).map(|_| self.latency(from, to)).sum();
        self.after(delay, What::Dialled { pid, attempt, head });
    }

    /// An attempt to reach the head ends. A stopped head accepts the connection but proves nothing.
    pub fn dialled(&mut self, pid: Pid, attempt: u64, head: Option<Pid>) {
        let head = head.filter(|head| self.processes[*head].running != Running::Dead);
        let Some(head) = head else {
            let cause = "connection refused".to_owned();
            return self.member_event(pid, MemberEvent::DialFailed { attempt, cause });
        };
        if self.processes[head].running == Running::Stopped {
            return;
        }
        let link = self.network.links.len();
        let connection = Connection {
            ends: [pid, head],
            open: [true; 2],
            reset: false,
            admitted: Time::MAX / 2,
            last: [self.now; 2],
            flow: [0; 2],
        };
        self.network.links.push(connection);
        self.processes[pid].link = Some(link);
        let hello = hello(pid, &self.processes[pid]);
        self.send(link, MEMBER, Packet::Hello(hello));
        self.member_event(pid, MemberEvent::Linked { attempt, link: Link(link as u64) });
    }
}

/// How a process introduces itself; its address is its number.
pub fn hello(pid: Pid, process: &Process) -> Hello {
    Hello {
        name: format!("p{pid}"),
        address: pid.to_string(),
        version: process.version.to_owned(),
        backend: "avx2".to_owned(),
        workers: 1,
    }
}
