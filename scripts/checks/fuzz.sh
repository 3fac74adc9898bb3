#!/usr/bin/env bash
# Feeds what reads strangers' files with damaged ones, guided by the code that they reach: so many seconds a target, all targets if none is named.
#
#   scripts/checks/fuzz.sh [SECONDS=60] [TARGET..]
#
# Needs a C++ compiler, for libFuzzer; no nightly toolchain, no cargo-fuzz (with both, `cargo fuzz run TARGET` adds the address sanitizer). What is found lies in
# fuzz/artifacts, what reached new code in fuzz/corpus. A run of 20 s, or 3 GB, is a finding. PEFT_ONNX names a program that makes a bundle to start from.
set -euo pipefail
cd "$(dirname "$0")/../.."
seconds=${1:-60}
[ $# -gt 0 ] && shift
targets=("$@")
[ ${#targets[@]} -gt 0 ] || targets=($(sed -n 's/^name = "\(.*\)"/\1/p' fuzz/Cargo.toml | tail -n +2))

host=$(rustc -vV | sed -n 's/^host: //p')
coverage="-C passes=sancov-module -C llvm-args=-sanitizer-coverage-level=4 -C llvm-args=-sanitizer-coverage-inline-8bit-counters"
coverage+=" -C llvm-args=-sanitizer-coverage-pc-table -C llvm-args=-sanitizer-coverage-trace-compares --cfg fuzzing"
# With --target, what runs while compiling is not instrumented.
RUSTFLAGS="$coverage" cargo build --release --manifest-path fuzz/Cargo.toml --target "$host" $(printf -- '--bin %s ' "${targets[@]}")
[ -d fuzz/corpus ] || fuzz/seed.sh

failed=()
for target in "${targets[@]}"; do
    mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
    echo "== $target, $seconds s"
    "fuzz/target/$host/release/$target" "fuzz/corpus/$target" -artifact_prefix="fuzz/artifacts/$target/" -max_total_time="$seconds" -timeout=20 \
        -rss_limit_mb=3000 -malloc_limit_mb=3000 -max_len=300000 -print_final_stats=1 2>&1 | grep -E "panicked|ERROR|SUMMARY|stat::(number_of_executed_units|average_exec|peak_rss)" || true
    [ -z "$(ls "fuzz/artifacts/$target")" ] || failed+=("$target")
done
[ ${#failed[@]} -eq 0 ] || { echo "findings: ${failed[*]} (fuzz/artifacts)"; exit 1; }
