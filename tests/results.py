#!/usr/bin/env python3
"""Shows whether two builds of the program compute the same results, bit for bit.

    tests/results.py BASE NEW       BASE, NEW: a program (target/release/pipeline), or a folder that --keep filled
    tests/results.py --keep FOLDER PROGRAM

Both programs run short versions of configs/wiki.toml, quarter.toml, llama.toml and prepare-wiki.toml on ../shared/data.
Compared are the tensors of every checkpoint, the saved state of every stage, the metrics without the clock's, and all
files of a prepared corpus. What merely describes a run (its recorded configuration, the program's version) is listed as
a note. Exit code 1 if a result differs.
"""
import argparse
import hashlib
import json
import os
import shutil
import struct
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
DATA = (ROOT / "../shared/data").resolve()

# Few and small steps: enough for two checkpoints, a validation and several epochs' order.
SHORT = ["--set", "run.max_steps=12", "--set", "pack.micro_batch_size=4", "--set", "evaluate.interval=6",
         "--set", "checkpoint.interval=6"]
DUMPS = 'read.paths=["data/xml/*.bz2"]'
FIRST = 'read.paths=["data/xml/ltg*.xml", "data/xml/enwiki-latest*.bz2"]'
SECOND = 'read.paths=["data/xml/enwiki-latest*.bz2", "data/xml/enwiki-10k.xml.bz2", "data/xml/simple*.xml"]'
DOCUMENTS = 'read.paths=["data/corpus/wiki-en-dev.parquet"]'
SHARDS = ["--set", "write.shards=16"]

# (name of the row, run directory, configuration, further arguments). A run directory that is there is updated.
CASES = [
    ("wiki", "wiki", "wiki", ["--set", DUMPS, *SHORT]),
    ("wiki, bf16, masks", "wiki-bf16", "wiki", ["--set", DUMPS, *SHORT, "--set", 'forward.precision="bf16"', "--set",
                                                "pack.document_mask=true"]),
    ("quarter", "quarter", "quarter", ["--set", DUMPS, *SHORT]),
    ("llama", "llama", "llama", ["--set", DUMPS, *SHORT]),
    ("llama, muon", "llama-muon", "llama", ["--set", DUMPS, *SHORT, "--stage", "optimize=configs/stages/muon.toml"]),
    ("prepare-wiki", "prepare-wiki", "prepare-wiki", ["--set", FIRST, *SHARDS]),
    ("prepare-wiki, update", "prepare-wiki", "prepare-wiki", ["--set", SECOND, *SHARDS]),
    ("prepare, near-duplicates", "prepare-near", "prepare-wiki", ["--set", DOCUMENTS, *SHARDS]),
]

# Metrics that depend on the clock or the machine.
CLOCK = {"tok_per_sec", "mfu", "data_wait_ms", "time"}
# Fields of JSON files that describe the run and are not computed.
DESCRIPTIVE = {"state.json": {"fingerprint", "format", "program"}, "version.json": {"program", "configuration"}}


def sha(data):
    return hashlib.sha256(data).hexdigest()[:16]


