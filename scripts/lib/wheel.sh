# What the checks of wheels have in common; sourced in the project's folder.

python=${PYTHON:-python3}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

say() { printf '== %s\n' "$*"; }

# build PROFILE [ARGUMENTS OF maturin build]: the wheel in $work/wheels, by a maturin of its own.
build() {
    say "build"
    "$python" -m venv "$work/build"
    "$work/build/bin/pip" install --quiet "maturin>=1.7,<2"
    "$work/build/bin/maturin" build --quiet --profile "$1" --out "$work/wheels" "${@:2}"
    ls "$work/wheels"
}

# install PACKAGES: a fresh environment in $work/venv with them.
install() {
    say "install"
    "$python" -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet "$@"
}
