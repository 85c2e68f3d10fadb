#!/usr/bin/env python3
"""Learning curves of models and optimizers: what README.md and benches/README.md say about bits per byte per token.

    benches/learning/learn.py                          # everything that is not in results.jsonl yet, then the tables
    benches/learning/learn.py --only seed --seeds 1    # one size, one seed
    benches/learning/learn.py --tables                 # the tables of the results so far
    benches/learning/learn.py --torch PYTHON           # also PyTorch's curve (../shared/peers/curve.py), on this machine
    benches/learning/learn.py --plot FILE.svg          # the picture in README.md, from the results (needs matplotlib)

Every run trains on wiki-en-dev.parquet with the tokenizer and the held-out documents of ../shared/peers/curve.py, in
bf16, if a variant does not say otherwise. A run that is in results.jsonl is not repeated: delete its line to do it
again. Steps are of 4,096 tokens; variants with smaller batches make more updates. Tokens do not depend on the machine;
seconds are comparable only within one session on a quiet machine, so the tables name the CPU, and --busy records none.
"""
import argparse
import json
import pathlib
import re
import statistics
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
REPOSITORY = HERE.parents[1]
# Beside the repository, or beside the folder of a worktree.
SHARED = next(filter(pathlib.Path.is_dir, (parent / "shared" for parent in REPOSITORY.parents)), pathlib.Path("shared"))
RESULTS = HERE / "results.jsonl"
# Final bits per byte of PyTorch's GPT-2 with AdamW after 600 steps of 4,096 tokens: the mark that others must reach.
MARK = 2.136
STEP_TOKENS = 32 * 128
BASELINE_STEPS = 600
PYTORCH = "PyTorch: GPT-2, AdamW 1e-3, compiled"

# Layers, heads, width and sequence length. Parameters (in millions, GPT-2 with its vocabulary of 10,000): 4, 12, 30 and
# 15. The last is the shape `small` of `pipeline bench`, but for its vocabulary.
SIZES = {"seed": (2, 8, 256, 128), "12M": (5, 6, 384, 128), "30M": (8, 8, 512, 128), "small": (6, 6, 384, 256)}
ADAMW = {"type": "adamw", "learning_rate": 1e-3, "warmup_steps": 50}
MUON = {
    "type": "muon",
    "learning_rate": 6e-3,
    "embedding_learning_rate": 0.15,
    "head_learning_rate": 0.007,
    "beta2": 0.98,
    "embedding_weight_decay": 0.0,
    "head_weight_decay": 0.0,
    "weight_decay": 0.01,
    "warmup_steps": 1,
    "momentum_warmup_steps": 300,
    "schedule": "wsd",
    "decay_fraction": 0.5,
    "final_fraction": 0.0,
}
# GPT-2's embedding is also its head: the best of 0.006, 0.012 and 0.024.
MUON_TIED = {key: value for key, value in MUON.items() if not key.startswith("head")} | {"embedding_learning_rate": 0.012}
GPT2 = {"type": "gpt2"}
NANOCHAT = {"type": "nanochat", "tied_head": False}
QWEN3 = {"type": "qwen3", "tied_head": False}
INT8 = {"precision": "int8"}


def adamw(rate):
    return ADAMW | {"learning_rate": rate}


