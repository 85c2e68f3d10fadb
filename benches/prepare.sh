#!/bin/sh
# Measures preparation, as benches/README.md shows it: benches/prepare.sh [SHARED_DATA] [STEP…]
# Steps: dump encode duplicates clusters whole feed million; all of them without one. Nothing else should run meanwhile.
# First: cargo build --release --locked --workspace --bins --examples
set -eu
cd "$(dirname "$0")/.."
data=${1:-../shared/data}
[ $# -gt 0 ] && shift
[ $# -gt 0 ] || set -- dump encode duplicates clusters whole feed million
unset OPENBLAS_CORETYPE OPENBLAS_NUM_THREADS || true
pipeline=target/release/pipeline
examples=target/release/examples
work=${MILLRACE_BENCH:-target/prepare}
mkdir -p "$work"
export MILLRACE_CACHE="$work/cache"
corpus=$data/corpus/wiki-en-dev.parquet

# timed NAME COMMAND…: seconds on the wall and on all cores, and peak memory.
timed() {
    name=$1
    shift
    python3 - "$name" "$@" <<'PY'
import resource, subprocess, sys, time
start = time.monotonic()
ran = subprocess.run(sys.argv[2:], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
spent, used = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
if ran.returncode:
    sys.exit(ran.stderr.decode())
print(f"{sys.argv[1]:45} {spent:7.2f} s  {used.ru_utime + used.ru_stime:7.2f} s of CPU  {used.ru_maxrss / 1024:6.0f} MB")
PY
}

# Reading, hashing, signatures, comparing, components, and writing texts: no cleaning, filters or tokens.
cat > "$work/duplicates.toml" <<TOML
stage.read = { type = "documents", paths = ["$corpus"] }
stage.deduplicate = { type = "minhash" }
stage.write = { type = "parquet", tokens = false }
TOML

# prepare NAME OUT INPUT WORKERS [OPTION…]
prepare() {
    name=$1 out=$2 input=$3 workers=$4
    shift 4
    timed "$name" "$pipeline" run configs/prepare-wiki.toml --run-dir "$out" --workers "$workers" \
        --set "read.paths=['$input']" "$@"
}

for step in "$@"; do
    case $step in
    dump) "$examples/dump" "$data"/xml/enwiki-latest-pages-articles1.xml-p000000010p000030302-shortened.bz2 ;;
    encode) "$examples/encode" "$corpus" ;;
    duplicates)
        for run in 1 2 3; do
            rm -rf "$work/out"
            timed "near-duplicates, one thread" "$pipeline" run "$work/duplicates.toml" --run-dir "$work/out" --workers 1
        done
        ;;
    whole)
        # The same name: it is where rows without a column `source` are from.
        mkdir -p "$work/before" "$work/after"
        "$examples/corpora" edit "$corpus" "$work/before/wiki.parquet" 0
        "$examples/corpora" edit "$corpus" "$work/after/wiki.parquet" 100
        for run in 1 2 3; do
            rm -rf "$work/out"
            prepare "whole, 2 workers" "$work/out" "$work/before/wiki.parquet" 2
            prepare "update, 1 % of documents edited" "$work/out" "$work/after/wiki.parquet" 2
            prepare "update, nothing changed" "$work/out" "$work/after/wiki.parquet" 2
        done
        ;;
    feed)
        rm -rf "$work/out"
        prepare "whole, 2 workers" "$work/out" "$corpus" 2
        "$examples/corpora" feed "$work"/out/v1/documents-*.parquet
        ;;
    clusters)
        "$examples/corpora" clusters "$work/clusters.parquet"
        sed "s|$corpus|$work/clusters.parquet|" "$work/duplicates.toml" > "$work/clusters.toml"
        rm -rf "$work/out"
        timed "clusters of 20,000 and of 5,000 in a chain" \
            "$pipeline" run "$work/clusters.toml" --run-dir "$work/out" --workers 2
        "$pipeline" stat "$work/out" | sed -n '3,8p'
        ;;
    million)
        [ -f "$work/million.parquet" ] || "$examples/corpora" generate 1000000 "$work/million.parquet"
        rm -rf "$work/out"
        prepare "1 M documents, 2 workers" "$work/out" "$work/million.parquet" 2 --set write.shards=256
        ls -l "$work/out/v1/catalog.parquet"
        ;;
    *) echo "error: no step $step" >&2; exit 2 ;;
    esac
done
