#!/usr/bin/env python3
"""Compares predictions of `pipeline explain --hosts --network` with runs, as docs/scaling.md shows it.

    benches/hosts.py [RATE ...]         10mbit 100mbit 1gbit without one

Two hosts, each a network namespace with one worker. The kernel limits their cables (`tc`, token bucket) in both
directions. Needs Linux, root, `ip`, `tc`, `unshare`, `nsenter`, `setpriv`, and a machine that does nothing else.
First: cargo build --release --locked
"""
import json
import os
import random
import shutil
import statistics
import subprocess
import sys
import tempfile

BUILT = os.path.join(os.path.dirname(__file__), "../target/release/pipeline")
PROGRAM = os.path.abspath(os.environ.get("PIPELINE", BUILT))
HOSTS = 2
ROUNDS = 3
# Layers and width.
MODELS = {"4 x 128": (4, 128), "4 x 256": (4, 256)}
# Models and steps by rate. Communication takes most of a step at the first rate, and a small part of one at the last.
CASES = {
    "10mbit": [("4 x 128", 8)],
    "100mbit": [("4 x 128", 24), ("4 x 256", 14)],
    "1gbit": [("4 x 128", 40), ("4 x 256", 24)],
}
# Steps at the beginning that are not counted.
WARMUP = 4


def configuration(layers, width, steps):
    return f"""
run = {{ name = "hosts", max_steps = {steps} }}
stage.read = {{ type = "documents", paths = ["corpus.jsonl"], validation_fraction = 0.02 }}
stage.tokenize = {{ type = "bpe", vocabulary_size = 1024 }}
stage.pack = {{ type = "concat", sequence_length = 128, micro_batch_size = 2, micro_batches = 16 }}
stage.forward = {{ type = "gpt2", layers = {layers}, heads = {width // 64}, width = {width}, precision = "auto" }}
stage.loss = {{ type = "cross_entropy" }}
stage.backward = {{ type = "backward" }}
stage.reduce = {{ type = "tree_sum" }}
stage.optimize = {{ type = "adamw", learning_rate = 1e-3 }}
stage.evaluate = {{ type = "evaluate", interval = 100000 }}
stage.checkpoint = {{ type = "checkpoint", interval = 100000 }}
stage.record = {{ type = "record" }}
"""


def corpus(path):
    draw = random.Random(1)
    words = ["".join(draw.choices("etaoinshrdlu", k=draw.randint(2, 9))) for _ in range(3000)]
    with open(path, "w") as file:
        for _ in range(1500):
            print(json.dumps({"text": " ".join(draw.choices(words, k=400))}), file=file)


class Network:
    """Network namespaces on a bridge. Each ends, with its devices, when the process that holds it does."""

    def __init__(self, hosts, rate):
        self.holders = [self.namespace() for _ in range(hosts + 1)]
        self.shell(hosts, "ip link add bridge type bridge; ip link set bridge up")
        # Enough tokens for the packets that the kernel sends at once, and for 4 ms of the rate.
        burst = max(64_000, int(bits(rate) / 8 * 0.004))
        limit = f"root tbf rate {rate} burst {burst} latency 50ms"
        for host in range(hosts):
            port = f"port{host}"
            self.shell(hosts, f"ip link add {port} type veth peer name cable; "
                       f"ip link set cable netns {self.holders[host].pid}; ip link set {port} master bridge up")
            self.shell(host, f"ip address add {address(host)}/24 dev cable; ip link set cable up; ip link set lo up")
            self.shell(hosts, f"tc qdisc add dev {port} {limit}")
            self.shell(host, f"tc qdisc add dev cable {limit}")

    def namespace(self):
        command = ["unshare", "--net", "sh", "-c", "echo ready; exec cat"]
        holder = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        if holder.stdout.readline() != b"ready\n":
            sys.exit("this system does not allow network namespaces: run this as root")
        return holder

    def inside(self, host):
        return ["nsenter", f"--net=/proc/{self.holders[host].pid}/ns/net"]

    def shell(self, host, line):
        subprocess.run([*self.inside(host), "sh", "-ec", line], check=True)

    def start(self, host, arguments, folder):
        command = [*self.inside(host), "setpriv", "--pdeathsig", "KILL", PROGRAM, *arguments]
        return subprocess.Popen(command, cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        for holder in self.holders:
            holder.kill()
            holder.wait()


def address(host):
    return f"10.77.0.{host + 1}"


def bits(rate):
    return float(rate[:-4]) * {"mbit": 1e6, "gbit": 1e9}[rate[-4:]]


def predicted(folder, rate):
    """Seconds of computing, communication and updating: means of what all hosts predict at the same time."""
    command = [PROGRAM, "explain", "run.toml", "--workers", "1", "--hosts", str(HOSTS), "--network", rate, "--json"]
    hosts = [subprocess.Popen(command, cwd=folder, stdout=subprocess.PIPE, text=True) for _ in range(HOSTS)]
    guesses = [json.loads(host.communicate()[0])["scaling"] for host in hosts]
    keys = ("compute_seconds", "communication_seconds", "update_seconds")
    return [statistics.mean(guess[key] for guess in guesses) for key in keys]


def measured(folder, rate):
    """Seconds per step: the median of the steps after the first ones."""
    shutil.rmtree(os.path.join(folder, "r"), ignore_errors=True)
    where = f"{address(0)}:7420"
    with Network(HOSTS, rate) as network:
        run = ["run", "run.toml", "--run-dir", "r", "--workers", "1"]
        head = network.start(0, [*run, "--listen", where, "--min-hosts", str(HOSTS)], folder)
        said = []
        for line in head.stderr:
            said.append(line)
            if line.startswith("Hosts   pipeline join "):
                break
        join = ["join", where, "--secret-file", "r/secret"]
        members = [network.start(host, join, folder) for host in range(1, HOSTS)]
        said.append(head.stderr.read())
        said += [member.communicate()[1] for member in members]
        if head.wait() != 0:
            sys.exit("".join(said))
    with open(os.path.join(folder, "r", "metrics.jsonl")) as file:
        lines = [json.loads(line) for line in file]
    return statistics.median(lines[0]["tokens"] / line["tok_per_sec"] for line in lines[WARMUP:])


def main():
    rates = sys.argv[1:] or list(CASES)
    unknown = [rate for rate in rates if rate not in CASES]
    if unknown:
        sys.exit(f"no model is chosen for {unknown[0]}: name some of {', '.join(CASES)}")
    heads = ("computing", "network", "update", "predicted", "measured", "error")
    print(f"{'model':8}{'rate':>8}" + "".join(f"{head:>10}" for head in heads))
    with tempfile.TemporaryDirectory() as folder:
        os.environ["MILLRACE_CACHE"] = os.path.join(folder, "cache")
        corpus(os.path.join(folder, "corpus.jsonl"))
        for rate in rates:
            for name, steps in CASES[rate]:
                with open(os.path.join(folder, "run.toml"), "w") as file:
                    file.write(configuration(*MODELS[name], steps + WARMUP))
                for _ in range(ROUNDS):
                    guess, took = predicted(folder, rate), measured(folder, rate)
                    row = "".join(f"{value:8.3f} s" for value in [*guess, sum(guess), took])
                    print(f"{name:8}{rate:>8}{row}{sum(guess) / took - 1:+10.1%}", flush=True)


if __name__ == "__main__":
    main()
