#!/usr/bin/env bash
# Fuzzes each target in tests/fuzz/fuzz_targets for FUZZ_SECONDS, one after the other; stops at a finding and
# says where its input is. A target writes its own seeds. Arguments name targets, in the place of all.
set -euo pipefail
cd "$(dirname "$0")/.."

if ! rustup run nightly rustc --version >/dev/null 2>&1; then
    echo "fuzz: installing Rust nightly"
    rustup toolchain install nightly --profile minimal
fi
if ! command -v cargo-fuzz >/dev/null; then
    echo "fuzz: installing cargo-fuzz"
    cargo install --locked cargo-fuzz
fi
if [ $# = 0 ]; then
    for path in tests/fuzz/fuzz_targets/*.rs; do set -- "$@" "$(basename "$path" .rs)"; done
fi
# No sanitizer: our crates hold no unsafe code, and without one there are several times the executions.
fuzz() { cargo +nightly fuzz "$1" --fuzz-dir tests/fuzz --sanitizer none "${@:2}"; }
fuzz build
for target in "$@"; do
    echo "fuzz: $target for ${FUZZ_SECONDS:-60} s"
    started="$(mktemp)"
    if ! fuzz run "$target" -- -max_total_time="${FUZZ_SECONDS:-60}" -timeout=10 -print_final_stats=1; then
        input="$(find tests/fuzz/artifacts/"$target" -type f -newer "$started" 2>/dev/null | head -n 1)"
        rm -f "$started"
        echo "fuzz: $target FAILED; its input: ${input:-none was kept}" >&2
        exit 1
    fi
    rm -f "$started"
done
