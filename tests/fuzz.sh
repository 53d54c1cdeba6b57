#!/usr/bin/env bash
# Fuzzes each target in tests/fuzz/fuzz_targets for FUZZ_SECONDS, one after the other; stops at a finding.
set -euo pipefail
cd "$(dirname "$0")/.."

shopt -s nullglob
targets=(tests/fuzz/fuzz_targets/*.rs)
if [ ${#targets[@]} = 0 ]; then
    echo "fuzz: there are no targets in tests/fuzz/fuzz_targets yet"
    exit 0
fi
if ! rustup run nightly rustc --version >/dev/null 2>&1; then
    echo "fuzz: installing Rust nightly"
    rustup toolchain install nightly --profile minimal
fi
if ! command -v cargo-fuzz >/dev/null; then
    echo "fuzz: installing cargo-fuzz"
    cargo install --locked cargo-fuzz
fi
for path in "${targets[@]}"; do
    target="$(basename "$path" .rs)"
    echo "fuzz: $target for ${FUZZ_SECONDS:-60} s"
    cargo +nightly fuzz run --fuzz-dir tests/fuzz "$target" -- -max_total_time="${FUZZ_SECONDS:-60}"
done
