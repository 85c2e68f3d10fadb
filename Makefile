# `make` lists the targets.

# pkg-config does not search the folder of Homebrew's OpenBLAS.
BREW_OPENBLAS := $(shell brew --prefix openblas 2>/dev/null)
ifneq ($(BREW_OPENBLAS),)
export PKG_CONFIG_PATH := $(BREW_OPENBLAS)/lib/pkgconfig:$(PKG_CONFIG_PATH)
endif

PIPELINE := target/release/pipeline
WIKI := data/cache/wiki
PEERS := ../shared/peers
# The Python with the libraries that tests and bench-peers compare with: $MILLRACE_PYTHON. Without it, tests use python3
# and skip what it lacks, and bench-peers creates an environment in target/peers.
TEST_PYTHON := $(or $(MILLRACE_PYTHON),python3)
PEERS_PYTHON := $(or $(MILLRACE_PYTHON),target/peers/bin/python)

.PHONY: help run build test soak lint results bench bench-peers clean system system-python

help:
	@echo "make run          installs missing packages, builds, downloads a small wiki dump, trains on it, generates text"
	@echo "make build        builds the optimised program: $(PIPELINE)"
	@echo "make test         runs everything that CI checks"
	@echo "make soak         fails every system call of short runs in turn; runs fifty schedules of faults and kills"
	@echo "make lint         checks formatting, clippy, documentation, licences"
	@echo "make results BASE=PROGRAM  compares results with those of another build, bit for bit (tests/results.py)"
	@echo "make bench        runs criterion benchmarks of kernels, stages and training steps (benches/README.md)"
	@echo "make bench-peers  measures the same training step in Millrace and in PyTorch, in turn"
	@echo "make clean        removes build output, but not runs/ and data/cache/"

# A second run resumes runs/wiki from its last checkpoint, or prints that it is complete.
run: system-python build
	data/fetch-wiki.sh $(WIKI)
	@if [ -e runs/wiki ]; then \
		echo "runs/wiki exists: resuming it (remove it to start over)"; \
		$(PIPELINE) run configs/wiki.toml --resume; \
	else \
		$(PIPELINE) run configs/wiki.toml; \
	fi
	@echo
	$(PIPELINE) evaluate runs/wiki
	@echo
	$(PIPELINE) generate runs/wiki --prompt "The history of"
	@echo
	@echo "The report is runs/wiki/report.html"
	@echo "More text: $(PIPELINE) generate runs/wiki --prompt TEXT"

# Incremental builds split crates into more units, with little inlining between them: the program would be 15 % slower.
build bench bench-peers: export CARGO_INCREMENTAL := 0

build: system
	cargo build --release --locked

# All tests use one profile (dev, which is optimised). The release build is measured once.
test: lint
	cargo test --workspace --locked
	$(MAKE) build
	$(PIPELINE) bench --shape seed --steps 3 --warmup 1 > target/bench.json
	@grep -q '"shape":"seed".*"tok_per_sec":[1-9]' target/bench.json || { cat target/bench.json; exit 1; }
	@cat target/bench.json
	@for module in torch transformers pyarrow duckdb datasets tensorboard mlflow; do \
		$(TEST_PYTHON) -c "import $$module" 2>/dev/null \
			|| echo "note: $(TEST_PYTHON) has no $$module: tests that need it were skipped (MILLRACE_PYTHON=...)"; \
	done
	@for program in chromium debootstrap ip tc; do command -v $$program >/dev/null \
		|| echo "note: $$program is not installed: tests that need it were skipped"; done

# An hour or so: tests/it/faults.rs. CI runs a few of these, chosen at random.
soak: system
	MILLRACE_SOAK=1 cargo test --locked --test it faults:: -- --nocapture
	MILLRACE_SOAK=1 cargo test --locked -p millrace-pipelines every_seed -- --nocapture

lint: system
	cargo fmt --all --check
	.ci/same-features
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check bans licenses sources; \
		else echo "note: cargo-deny is not installed: licences and sources were not checked (cargo install cargo-deny)"; fi

# BASE: a program built from an earlier commit, or a folder of its results (tests/results.py --keep).
results: build
	@[ -n "$(BASE)" ] || { echo "make results BASE=PROGRAM: the program of an earlier commit to compare with"; exit 2; }
	tests/results.py $(BASE) $(PIPELINE)

bench: system
	cargo bench --locked

bench-peers: build
	@if [ ! -f $(PEERS)/compare.py ]; then \
		echo "bench-peers needs $(PEERS)/compare.py, which is not part of this repository"; exit 0; \
	else \
		if [ ! -x $(PEERS_PYTHON) ]; then \
			echo "Setting up PyTorch in target/peers: a download of some GB"; \
			python3 -m venv target/peers && target/peers/bin/pip install --quiet torch numpy; \
		fi && $(PEERS_PYTHON) $(PEERS)/compare.py --pipeline $(PIPELINE) --precision all --shape all; \
	fi

clean:
	cargo clean

system:
	@.ci/system

system-python:
	@.ci/system python