def tensors(path):
    """The hash of each tensor of a safetensors file, by name."""
    with open(path, "rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
        body = file.read()
    hashes = {}
    for name, entry in header.items():
        if name != "__metadata__":
            begin, end = entry["data_offsets"]
            hashes[name] = f"{entry['dtype']}{entry['shape']}:{sha(body[begin:end])}"
    return hashes


def json_fields(path, value):
    """(results, notes) of a JSON file: the hash of each field of the top level."""
    descriptive = DESCRIPTIVE.get(path.name, set())
    hashes = {key: sha(json.dumps(field, sort_keys=True).encode()) for key, field in value.items()}
    return ({key: h for key, h in hashes.items() if key not in descriptive},
            {key: h for key, h in hashes.items() if key in descriptive})


def describe(path):
    """What a file holds, as (results, notes), each a hash by name."""
    if path.suffix == ".safetensors":
        return tensors(path), {}
    if path.name == "metrics.jsonl":
        lines = [json.loads(line) for line in path.read_text().splitlines()]
        kept = [{key: value for key, value in line.items() if key not in CLOCK} for line in lines]
        return {f"line {n}": sha(json.dumps(line, sort_keys=True).encode()) for n, line in enumerate(kept, 1)}, {}
    if path.name in DESCRIPTIVE:
        value = json.loads(path.read_text())
        for stage, lane, state in value.pop("saved", []):
            value[f"saved by {stage}, lane {lane}"] = {key: field for key, field in state.items() if key not in CLOCK}
        return json_fields(path, value)
    return {"content": sha(path.read_bytes())}, {}


def fingerprint(run):
    """Every result under a run directory, by file, and the notes."""
    described = {"version.json", "stats.json", "metrics.jsonl", "state.json", "tokenizer.json", "config.json"}
    results, notes = {}, {}
    for path in sorted(run.rglob("*")):
        if path.suffix in {".safetensors", ".parquet"} or path.name in described:
            name = str(path.relative_to(run))
            results[name], notes[name] = describe(path)
    return results, notes


def configurations(program):
    """The configurations that belong to a program: of the checkout it was built in, or of this one."""
    for folder in Path(program).resolve().parents:
        for configs in (folder / "configs", folder / "src/configs"):
            if (configs / "wiki.toml").exists():
                return configs
    return ROOT / "configs"


def compute(program, only):
    """Runs all cases with a program; what they gave, by case."""
    program = Path(program).resolve()
    found = {}
    with tempfile.TemporaryDirectory(prefix="results-") as folder:
        folder = Path(folder)
        shutil.copytree(configurations(program), folder / "configs")
        (folder / "data").symlink_to(DATA)
        for name, run, config, arguments in CASES:
            if only and only not in name:
                continue
            command = [str(program), "run", f"configs/{config}.toml", "--run-dir", f"runs/{run}", *arguments]
            environment = {**os.environ, "MILLRACE_CACHE": str(folder / "cache")}
            ran = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)
            if ran.returncode != 0:
                print(f"{name}: {' '.join(command)}: exit code {ran.returncode}\n{ran.stderr}", file=sys.stderr)
                found[name] = {"failed": ran.stderr.strip().splitlines()[-1:], "results": {}, "notes": {}}
                continue
            results, notes = fingerprint(folder / "runs" / run)
            environment = folder / "runs" / run / "environment.json"
            backend = json.loads(environment.read_text()).get("products") if environment.exists() else None
            found[name] = {"backend": backend, "results": results, "notes": notes}
    return found


def load(of, only):
    if Path(of).is_dir():
        return json.loads((Path(of) / "results.json").read_text())
    return compute(of, only)


def flat(files):
    return {f"{file}: {key}": value for file, fields in files.items() for key, value in fields.items()}


def differences(base, new):
    """The names of what differs, or is in one of the two only."""
    base, new = flat(base), flat(new)
    return [name for name in sorted({*base, *new}) if base.get(name) != new.get(name)]


def compare(base, new, only):
    """Prints the table; whether everything is the same."""
    same = True
    print(f"{'configuration':<26} {'compared':>8} {'differ':>7}  hash of all")
    for name, *_ in CASES:
        if only and only not in name:
            continue
        a, b = base.get(name, {"results": {}, "notes": {}}), new.get(name, {"results": {}, "notes": {}})
        different = differences(a["results"], b["results"])
        compared = len({*flat(a["results"]), *flat(b["results"])})
        failed = compared == 0 or "failed" in a or "failed" in b
        same &= not different and not failed
        hashes = [sha(json.dumps(x["results"], sort_keys=True).encode()) for x in (a, b)]
        verdict = "FAILED" if failed else " != ".join(hashes) if different else hashes[0]
        print(f"{name:<26} {compared:>8} {len(different):>7}  {verdict}")
        for difference in different[:12]:
            print(f"    {difference}")
        if len(different) > 12:
            print(f"    … and {len(different) - 12} more")
        for note in differences(a["notes"], b["notes"]):
            print(f"    note: {note} differs (describes the run)")
        if a.get("backend") != b.get("backend"):
            print(f"    note: other products: {a.get('backend')} and {b.get('backend')}; bits are those of a backend")
    print("The same results." if same else "RESULTS DIFFER.")
    return same


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--keep", metavar="FOLDER", help="write the results of one program there, for later comparisons")
    parser.add_argument("--only", default="", metavar="TEXT", help="the configurations with TEXT in their names")
    parser.add_argument("of", nargs="+", metavar="PROGRAM|FOLDER")
    arguments = parser.parse_args()
    if not DATA.exists():
        parser.error(f"{DATA} is not there: it holds the data that the configurations run on")
    if arguments.keep:
        folder = Path(arguments.keep)
        folder.mkdir(parents=True, exist_ok=True)
        found = compute(arguments.of[0], arguments.only)
        (folder / "results.json").write_text(json.dumps(found, indent=1))
        sys.exit(any("failed" in case for case in found.values()))
    if len(arguments.of) != 2:
        parser.error("needs two programs, or folders of results: BASE NEW")
    base, new = (load(of, arguments.only) for of in arguments.of)
    sys.exit(not compare(base, new, arguments.only))


if __name__ == "__main__":
    main()
