# `make` lists the targets.
export CARGO_INCREMENTAL := 0

# Homebrew keeps its OpenBLAS where pkg-config does not look.
BREW_OPENBLAS := $(shell brew --prefix openblas 2>/dev/null)
ifneq ($(BREW_OPENBLAS),)
export PKG_CONFIG_PATH := $(BREW_OPENBLAS)/lib/pkgconfig:$(PKG_CONFIG_PATH)
endif

PIPELINE := target/release/pipeline
WIKI := data/cache/wiki
PEERS := ../shared/peers
# A python with torch for bench-peers; by default one is set up in target/peers.
MILLRACE_PYTHON ?= target/peers/bin/python

.PHONY: help run build test lint bench bench-peers clean system system-python

help:
	@echo "make run          install what is missing, build, fetch a small wiki dump, train configs/wiki.toml on it"
	@echo "make build        the program, optimised: $(PIPELINE)"
	@echo "make test         everything CI checks"
	@echo "make lint         formatting, clippy, documentation, licences"
	@echo "make bench        criterion benchmarks of kernels, stages and the step (benches/README.md)"
	@echo "make bench-peers  the same training step here and in PyTorch, in turn"
	@echo "make clean        removes what was built; runs/ and data/cache/ stay"

# Run again, it goes on with runs/wiki from its last checkpoint; where that is complete, it says so.
run: system-python build
	data/fetch-wiki.sh $(WIKI)
	@if [ -e runs/wiki ]; then \
		echo "runs/wiki is there: going on with it (remove it to start anew)"; \
		$(PIPELINE) run configs/wiki.toml --resume; \
	else \
		$(PIPELINE) run configs/wiki.toml; \
	fi

build: system
	cargo build --release --locked

# One profile for all tests (dev, which is optimised), and the release build once, for what is too slow without it.
test: lint
	cargo test --workspace --locked
	$(MAKE) build
	$(PIPELINE) bench --shape seed --steps 3 --warmup 1 > target/bench.json
	@grep -q '"shape":"seed".*"tok_per_sec":[1-9]' target/bench.json || { cat target/bench.json; exit 1; }
	@cat target/bench.json
	@command -v python3 >/dev/null && python3 -c 'import torch, transformers' 2>/dev/null \
		|| echo "note: no python3 with torch and transformers here: what needs them was not tested"

lint: system
	cargo fmt --all --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --document-private-items --locked --quiet
	@if command -v cargo-deny >/dev/null; then cargo deny --offline check bans licenses sources; \
		else echo "note: cargo-deny is not installed: licences and sources were not checked (cargo install cargo-deny)"; fi

bench: system
	cargo bench --locked

bench-peers: build
	@if [ ! -f $(PEERS)/compare.py ]; then \
		echo "bench-peers needs $(PEERS)/compare.py, which is not part of this repository"; exit 0; \
	else \
		if [ ! -x $(MILLRACE_PYTHON) ]; then \
			echo "Setting up PyTorch in target/peers: a download of some GB"; \
			python3 -m venv target/peers && target/peers/bin/pip install --quiet torch numpy; \
		fi && $(MILLRACE_PYTHON) $(PEERS)/compare.py --pipeline $(PIPELINE) --precision all --shape all; \
	fi

clean:
	cargo clean

system:
	@.ci/system

system-python:
	@.ci/system python
