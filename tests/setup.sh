#!/usr/bin/env bash
# Sees that what the tests need is there. Installs what is missing and says so; silent when nothing is.
# Each tool has a function of its own; a tool that a test begins to need gets one here and a line at the end. An
# argument names what else is needed: `rivals` for the benchmark of the data plane, `conformance` for HTTP/2.
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

# program NAME DIR PACKAGE: a program of Go, by its module in DIR or by PACKAGE@VERSION.
program() {
    local bin="$cache/bin"
    if [ -x "$bin/$1" ] && [ -z "$(find "$2" -newer "$bin/$1" -name '*.go' -print -quit 2>/dev/null)" ]; then return; fi
    say "building $1 into $bin"
    local dir
    dir="$(mktemp -d)"
    if [ -d "$2" ]; then
        (cd "$2" && go build -o "$dir/$1" .)
    else
        GOBIN="$dir" go install "$3"
    fi
    mkdir -p "$bin"
    mv "$dir"/* "$bin/$1"
    rmdir "$dir"
}

# What tries how a listener keeps to HTTP/2, and gRPC's interop cases: the stock client of Go, and a server of ours that
# compresses. They need `golang` before.
conformance() {
    command_of unshare util-linux
    program h2spec "" github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible
    program interop-client "" google.golang.org/grpc/interop/client@v1.85.0
    program interop tests/conformance/interop
}

# What calls are carried by beside a node. Envoy is measured too where it is on the machine.
rivals() {
    command_of haproxy haproxy
    command_of nginx nginx-light
    command_of ss iproute2
    command_of sysctl procps
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
for more in "$@"; do "$more"; done