# Name, model, optimizer, steps of 4,096 tokens, and, if it is another one, the batch in tokens.
VARIANTS = [
    ("GPT-2, AdamW 1e-3 (the baseline)", GPT2, ADAMW, 600),
    ("GPT-2, AdamW 3e-3", GPT2, adamw(3e-3), 600),
    ("GPT-2, Muon", GPT2, MUON_TIED, 600),
    ("Qwen 3, AdamW 1e-3", QWEN3, ADAMW, 600),
    ("Qwen 3, AdamW 3e-3", QWEN3, adamw(3e-3), 600),
    ("Qwen 3, Muon, 600 steps", QWEN3, MUON, 600),
    ("NanoChat, AdamW 3e-3", NANOCHAT, adamw(3e-3), 600),
    ("NanoChat, Muon", NANOCHAT, MUON, 600),
    ("Qwen 3, Muon, 150 steps", QWEN3, MUON, 150),
    ("NanoChat, Muon, 150 steps", NANOCHAT, MUON, 150),
    ("Qwen 3, Muon, 105 steps", QWEN3, MUON, 105),
    ("Qwen 3, Muon, 105 steps, int8", QWEN3 | INT8, MUON, 105),
    ("Qwen 3, Muon, batch of 2,048", QWEN3, MUON, 600, 2048),
    ("Qwen 3, Muon, batch of 2,048, 150 steps", QWEN3, MUON, 150, 2048),
    ("Qwen 3, Muon, batch of 2,048, 96 steps", QWEN3, MUON, 96, 2048),
    ("Qwen 3, Muon, batch of 2,048, 96 steps, int8", QWEN3 | INT8, MUON, 96, 2048),
    ("GPT-2, AdamW 1e-3, batch of 2,048", GPT2, ADAMW | {"warmup_steps": 100}, 600, 2048),
    ("GPT-2, AdamW 3e-3, batch of 2,048", GPT2, adamw(3e-3) | {"warmup_steps": 100}, 600, 2048),
    ("Qwen 3, Muon, batch of 2,048, 150 steps, int8", QWEN3 | INT8, MUON, 150, 2048),
    ("Qwen 3, Muon 4e-3, batch of 2,048, 150 steps, int8", QWEN3 | INT8, MUON | {"learning_rate": 4e-3}, 150, 2048),
    (
        "Qwen 3, Muon 4e-3, embedding 0.3, batch of 2,048, 150 steps, int8",
        QWEN3 | INT8,
        MUON | {"learning_rate": 4e-3, "embedding_learning_rate": 0.3},
        150,
        2048,
    ),
    # The warmup takes a sixth of the 300 updates.
    *(
        (f"Qwen 3, AdamW {rate}, batch of 2,048, 150 steps, int8", QWEN3 | INT8, adamw(float(rate)), 150, 2048)
        for rate in ("1e-3", "2e-3", "4e-3")
    ),
    ("Qwen 3, Muon, 600 steps, int8", QWEN3 | INT8, MUON, 600),
    ("GPT-2, AdamW 5e-4, int8", GPT2 | INT8, adamw(5e-4), 600),
    ("GPT-2, AdamW 1e-3, int8", GPT2 | INT8, ADAMW, 600),
    ("GPT-2, AdamW 2e-3, int8", GPT2 | INT8, adamw(2e-3), 600),
    ("GPT-2, AdamW 3e-3, int8", GPT2 | INT8, adamw(3e-3), 600),
    ("GPT-2, AdamW 1e-3, 3,000 steps, int8", GPT2 | INT8, ADAMW, 3000),
    ("NanoChat, Muon, 150 steps, int8", NANOCHAT | INT8, MUON, 150),
]
# The curves of the picture, with label and colour.
PLOTTED = {
    PYTORCH: ("PyTorch, GPT-2, AdamW", "tab:red"),
    VARIANTS[0][0]: ("Millrace, GPT-2, AdamW", "tab:orange"),
    "Qwen 3, Muon, 600 steps": ("Millrace, Qwen 3, Muon", "tab:blue"),
    "Qwen 3, Muon, batch of 2,048, 96 steps": ("the same, schedule of 96 steps", "tab:cyan"),
}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pipeline", default=str(REPOSITORY / "target/release/pipeline"), help="the program")
    parser.add_argument("--only", choices=SIZES, action="append", help="one size (default: all)")
    parser.add_argument("--variant", help="only variants whose name contains this")
    parser.add_argument("--seeds", type=int, default=3, help="seeds 1 to N (default: 3)")
    parser.add_argument("--torch", metavar="PYTHON", help="a Python with torch: also runs curve.py")
    parser.add_argument("--busy", action="store_true", help="the machine does other work: record no seconds")
    parser.add_argument("--tables", action="store_true", help="print the tables, train nothing")
    parser.add_argument("--plot", metavar="FILE", help="draw the results, train nothing")
    options = parser.parse_args()
    if options.plot:
        return plot(read(), options.plot)
    if not options.tables:
        train_all(options)
    print(tables(read()))


