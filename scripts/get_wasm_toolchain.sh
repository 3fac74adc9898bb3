#!/usr/bin/env bash
# Fetches a Rust toolchain that builds for wasm32-unknown-unknown from Debian's packages, for machines whose rustup has no such target.
#
#   scripts/get_wasm_toolchain.sh [FOLDER]
#
# Default: .wasm-toolchain in the project's folder, where web/scripts/wasm.sh finds it. Nothing is installed, and root is not needed; Debian 12 or later (x64).
set -euo pipefail

folder=${1:-$(cd "$(dirname "$0")/.." && pwd)/.wasm-toolchain}
# Rust as Debian's browsers are built with it, its sources, and LLVM's linker.
packages=(rustc-web cargo-web rust-web-src lld-19)

if [ -x "$folder/usr/bin/rustc" ]; then
    echo "wasm toolchain: $folder has one already."
    exit 0
fi
if ! apt-cache show "${packages[@]}" >/dev/null 2>&1; then
    echo "error: Debian's packages ${packages[*]} are not known here" >&2
    echo "hint: apt-get update; they are in Debian 12's security updates. Elsewhere: rustup target add wasm32-unknown-unknown" >&2
    exit 1
fi

mkdir -p "$folder"
work=$(mktemp -d "$folder/.fetch.XXXXXX")
trap 'rm -rf "$work"' EXIT
all=$(apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces --no-enhances "${packages[@]}" | grep '^[a-z0-9]' | sort -u)
missing=()
for package in $all; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || missing+=("$package")
done
# What the compiler, its package manager and the linker load; the rest of what the packages ask for is for other uses.
for package in "${missing[@]}"; do
    case $package in
    rustc-web | cargo-web | rust-web-src | lld-19 | libstd-rust-web-* | libllvm* | liblld* | libgit2* | libssh2* | libmbed* | libhttp-parser* | libcurl4 | libsqlite3-0)
        # One that merely stands for others is not there to be fetched; what is needed is looked for below.
        (cd "$work" && apt-get download "$package" >/dev/null 2>&1) || true
        ;;
    esac
done
for archive in "$work"/*.deb; do
    dpkg -x "$archive" "$work/root"
done
ln -sf wasm-ld-19 "$work/root/usr/bin/wasm-ld"
[ -e "$work/root/usr/bin/wasm-ld-19" ] || ln -sf "$(command -v wasm-ld-19)" "$work/root/usr/bin/wasm-ld"
LD_LIBRARY_PATH=$work/root/usr/lib/x86_64-linux-gnu "$work/root/usr/bin/cargo" --version >/dev/null
LD_LIBRARY_PATH=$work/root/usr/lib/x86_64-linux-gnu "$work/root/usr/bin/rustc" --version
rm -rf "$folder/usr"
mv "$work/root/usr" "$folder/usr"
echo "wasm toolchain: in $folder"
