#!/usr/bin/env python3
"""Times the first page of `pipeline serve`: a list of many long runs, and their curves.

Usage: benches/serve.py [RUNS [STEPS]]  (200 runs of 10,000 steps), with target/release/pipeline, or $PIPELINE.
"""
import json
import math
import os
import pathlib
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request

PIPELINE = os.environ.get("PIPELINE") or pathlib.Path(__file__).resolve().parent.parent / "target/release/pipeline"


def generate(folder, runs, steps):
    """Runs with files as `pipeline run` writes them."""
    for run in range(runs):
        path = folder / f"run-{run:03}"
        path.mkdir()
        rate = 1e-3 * (1 + run % 4)
        tables = f'[run]\nseed = {run}\n[stage.optimize]\ntype = "adamw"\nlearning_rate = {rate}\n'
        (path / "config.toml").write_text(tables)
        status = {"state": "done", "first": 0, "steps": steps, "started": 1796000000, "ended": 1796001000 + run}
        (path / "status.json").write_text(json.dumps(status))
        with open(path / "metrics.jsonl", "w") as out:
            for step in range(1, steps + 1):
                noise = math.sin(step * 12.9898 + run) * 43758.5453 % 1
                line = {"step": step, "epoch": step / 1000, "tokens": step * 16384,
                        "loss": 3 + 6 / (1 + step / 300) + 0.2 * noise, "learning_rate": rate,
                        "gradient_norm": 0.9 + noise / 3, "tok_per_sec": 26000 + 900 * noise, "mfu": 0.6 + noise / 50,
                        "data_wait_ms": noise, "time": 1796000000 + step / 10}
                if step % 100 == 0:
                    line |= {"validation_loss": line["loss"] + 0.1, "bits_per_byte": line["loss"] / 2.5}
                out.write(json.dumps(line, separators=(",", ":")) + "\n")


def timed(url):
    start = time.perf_counter()
    body = urllib.request.urlopen(url).read()
    return time.perf_counter() - start, body


def main():
    runs, steps = [int(word) for word in sys.argv[1:3]] + [200, 10_000][len(sys.argv) - 1:]
    with tempfile.TemporaryDirectory() as folder:
        generate(pathlib.Path(folder), runs, steps)
        size = sum(path.stat().st_size for path in pathlib.Path(folder).rglob("*.jsonl"))
        print(f"{runs} runs of {steps} steps, {size / 1e6:.0f} MB of metrics")
        server = subprocess.Popen([PIPELINE, "serve", folder, "--listen", "127.0.0.1:0", "--quiet"],
                                  stdout=subprocess.PIPE, text=True)
        try:
            address = server.stdout.readline().strip()
            say = lambda what, answer: print(f"{what:<52} {1e3 * answer[0]:7.0f} ms {len(answer[1]) / 1e3:8.0f} kB")
            page, listed = timed(f"{address}/"), timed(f"{address}/api/runs")
            names = [run["name"] for run in json.loads(listed[1])["runs"]]

            def plot(metric, names):
                words = [("metric", metric), ("width", 1000), ("smooth", 1)] + [("run", name) for name in names]
                return timed(f"{address}/api/plot?" + urllib.parse.urlencode(words))

            first = [plot(metric, names[-8:]) for metric in ("loss", "validation_loss")]
            say("the page", page)
            say("the list of runs", listed)
            say("loss of the 8 runs that are shown at first", first[0])
            say("their validation loss", first[1])
            whole = sum(answer[0] for answer in [page, listed, *first])
            print(f"{'all of the first page':<52} {1e3 * whole:7.0f} ms")
            say("loss of all runs, for the first time", plot("loss", names))
            say("loss of all runs, once more", plot("loss", names))
            say("gradient norm of all runs", plot("gradient_norm", names))
            say("the list once more", timed(f"{address}/api/runs"))
            say("the list, filtered", timed(f"{address}/api/runs?filter=optimize.learning_rate%3D0.003"))
            memory = pathlib.Path(f"/proc/{server.pid}/status").read_text().split("VmHWM:")[1].split()[0]
            print(f"peak memory of the server: {int(memory) / 1024:.0f} MB")
        finally:
            server.terminate()
            server.wait()
    sys.exit(0 if whole < 1 else f"the first page took {whole:.2f} s")


main()