def read():
    return [json.loads(line) for line in RESULTS.read_text().splitlines()] if RESULTS.exists() else []


def train_all(options):
    """Trains what is missing, all variants with one seed before the next seed."""
    known = {(found["size"], found["variant"], found["seed"]) for found in read()}
    for size in options.only or SIZES:
        for seed in range(1, options.seeds + 1):
            for name, model, optimizer, steps, *batch in VARIANTS:
                if (size, name, seed) not in known and (options.variant or "") in name:
                    curve = millrace(options.pipeline, size, seed, model, optimizer, steps, *batch)
                    save(size, name, seed, [(*point[:2], None) for point in curve] if options.busy else curve)
            if options.torch and size == "seed" and seed == 1 and (size, PYTORCH, seed) not in known:
                save(size, PYTORCH, seed, pytorch(options.torch))


def save(size, variant, seed, curve):
    line = {"size": size, "variant": variant, "seed": seed, "cpu": cpu(), "curve": curve}
    with RESULTS.open("a") as file:
        file.write(json.dumps(line) + "\n")
    print(f"{size}, {variant}, seed {seed}: {curve[-1][1]:.4f} bits per byte", file=sys.stderr, flush=True)


def cpu():
    names = re.findall(r"model name\s*: (.*)", pathlib.Path("/proc/cpuinfo").read_text())
    return names[0] if names else "unknown"


def toml(table):
    return "".join(f"{key} = {json.dumps(value)}\n" for key, value in table.items())


