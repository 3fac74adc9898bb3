#!/usr/bin/env bash
# Builds the core as WebAssembly into web/dist/wasm.
#
#   web/scripts/wasm.sh
#
# Needs a Rust toolchain with the target wasm32-unknown-unknown: `rustup target add wasm32-unknown-unknown`. Where there is none but a Debian package of Rust's
# sources, the standard library is built along: scripts/get_wasm_toolchain.sh fetches those.
set -euo pipefail
cd "$(dirname "$0")/.."
root=$(cd .. && pwd)
toolchain=${WASM_TOOLCHAIN:-$root/.wasm-toolchain}
target=${CARGO_TARGET_DIR:-$root/target}
wasm() { CARGO_TARGET_DIR=$target/web cargo build --release --manifest-path core/Cargo.toml --target wasm32-unknown-unknown "$@"; }

if rustup target list --installed 2>/dev/null | grep -qx wasm32-unknown-unknown; then
    wasm
elif [ -x "$toolchain/usr/bin/rustc" ]; then
    (
        export LD_LIBRARY_PATH=$toolchain/usr/lib/x86_64-linux-gnu RUSTC=$toolchain/usr/bin/rustc RUSTC_BOOTSTRAP=1
        export CARGO_TARGET_WASM32_UNKNOWN_UNKNOWN_LINKER=$toolchain/usr/bin/wasm-ld
        PATH=$toolchain/usr/bin:$PATH
        wasm -Zbuild-std=std,panic_abort
    )
else
    echo "error: no Rust toolchain that builds for wasm32-unknown-unknown" >&2
    echo "hint: rustup target add wasm32-unknown-unknown; or scripts/get_wasm_toolchain.sh, on Debian" >&2
    exit 1
fi
mkdir -p dist/wasm
CARGO_TARGET_DIR=$target/bindgen cargo run --quiet --release --locked --manifest-path bindgen/Cargo.toml -- \
    "$target/web/wasm32-unknown-unknown/release/peft_onnx_web.wasm" dist/wasm peft_onnx_core
ls -l dist/wasm
