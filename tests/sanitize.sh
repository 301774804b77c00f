#!/usr/bin/env bash
# The core built with a sanitizer, under its tests and under random calls (tests/fuzz/core.py).
#
#   tests/sanitize.sh address|thread|address-fuzz|thread-fuzz [SECONDS of random calls]
#
# address: AddressSanitizer and UndefinedBehaviorSanitizer, conversions of floats to integers included. thread:
# ThreadSanitizer. With -fuzz only the random calls run. Exit status: 0 nothing was found; 1 something was, or a test
# failed; 2 wrong usage, or it cannot be built here; 3 a step took longer than it may.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:-} seconds=${2:-20}

case $what in
address | address-fuzz)
    flags="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize=vptr -fno-sanitize-recover=all"
    library=libasan.so ;;
thread | thread-fuzz)
    flags="-fsanitize=thread"
    library=libtsan.so ;;
*) echo "usage: tests/sanitize.sh address|thread|address-fuzz|thread-fuzz [SECONDS]" >&2; exit 2 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# limited SECONDS COMMAND...: ends this script with 3 where it takes longer, with the command's failure as $failure.
limited() {
    local status=0
    timeout --kill-after=10 "$@" || status=$?
    case $status in
    0) ;;
    124 | 137) echo "sanitize: longer than $1 s: ${*:2}" >&2; exit 3 ;;
    *) echo "sanitize: status $status: ${*:2}" >&2; exit "${failure:-1}" ;;
    esac
}

# An environment of its own, with nothing but what the core's tests need. Torch and what it brings start threads, and
# load libraries, that a sanitizer which is preloaded makes slow, or stops for ever.
echo "== $what: environment and core"
failure=2
limited 120 python -m venv "$work/venv"
limited 300 "$work/venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt \
    numpy pillow scipy isal pytest hypothesis pybind11
PATH=$work/venv/bin:$PATH
cp -r tpc_fast kernels tests csrc pyproject.toml "$work"
rm -f "$work"/tpc_fast/_C*
build() {
    local includes suffix
    includes=$(python -m pybind11 --includes)
    suffix=$(python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')
    # shellcheck disable=SC2086
    printf '%s\n' "$work"/csrc/*.cpp | xargs -P "$(nproc)" -I {} ${CXX:-g++} -std=c++17 -O1 -g1 \
        -fno-omit-frame-pointer -fopenmp-simd -fvisibility=hidden -fPIC $flags $includes -c {} -o {}.o
    # shellcheck disable=SC2086
    ${CXX:-g++} -shared $flags "$work"/csrc/*.o -o "$work/tpc_fast/_C$suffix"
}
export -f build
export work flags
limited 600 bash -euo pipefail -c build
failure=1

cat > "$work/ignore" <<'END'
# Python, NumPy and what they load are built without ThreadSanitizer. It sees the lock of the interpreter all the same,
# as long as calls from libpython are not left out: with `called_from_lib:libpython`, every object is a race.
race:_PyEval
race:^_Py
race:^Py
race:_multiarray_umath
END
export PYTHONPATH=$work PYTHONMALLOC=malloc OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1 # Python keeps memory; too much is MemoryError
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=suppressions=$work/ignore:halt_on_error=1:exitcode=66:report_signal_unsafe=0
# With the library of C++, which Python does not load: the sanitizer looks for what throws when the process begins.
preload="$(${CXX:-g++} -print-file-name=$library) $(${CXX:-g++} -print-file-name=libstdc++.so.6)"
# Addresses at random are more than ThreadSanitizer's map of them holds on some kernels: it then ends at once.
sanitized=(env "LD_PRELOAD=$preload")
[ -z "$(command -v setarch)" ] || sanitized=(setarch -R "${sanitized[@]}")
cd "$work"
limited 300 "${sanitized[@]}" python -c '
import tpc_fast, sys
assert tpc_fast.__path__[0] == sys.argv[1] + "/tpc_fast", tpc_fast.__path__
assert tpc_fast.backends()["cpu"].available, tpc_fast.backends()["cpu"]' "$work"

if [ "${what%-fuzz}" = "$what" ]; then
    # Not test_threads.py: it limits the address space, of which a sanitizer takes terabytes. Test by test where a
    # test hangs: the limit is one for each file.
    for file in procrustes transforms search_many quick warp warp_floats extremes resample png pictures ops_people track \
        track_stream blazepose_mask; do
        echo "== test_$file.py"
        limited 600 "${sanitized[@]}" python -m pytest -q --no-header --no-summary -m "not slow" -p no:cacheprovider \
            -o faulthandler_timeout=300 "tests/test_$file.py"
    done
fi
echo "== random calls"
limited $((${seconds%.*} + 120)) "${sanitized[@]}" python -W ignore tests/fuzz/core.py "$seconds"
echo "sanitize: $what: nothing was found"