def millrace(program, size, seed, model, optimizer, steps, batch=STEP_TOKENS):
    """Trains one model. Returns (step of 4,096 tokens, bits per byte, seconds since the run began to train) of each
    validation."""
    updates = STEP_TOKENS // batch
    layers, heads, width, length = SIZES[size]
    model = {"precision": "bf16"} | model | {"layers": layers, "heads": heads, "width": width}
    # Only runs of `seed` with 600 steps are validated before their end: with 30 million parameters that takes as long as
    # 40 steps. 600 steps are a quarter of an epoch. The pool (pack.shuffle_tokens) has the size of the corpus, from which
    # curve.py, too, draws its sequences.
    text = f"""extends = "{REPOSITORY}/configs/base.toml"
[run]
name = "learning"
seed = {seed}
max_steps = {steps * updates}
[stage.read]
paths = ["{SHARED}/data/corpus/wiki-en-dev.parquet"]
validation_every = 20
[stage.tokenize]
tokenizer = "{SHARED}/peers/wiki-10k.tokenizer.json"
[stage.pack]
sequence_length = {length}
micro_batch_size = {batch // length // 2}
micro_batches = 2
[stage.evaluate]
interval = {updates * (50 if size == "seed" and steps == BASELINE_STEPS else steps)}
[stage.checkpoint]
interval = 0
"""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "run.toml").write_text(text)
        (folder / "forward.toml").write_text(toml(model))
        (folder / "optimize.toml").write_text(toml(optimizer))
        tables = [f"--stage={stage}={folder}/{stage}.toml" for stage in ("forward", "optimize")]
        command = [program, "run", str(folder / "run.toml"), "--run-dir", str(folder / "run"), "--quiet", *tables]
        began = time.time()
        subprocess.run(command, check=True)
        lines = [json.loads(line) for line in (folder / "run/metrics.jsonl").read_text().splitlines()]
        # The first step ends one step after training began.
        first = 2 * lines[0]["time"] - lines[1]["time"]
        assert began < lines[0]["time"], "metrics.jsonl is of another run"
        return [(x["step"] // updates, x["bits_per_byte"], x["time"] - first) for x in lines if "bits_per_byte" in x]


def pytorch(python):
    """The same curve in PyTorch: GPT-2, AdamW, torch.compile, bf16."""
    script = SHARED / "peers/curve.py"
    corpus = SHARED / "data/corpus/wiki-en-dev.parquet"
    ran = subprocess.run([python, str(script), str(corpus), "--every", "100"], check=True, text=True, capture_output=True)
    found = re.findall(r"step (\d+) .*bits per byte ([\d.]+) after (\d+) s", ran.stdout)
    return [(int(step), float(bits), float(seconds)) for step, bits, seconds in found]


def reached(curve, mark):
    """Step and seconds of the first validation at or below `mark`, which is unknown if a long run was validated once."""
    if len(curve) == 1 and curve[0][0] == BASELINE_STEPS:
        return None
    return next(((step, seconds) for step, bits, seconds in curve if bits <= mark), None)


def tables(results):
    sizes = [size for size in SIZES if any(found["size"] == size for found in results)]
    return "\n\n".join(table(size, [found for found in results if found["size"] == size]) for size in sizes)


def table(size, results):
    """A row per variant: final bits per byte over seeds, and what it takes to reach the baseline's."""
    curves = {name: [] for name in (PYTORCH, *(variant[0] for variant in VARIANTS))}
    for found in results:
        curves.setdefault(found["variant"], []).append(found["curve"])
    curves = {name: of_name for name, of_name in curves.items() if of_name}
    # The lowest of GPT-2 with AdamW, at whatever rate.
    baseline = [curve[-1][1] for name in curves if name.startswith("GPT-2, AdamW") for curve in curves[name]]
    mark = MARK if size == "seed" else min(baseline, default=float("nan"))
    torch = curves.get(PYTORCH)
    cpus = ", ".join(sorted({found["cpu"] for found in results}))
    lines = [
        f"{size}; mark {mark:.4f} bits per byte, of {BASELINE_STEPS * STEP_TOKENS / 1e6:.2f} M tokens; {cpus}\n",
        "| | steps | bits per byte | spread | seeds | tokens to the mark | seconds to the mark |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, of_name in curves.items():
        last = [curve[-1][1] for curve in of_name]
        spread = f"{max(last) - min(last):.4f}" if len(last) > 1 else ""
        found = [reached(curve, mark) for curve in of_name]
        tokens = seconds = "–"
        if all(found):
            steps = statistics.mean(step for step, _ in found)
            took = [seconds for _, seconds in found if seconds is not None]
            tokens = f"{steps * STEP_TOKENS / 1e6:.2f} M ({100 * steps / BASELINE_STEPS:.0f} %)"
            if took:
                took = statistics.median(took)
                seconds = f"{took:.0f}" + (f" ({100 * took / torch[0][-1][2]:.0f} %)" if torch else "")
        line = [name, of_name[0][-1][0], f"{statistics.mean(last):.4f}", spread, len(last), tokens, seconds]
        lines.append(f"| {' | '.join(map(str, line))} |")
    return "\n".join(lines)


def plot(results, file):
    """Bits per byte of the first seed over tokens and over seconds."""
    import matplotlib

    matplotlib.use("svg")
    matplotlib.rcParams.update({"svg.fonttype": "none", "svg.hashsalt": "learning", "font.size": 10})
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(1, 2, figsize=(8.5, 3.2), sharey=True, layout="constrained")
    for name, (label, color) in PLOTTED.items():
        curves = [run["curve"] for run in results if (run["size"], run["variant"], run["seed"]) == ("seed", name, 1)]
        for curve in curves:
            steps, bits, seconds = zip(*curve)
            for panel, x in zip(axes, ([step * STEP_TOKENS / 1e6 for step in steps], seconds)):
                panel.plot(x, bits, label=label, color=color, marker="o", markersize=3)
    for panel, label in zip(axes, ("million training tokens", "seconds, with compilation and validation")):
        panel.axhline(MARK, color="gray", linewidth=0.8, linestyle=":")
        panel.set_xlabel(label)
        panel.set_xlim(left=0)
        panel.grid(alpha=0.3)
    axes[0].set_ylabel("bits per byte, held out")
    axes[0].legend(fontsize=9)
    figure.savefig(file, facecolor="white", metadata={"Date": None})


if __name__ == "__main__":
    main()
