#!/usr/bin/env bash
# Sees that what the tests need is there. Installs what is missing and says so; silent when nothing is.
# Each tool has a function of its own; a tool that a test begins to need gets one here and a line at the end.
set -euo pipefail
cd "$(dirname "$0")/.."

cache="${XDG_CACHE_HOME:-$HOME/.cache}/sagemesh"

say() { echo "setup: $*"; }
fail() {
    say "$*" >&2
    exit 1
}

# package NAME REASON: installs a package of Debian.
package() {
    if ! command -v apt-get >/dev/null || [ "$(id -u)" != 0 ]; then
        fail "$2 is missing: install it, on Debian with \`sudo apt-get install $1\`"
    fi
    say "installing $1 for $2"
    apt-get update -qq
    DEBIAN_FRONTEND=noninteractive apt-get install -qq --no-install-recommends -y "$1"
}

# command_of COMMAND PACKAGE: a command, by its package of Debian.
command_of() {
    command -v "$1" >/dev/null || package "$2" "\`$1\`"
}

# The toolchain of rust-toolchain.toml.
rust() {
    command -v cargo >/dev/null || fail "\`cargo\` is missing: install rustup from https://rustup.rs"
    if ! command -v rustup >/dev/null; then return; fi
    local channel
    channel="$(sed -n 's/^channel = "\(.*\)"/\1/p' rust-toolchain.toml)"
    if ! rustup run "$channel" rustc --version >/dev/null 2>&1; then
        say "installing Rust $channel"
        rustup toolchain install "$channel" --profile minimal --component rustfmt --component clippy
    fi
}

# Stock gRPC clients, in an environment of their own.
python() {
    command_of python3 python3
    local venv="$cache/venv"
    if "$venv/bin/python" -c 'import grpc, grpc_health, grpc_reflection' 2>/dev/null; then return; fi
    python3 -c 'import ensurepip' 2>/dev/null || package python3-venv "Python's venv"
    say "installing grpcio into $venv"
    mkdir -p "$cache"
    python3 -m venv --clear "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check \
        'grpcio==1.85.*' 'grpcio-health-checking==1.85.*' 'grpcio-reflection==1.85.*'
}

# The stock TLS client of Go.
golang() {
    command_of go golang-go
}

# What people call the API with. A program of Go: it needs `golang` before.
grpcurl() {
    local version=v1.9.3
    local bin="$cache/bin"
    if go version -m "$bin/grpcurl" 2>/dev/null | grep -qw "$version"; then return; fi
    say "installing grpcurl $version into $bin"
    GOBIN="$bin" go install "github.com/fullstorydev/grpcurl/cmd/grpcurl@$version"
}

# Nodes in network namespaces of their own: as root only.
namespaces() {
    if [ "$(id -u)" != 0 ]; then return; fi
    command_of ip iproute2
    command_of nft nftables
    command_of nsenter util-linux
}

rust
namespaces
command_of cc build-essential
command_of cmake cmake
command_of openssl openssl
golang
grpcurl
python
