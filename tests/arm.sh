#!/usr/bin/env bash
# The core built for 64-bit ARM, and its tests under emulation.
#
#   tests/arm.sh [NAME...]     tests/test_NAME.py; without names those of the core's operations (about twenty minutes)
#
# Needs Debian or Ubuntu with `apt-get install g++-aarch64-linux-gnu qemu-user`. Python comes from the same release,
# NumPy and the rest as wheels for ARM: all in a folder that is removed at the end. Exit status: 0 all passed; 1 a test
# failed; 2 it cannot be done here.
set -euo pipefail
cd "$(dirname "$0")/.."
names=("$@")
[ $# -gt 0 ] || names=(search_3d search_many procrustes warp quick transforms resample png ops_people track track_stream)

for tool in aarch64-linux-gnu-g++ qemu-aarch64 apt-get dpkg-deb; do
    command -v $tool > /dev/null || { echo "arm: no $tool: apt-get install g++-aarch64-linux-gnu qemu-user" >&2; exit 2; }
done
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'echo "arm: it cannot be prepared here" >&2; exit 2' ERR

echo "== Python for ARM"
mkdir -p "$work"/{root,lists/partial,archives/partial}
: > "$work/status" # as if nothing were installed: then all that Python needs is fetched
apt=(apt-get -qq -o APT::Architecture=arm64 -o APT::Architectures=arm64 -o APT::Sandbox::User=
    -o Dir::State="$work" -o Dir::State::status="$work/status" -o Dir::Cache="$work")
"${apt[@]}" update
"${apt[@]}" install --yes --no-install-recommends --download-only python3 libpython3-dev libstdc++6
for package in "$work"/archives/*.deb; do dpkg-deb -x "$package" "$work/root"; done
python=$(basename "$(readlink "$work/root/usr/bin/python3")")

echo "== wheels for $python"
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt pybind11
"$work/venv/bin/pip" install -q --disable-pip-version-check -c constraints.txt --target "$work/site" \
    --only-binary :all: --implementation cp --python-version "${python#python}" \
    --platform manylinux_2_28_aarch64 --platform manylinux2014_aarch64 \
    numpy pillow scipy isal tqdm pytest hypothesis

echo "== core"
mkdir "$work/package"
cp -r tpc_fast kernels tests csrc pyproject.toml "$work/package"
cd "$work/package"
rm -f tpc_fast/_C* tpc_fast/_build_failure.txt
mkdir "$work/include" && ln -s "$work/root/usr/include/aarch64-linux-gnu" "$work/include/" # Debian's Python asks for it
pybind=$("$work/venv/bin/python" -c "import pybind11; print(pybind11.get_include())")
# With the flags of setup.py.
printf '%s\n' csrc/*.cpp | xargs -P "$(nproc)" -I {} aarch64-linux-gnu-g++ -std=c++17 -O3 -fno-math-errno \
    -fno-trapping-math -fopenmp-simd -g0 -fvisibility=hidden -fPIC "-I$work/root/usr/include/$python" \
    "-I$work/include" "-I$pybind" -c {} -o {}.o
aarch64-linux-gnu-g++ -shared csrc/*.o -o tpc_fast/_C.so

libraries=$work/root/lib/aarch64-linux-gnu:$work/root/usr/lib/aarch64-linux-gnu
export PYTHONPATH=$work/package:$work/site OMP_NUM_THREADS=1 TPC_REQUIRE=native
emulated() { qemu-aarch64 -L "$work/root" -E "LD_LIBRARY_PATH=$libraries" "$work/root/usr/bin/$python" "$@"; }
emulated -c '
import platform, sys, tpc_fast
assert tpc_fast.__path__[0] == sys.argv[1] + "/tpc_fast", tpc_fast.__path__
assert tpc_fast.backends()["cpu"].available, tpc_fast.backends()["cpu"]
print("==", platform.machine(), platform.python_version(), tpc_fast.backends()["cpu"].detail)' "$work/package"

trap - ERR
failed=0
for name in "${names[@]}"; do
    echo "== test_$name.py"
    # In the profile for CI, which does not mind how slow it is to make input.
    emulated -m pytest -q --no-header --hypothesis-profile=ci "tests/test_$name.py" || failed=1
done
[ $failed = 0 ] && echo "arm: all passed"
exit $failed
