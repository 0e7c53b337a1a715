# What script/test and script/demo share: a Python, a virtual environment, tmux.
# Plain POSIX sh. To be sourced, from the top of the repository.

say() { printf '%s\n' "$*" >&2; }
die() { say "$*"; exit 1; }

# Print a Python of 3.11 or newer: $PYTHON, the usual python3, or the newest there is.
find_python() {
    for candidate in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 python; do
        [ -n "$candidate" ] || continue
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1; then
            printf '%s\n' "$candidate"
            return
        fi
    done
    die "Python 3.11 or newer is needed; install it, or name it: PYTHON=/path/to/python3 $0"
}

# Run a command as root, if that needs no password.
as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"; elif command -v sudo >/dev/null; then sudo -n "$@"; else false; fi
}

# Install a package with the system's package manager: NAME [NAME WITH APT].
install_package() {
    say "installing $1 …"
    if command -v apt-get >/dev/null; then
        as_root apt-get install -y -q "${2:-$1}" || {
            as_root apt-get update -q && as_root apt-get install -y -q "${2:-$1}"
        }
    elif command -v dnf >/dev/null; then as_root dnf install -y -q "$1"
    elif command -v pacman >/dev/null; then as_root pacman -S --noconfirm --needed "$1"
    elif command -v apk >/dev/null; then as_root apk add -q "$1"
    elif command -v brew >/dev/null; then brew install -q "$1"
    else false; fi </dev/null >&2
}

see_to_tmux() {
    command -v tmux >/dev/null || install_package tmux || true
    command -v tmux >/dev/null || die "tmux is needed: apt-get install tmux, dnf install tmux, brew install tmux"
}

# Make .venv with this package's built wheel in it, and the extras: "", test or dev. Quick if
# that is done. The wheel is what users install, so the tests and the demo run it, not the checkout.
see_to_venv() {
    extras=$1
    stamp=".venv/.made-for-${extras:-use}"
    made_for="$(pwd) $(cksum <pyproject.toml)"
    if [ ! -x .venv/bin/python ] || [ "$(cat "$stamp" 2>/dev/null)" != "$made_for" ]; then
        make_venv "$extras"
        printf '%s\n' "$made_for" >"$stamp"
    elif [ -n "$(find orchestrator_core README.md -newer .venv/.wheel-installed ! -name '*.pyc' ! -name __pycache__ -print)" ]; then
        build_wheel
        install_built_wheel
    fi
}

make_venv() {
    python=$(find_python) || exit 1
    say "making .venv, once …"
    if ! .venv/bin/python -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
        # Debian has the module, but its dependencies are in a separate package.
        "$python" -c 'import ensurepip' 2>/dev/null || install_package python3-venv || true
        "$python" -m venv --clear .venv >&2 ||
            die "no virtual environment could be made: apt-get install python3-venv"
    fi
    pip_install "hatchling>=1.27"
    build_wheel
    pip_install "$wheel${1:+[$1]}"
    install_built_wheel
}

build_wheel() {
    touch .venv/.wheel-started
    rm -rf .venv/wheel
    .venv/bin/python -m hatchling build -t wheel -d .venv/wheel >/dev/null 2>.venv/wheel.log ||
        die "the wheel could not be built: $(cat .venv/wheel.log)"
    wheel=$(echo .venv/wheel/*.whl)
}

# Install it alone, in place of one of the same version.
install_built_wheel() {
    pip_install --no-deps --force-reinstall "$wheel"
    mv .venv/.wheel-started .venv/.wheel-installed
}

pip_install() {
    .venv/bin/python -m pip install -q --disable-pip-version-check "$@" </dev/null >&2 ||
        die "pip could not install what is needed (see above)"
}
