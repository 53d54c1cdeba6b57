# What can be run here; `make` alone lists it.

# Seconds for each fuzz target.
FUZZ_SECONDS ?= 60
# Where tools are kept and benchmarks write.
CACHE := $(or $(XDG_CACHE_HOME),$(HOME)/.cache)/sagemesh
# The node's program, and the manifest folder of the data-plane benchmark's own.
NODE := $(or $(CARGO_TARGET_DIR),target)/release/sagemesh
PD := tests/bench/dataplane/pd

.DEFAULT_GOAL := help
.PHONY: help setup demo test check test-long bench-mesh bench-mesh-sim bench-dataplane chaos-dataplane conformance-http2 fuzz clean

help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "make %-18s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

setup: ## Install what the tests need and this machine lacks
	@tests/setup.sh

demo: setup ## Show a mesh of five nodes: a shop runs on it, one node is killed (ARGS="--for 30s")
	cargo run --release --locked -p sagemesh-daemon --bin sagemesh -- demo $(ARGS)

test: setup ## Run all tests, as CI does; as root also those that mount
	cargo test --workspace --locked

check: ## Formatting, lints, and which crates may be built in
	cargo fmt --all --check
	cargo fmt --manifest-path tests/fuzz/Cargo.toml --check
	cargo fmt --manifest-path tests/bench/dataplane/pd/Cargo.toml --check
	cargo clippy --workspace --all-targets --locked -- -D warnings
	@# Nothing is linked, so libFuzzer need not be built.
	CUSTOM_LIBFUZZER_PATH=/none/libnone.a cargo check --manifest-path tests/fuzz/Cargo.toml --locked --target-dir $(or $(CARGO_TARGET_DIR),target)
	@command -v cargo-deny >/dev/null || { echo "check: installing cargo-deny"; cargo install --locked cargo-deny; }
	cargo deny check --hide-inclusion-graph bans licenses sources

test-long: setup ## Run all tests with 20,000 cases a property
	PROPTEST_CASES=20000 cargo test --workspace --locked

bench-mesh: setup ## Measure joining, crashes and idle nodes with real nodes, then simulated meshes, as root (ARGS='--only kill', --quick)
	cargo build --release --locked -p sagemesh-daemon
	cargo run --release --locked -p sagemesh-tests --bin bench-mesh -- $(ARGS)

bench-mesh-sim: setup ## Simulate whole meshes and measure them, beside foca (ARGS=--quick for a short run)
	cargo run --release --locked -p sagemesh-tests --bin bench-mesh-sim -- $(ARGS)

bench-dataplane: ## Measure calls through two nodes beside HAProxy, nginx and floors, as root (ARGS='--rounds 9', --quick, --callgrind)
	@tests/setup.sh rivals
	cargo build --release --locked -p sagemesh-daemon
	cargo build --release --locked --manifest-path $(PD)/Cargo.toml --target-dir $(CACHE)/dataplane/target
	PYTHONPATH=tests python3 -B -m bench.dataplane.bench --binary $(NODE) --pd $(CACHE)/dataplane/target/release/pd $(ARGS)

chaos-dataplane: setup ## A million calls while services, nodes and connections are killed, as root (ARGS='--seed 1', --quick)
	cargo build --release --locked -p sagemesh-daemon
	cargo run --release --locked -p sagemesh-tests --bin chaos-dataplane -- $(ARGS)

conformance-http2: ## h2spec on both listeners, and gRPC's interop cases through two nodes, as root (ARGS='--only h2spec')
	@tests/setup.sh conformance
	cargo build --release --locked -p sagemesh-daemon
	PYTHONPATH=tests python3 -B -m conformance.http2 --binary $(NODE) $(ARGS)

fuzz: ## Fuzz each target in tests/fuzz for FUZZ_SECONDS (60)
	@FUZZ_SECONDS=$(FUZZ_SECONDS) tests/fuzz.sh

clean: ## Remove what was built; the tools in the cache stay
	cargo clean
	rm -rf tests/fuzz/target
