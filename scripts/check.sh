#!/usr/bin/env bash
# What the continuous integration runs, for people too: format, lints and docs with warnings as errors, the library without its runtime, the tests.
#
#   scripts/check.sh
set -euo pipefail
cd "$(dirname "$0")/.."
step() { printf '\n== %s\n' "$*"; }

step "format"
cargo fmt --check
step "lints"
cargo clippy --all-targets -- -D warnings
step "with MPI"
if command -v mpicc >/dev/null; then
    cargo clippy --all-targets --features mpi -- -D warnings
else
    echo "not checked: there is no MPI library (Debian: libopenmpi-dev, libclang-dev); scripts/checks/check_mpi.sh gets one and tries it"
fi
step "the library without the command line, and without its runtime"
cargo clippy --no-default-features --features runtime --lib --examples -- -D warnings
cargo clippy --no-default-features --lib --examples -- -D warnings
step "the library without its runtime in a browser"
if rustup target list --installed 2>/dev/null | grep -qx wasm32-unknown-unknown; then
    cargo check --no-default-features --lib --target wasm32-unknown-unknown
else
    echo "not checked: the target wasm32-unknown-unknown is not installed (rustup target add wasm32-unknown-unknown); scripts/checks/check_web.sh builds it with Debian's Rust, too"
fi
step "the oldest Rust that Cargo.toml promises"
oldest=$(sed -n 's/^rust-version = "\(.*\)"/\1/p' Cargo.toml)
if cargo "+$oldest" --version >/dev/null 2>&1; then
    cargo "+$oldest" check --bins --target-dir target/oldest
else
    echo "not compiled: rustup toolchain install $oldest; the lints above name what is newer in the standard library (incompatible_msrv)"
fi
step "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --document-private-items
# Licences and doubles are judged offline, where the tool is installed (`cargo install cargo-deny`); advisories by `cargo deny check advisories`.
if cargo deny --version >/dev/null 2>&1; then
    step "licences, doubles, sources"
    cargo deny check licenses bans sources
fi
scripts/test.sh
