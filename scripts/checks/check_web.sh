#!/usr/bin/env bash
# Builds web/ and runs all of its tests: the package on onnxruntime-node and onnxruntime-web, the core, and the page in a headless Chromium.
#
#   scripts/checks/check_web.sh [PEFT_ONNX]
#
# Default: target/debug/peft-onnx, built if it is not there. Needs node 20 with npm. The core needs a Rust toolchain for wasm32-unknown-unknown
# (scripts/get_wasm_toolchain.sh fetches one on Debian), the page's test a Chromium (apt-get install chromium, or CHROMIUM=..). What cannot be run for want
# of one of these is said, and the check fails in the end unless ALLOW_PARTIAL=1.
set -euo pipefail
cd "$(dirname "$0")/../.."
step() { printf '\n== %s\n' "$*"; }
left_out=()

program=${1:-target/debug/peft-onnx}
[ -x "$program" ] || cargo build --bin peft-onnx
PEFT_ONNX=$(realpath "$program")
export PEFT_ONNX

step "packages"
# onnxruntime-node has its CPU library with it; its script would fetch CUDA's.
[ -d web/node_modules ] || npm ci --prefix web --ignore-scripts --no-fund --no-audit
step "the core"
for crate in core bindgen; do
    cargo fmt --check --manifest-path web/$crate/Cargo.toml
    cargo clippy --manifest-path web/$crate/Cargo.toml -- -D warnings
done
if ! web/scripts/wasm.sh; then left_out+=("the core and the page: no WebAssembly"); fi
step "the package and the page"
node web/scripts/build.mjs
step "the package on onnxruntime-node and onnxruntime-web"
npm test --prefix web
step "the page in Chromium"
chromium=${CHROMIUM:-$(command -v chromium || command -v chromium-browser || command -v google-chrome || true)}
if [ ! -d web/page/dist ]; then
    echo "not run: the page was not built"
elif [ -z "$chromium" ]; then
    left_out+=("the page: no Chromium (apt-get install chromium)")
else
    CHROMIUM=$chromium node web/e2e/page.mjs ${DEVICES:-wasm webgpu}
fi
for what in "${left_out[@]}"; do echo "not checked: $what"; done
[ ${#left_out[@]} -eq 0 ] || [ "${ALLOW_PARTIAL:-}" = 1 ]
