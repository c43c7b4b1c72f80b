#!/bin/sh
# Print the path of a Python that really runs and can make virtual environments; called by the Makefile and .ci/run.
#
#   find_python.sh         the one for .venv: python3 if ambidex is tested on it, else the newest tested one
#   find_python.sh 3.12    exactly that version
#
# A name on PATH proves nothing: version managers leave shims that only print an error. So every candidate is
# started, and the path printed is the interpreter's own. Status 1, with the reason on stderr, when there is none.
set -u

tested="3.13 3.12 3.11"
probe='
import sys
want = sys.argv[1]
have = "%d.%d" % sys.version_info[:2]
if sys.version_info < (3, 11) or (want and have != want):
    sys.exit(1)
try:
    import ensurepip, venv
except ImportError:
    sys.exit(3)
print(sys.executable)
'
lame=""

# try VERSION CANDIDATE: print and exit 0 if CANDIDATE is a usable Python of VERSION ("" = any that is new enough)
try() {
    case "$2" in
        */*) [ -x "$2" ] || return 0 ;;
    esac
    found=$("$2" -c "$probe" "$1" 2>/dev/null </dev/null)
    status=$?
    if [ "$status" -eq 0 ] && [ -n "$found" ]; then
        echo "$found"
        exit 0
    fi
    if [ "$status" -eq 3 ]; then
        lame="$lame $2"
    fi
}

# every VERSION: try all places where that version may stand
every() {
    old_ifs=$IFS
    IFS=:
    for folder in $PATH; do
        try "$1" "$folder/python$1"
    done
    IFS=$old_ifs
    for root in "${PYENV_ROOT:-}" "$HOME/.pyenv"; do
        [ -n "$root" ] || continue
        for candidate in "$root"/versions/"$1"*/bin/python"$1"; do
            try "$1" "$candidate"
        done
    done
    for candidate in "$HOME"/.local/share/uv/python/cpython-"$1"*/bin/python"$1" /opt/python/*/bin/python"$1"; do
        try "$1" "$candidate"
    done
}

want=${1:-}
if [ -n "$want" ]; then
    every "$want"
else
    for version in $tested; do
        try "$version" python3
    done
    for version in $tested; do
        every "$version"
    done
    try "" python3
fi

{
    echo "ambidex: found no usable Python ${want:-3.11 or newer}."
    if [ -n "$lame" ]; then
        echo "These run, but lack the modules venv or ensurepip:$lame"
        echo "On Debian and Ubuntu the package python3-venv (or python3.N-venv) brings them."
    fi
} >&2
exit 1
