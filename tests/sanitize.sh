#!/usr/bin/env bash
# The core built with a sanitizer, under its tests and under random calls (tests/fuzz/core.py).
#
#   tests/sanitize.sh address|thread|address-fuzz|thread-fuzz [SECONDS of random calls]
#
# address: AddressSanitizer and UndefinedBehaviorSanitizer, conversions of floats to integers included. thread:
# ThreadSanitizer. With -fuzz only the random calls run. Anything that is found ends the run with an error.
set -euo pipefail
cd "$(dirname "$0")/.."
what=${1:?address, thread, address-fuzz or thread-fuzz} seconds=${2:-20}

case $what in
address*)
    flags="-fsanitize=address,undefined,float-cast-overflow -fno-sanitize=vptr -fno-sanitize-recover=all"
    library=libasan.so ;;
thread*)
    flags="-fsanitize=thread"
    library=libtsan.so ;;
*) echo "address, thread, address-fuzz or thread-fuzz, not $what" >&2; exit 2 ;;
esac

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cp -r tpc_fast kernels tests csrc pyproject.toml "$work"
rm -f "$work"/tpc_fast/_C*
# shellcheck disable=SC2046,SC2086
printf '%s\n' "$work"/csrc/*.cpp | xargs -P "$(nproc)" -I {} ${CXX:-g++} -std=c++17 -O1 -g -fno-omit-frame-pointer \
    -fopenmp-simd -fvisibility=hidden -fPIC $flags $(python -m pybind11 --includes) -c {} -o {}.o
# shellcheck disable=SC2086
${CXX:-g++} -shared $flags "$work"/csrc/*.o \
    -o "$work/tpc_fast/_C$(python -c 'import sysconfig; print(sysconfig.get_config_var("EXT_SUFFIX"))')"

cat > "$work/ignore" <<'END'
# Python, NumPy and what they load are built without ThreadSanitizer. It sees the lock of the interpreter all the same,
# as long as calls from libpython are not left out: with `called_from_lib:libpython`, every object is a race.
race:_PyEval
race:^_Py
race:^Py
race:_multiarray_umath
END
export PYTHONPATH=$work PYTHONMALLOC=malloc
export ASAN_OPTIONS=detect_leaks=0:allocator_may_return_null=1  # Python keeps memory; too much is MemoryError
export UBSAN_OPTIONS=print_stacktrace=1
export TSAN_OPTIONS=suppressions=$work/ignore:halt_on_error=1:exitcode=66:report_signal_unsafe=0
# With the library of C++, which Python does not load: the sanitizer looks for what throws when the process begins.
preload="$(${CXX:-g++} -print-file-name=$library) $(${CXX:-g++} -print-file-name=libstdc++.so.6)"
cd "$work"
[ "$(python -c 'import tpc_fast; print(tpc_fast.__path__[0])')" = "$work/tpc_fast" ]

if [ "${what%-fuzz}" = "$what" ]; then
    # What needs torch, networks or another process is left out: it is slow under a sanitizer and not of the core.
    LD_PRELOAD="$preload" python -m pytest -q -m "native and not slow and not torch" -p no:cacheprovider \
        tests/test_procrustes.py tests/test_transforms.py tests/test_warp.py tests/test_composite.py \
        tests/test_extremes.py tests/test_ops_people.py tests/test_png.py tests/test_resample.py \
        tests/test_threads.py tests/test_track.py tests/test_track_stream.py tests/test_search_many.py \
        tests/test_quick.py tests/test_warp_floats.py tests/test_blazepose_mask.py
fi
LD_PRELOAD="$preload" python -W ignore tests/fuzz/core.py "$seconds"
