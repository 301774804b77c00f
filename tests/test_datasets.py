"""Data sets: one row, a table through Ray with broken rows and kills, what training reads of it."""

import csv
import datetime
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import numpy as np
import processes
import pytest
import walker

import tpc_fast
from tpc_fast import datasets
from tpc_fast._extras import INSTALL
from tpc_fast.calibration.packed import pack, unpack
from tpc_fast.cli.main import main
from tpc_fast.datasets.manifest import read_manifest
from tpc_fast.media.png import write_png
from tpc_fast.media.video import VideoWriter

FRAMES, SIZE = 5, 64


@pytest.fixture(autouse=True)
def threads():
    """Workers take one thread, in this process, too."""
    before = tpc_fast.get_num_threads()
    yield
    tpc_fast.set_num_threads(before)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    """A photo, a video, and their keypoints in files: rows of them need no detector."""
    folder = tmp_path_factory.mktemp("clip")
    rng = np.random.default_rng(0)
    body = walker.film(walker.body()) / 8
    write_png(folder / "photo.png", rng.integers(0, 256, (90, 130, 3), np.uint8))
    with VideoWriter(folder / "video.mp4", 10, (90, 130)) as writer:
        for _ in range(FRAMES):
            writer.write(rng.integers(0, 256, (90, 130, 3), np.uint8))
    np.savez(folder / "photo.npz", keypoints=body[None])
    np.savez(folder / "video.npz", keypoints=np.stack([body * 0.9 + [i, 4] for i in range(FRAMES)]))
    return folder


def row(clip, **more) -> dict:
    names = dict(
        reference="photo.png", driving="video.mp4", reference_keypoints="photo.npz", driving_keypoints="video.npz"
    )
    return {name: str(clip / file) for name, file in names.items()} | more


def test_a_row(clip):
    made = datasets.calibrate_row(row(clip, caption="x", options='{"size": [60, 70], "smooth": "none"}'), size=SIZE)
    assert (made["status"], made["error"], made["caption"]) == ("ok", "", "x")
    assert (made["frames"], made["persons"], made["tracked"]) == (FRAMES, 1, 1.0)
    expected = tpc_fast.calibrate(
        clip / "photo.png", clip / "video.mp4", reference_keypoints=clip / "photo.npz",
        driving_keypoints=clip / "video.npz", size=(60, 70), smooth="none",
    )  # fmt: skip
    assert made["scale"] == pytest.approx(np.hypot(*expected.matrices[1, 0, :, 0]))
    assert made["scale_range"] == pytest.approx(1, abs=1e-5)
    found = datasets.calibration_of(made)
    np.testing.assert_array_equal(found.matrices, expected.matrices)
    np.testing.assert_array_equal(found.images[:], expected.images[:])
    np.testing.assert_array_equal(found.pose_masks[:], expected.pose_masks[:])
    assert len(list(found.driving_frames())) == FRAMES
    again = datasets.calibrate_row(row(clip, options='{"size": [60, 70], "smooth": "none"}'), size=SIZE)
    assert again["record"] == made["record"]


@pytest.mark.parametrize(
    ("change", "error"),
    [
        ({"driving": "missing.mp4"}, "FileNotFoundError"),
        ({"reference": None}, "ValueError: reference must be a path or URL, but is None"),
        ({"options": '{"detector": "x"}'}, "ValueError: options must be an object of some of size"),
        ({"options": "[1]"}, "ValueError: options must be an object"),
        ({"options": "{"}, "JSONDecodeError"),
        ({"driving": "nowhere://a/b.mp4"}, "ValueError"),
    ],
)
def test_a_row_never_raises(clip, change, error):
    if "nowhere" in str(change):
        pytest.importorskip("fsspec", reason="extra 'datasets' is not installed")
    made = datasets.calibrate_row(row(clip, **change))
    assert made["status"] == "failed"
    assert made["error"].startswith(error)
    assert "\n" not in made["error"]
    assert made["record"] is None
    with pytest.raises(ValueError, match="row has no record"):
        datasets.calibration_of(made)


def test_packed_is_checked(clip, monkeypatch):
    from tpc_fast.media.images import load_image
    from tpc_fast.media.limits import LIMITS

    made = datasets.calibrate_row(row(clip), size=SIZE)
    image, _ = load_image(clip / "photo.png")
    assert pack(unpack(made["record"], image))[:4] == b"PK\x03\x04"
    for damaged in (b"", made["record"][:-40], made["record"].replace(b"PK", b"KP")):
        with pytest.raises(ValueError, match="record cannot be read"):
            unpack(damaged, image)
    with pytest.raises(ValueError, match="do not fit together"):
        unpack(made["record"], image[:50])
    monkeypatch.setattr(LIMITS, "text", 100)
    with pytest.raises(ValueError, match=r"calibration\.json"):
        unpack(made["record"], image)


def test_manifests(tmp_path, clip):
    rows = [
        {"reference": "a.png", "driving": "s3://x/b.mp4", "note": "1"},
        {"reference": "/c.png", "driving": "d.mp4", "note": ""},
    ]
    with (tmp_path / "a.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0])
        writer.writeheader()
        writer.writerows(rows)
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n\n")
    for name in ("a.csv", "a.jsonl"):
        read = read_manifest(tmp_path / name)
        assert [r["reference"] for r in read] == [str(tmp_path / "a.png"), "/c.png"]
        assert [r["driving"] for r in read] == ["s3://x/b.mp4", str(tmp_path / "d.mp4")]
        assert [(r["index"], r["note"]) for r in read] == [(0, "1"), (1, "")]
    for text, error in (
        ("reference,x\na,b\n", "lacks driving"),
        ("reference,driving,status\na,b,c\n", "has status"),
    ):
        (tmp_path / "b.csv").write_text(text)
        with pytest.raises(ValueError, match=error):
            read_manifest(tmp_path / "b.csv")
    (tmp_path / "b.jsonl").write_text("{\n")
    with pytest.raises(ValueError, match=r"manifest b\.jsonl cannot be read"):
        read_manifest(tmp_path / "b.jsonl")
    with pytest.raises(ValueError, match="must end in"):
        read_manifest(clip / "photo.png")


@pytest.mark.parametrize(
    ("name", "text", "error"),
    [
        ("a.csv", "reference,driving,reference\na,b,c\n", "more than one column reference"),
        ("a.csv", "reference,driving\n", "must have rows"),
        ("a.csv", "", "must have the columns reference, driving, but lacks"),
        ("a.jsonl", "", "must have the columns reference, driving, but lacks"),
        ("a.jsonl", '{"reference": "ä"}'.encode("utf-16"), "can't decode"),
        ("a.jsonl", "5", "row 0 must be an object, but is int 5"),
        ("a.jsonl", '{"reference": "a", "driving": "b"}\n[1]', r"row 1 must be an object, but is list \[1\]"),
        ("a.jsonl", "[" * 100_000, "nested too deeply"),
        ("a.csv", "reference,driving\na,b,c,d\n", r"row 0 has more values than there are columns: \['c', 'd'\]"),
        ("a.csv", "reference,driving\n" + "a" * 200_000, "field larger than field limit"),
        ("a.csv", b"reference,driving\n\xff,b\n", "can't decode"),
        ("a.parquet", b"PAR1 no table PAR1", "Parquet file size"),
        ("a.parquet", b"", "Parquet file size"),
    ],
)
def test_manifests_that_are_none(tmp_path, name, text, error):
    if name.endswith("parquet"):
        pytest.importorskip("pyarrow", reason="extra 'datasets' is not installed")
    (tmp_path / name).write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(ValueError, match=f"^manifest {name} cannot be read: .*{error}|^manifest {error}"):
        read_manifest(tmp_path / name)


def test_manifests_are_bounded(tmp_path, monkeypatch):
    from tpc_fast.media.limits import LIMITS

    monkeypatch.setattr(LIMITS, "text", 100)
    (tmp_path / "a.csv").write_text("reference,driving\n" + "a,b\n" * 30)
    with pytest.raises(ValueError, match=r"a\.csv must have at most 100 bytes"):
        read_manifest(tmp_path / "a.csv")


VALUES = [
    [1, "a", None], [1, 2.5], [True, 3], [10**30, 1], [10**400, 1.5], [None, None, 4], [{"a": 1}, {"b": [2]}],
    [[1], "x"], ["\ud800"], ["a\u2028b"], [float("nan"), 1],
]  # fmt: skip


@pytest.mark.datasets
@pytest.mark.parametrize("values", VALUES, ids=str)
def test_columns_of_any_values_are_stored(tmp_path, values):
    """In parts of one row each, which do not know of each other; nothing that was computed is lost at the end."""
    import pyarrow.parquet

    from tpc_fast.datasets.parts import Parts

    lines = [json.dumps({"reference": "a", "driving": "b", "more": value}) for value in values]
    lines[0] = lines[0].replace("\\u2028", "\u2028")
    (tmp_path / "m.jsonl").write_text("\n".join(lines), encoding="utf-8")
    rows = read_manifest(tmp_path / "m.jsonl")
    with Parts(tmp_path / "out.parquet", rows) as made:
        for row in rows:
            made.add([dict.fromkeys(datasets.row.RESULTS) | row | {"status": "ok"}])
        assert made.finish() == (len(values), 0)
    stored = pyarrow.parquet.read_table(tmp_path / "out.parquet")["more"].to_pylist()
    assert [value is None for value in stored] == [value is None for value in values]
    assert stored == [row["more"] for row in rows] or values[0] != values[0]


@pytest.mark.datasets
def test_options_that_differ_from_row_to_row(tmp_path):
    """As objects, which a table would fill up with each other's names."""
    rows = [{"reference": "a", "driving": "b", "options": o} for o in ({"size": 64}, {"smooth": "none"}, None)]
    (tmp_path / "m.jsonl").write_text("\n".join(map(json.dumps, rows)))
    assert [row["options"] for row in read_manifest(tmp_path / "m.jsonl")] == [
        '{"size": 64}',
        '{"smooth": "none"}',
        None,
    ]


@pytest.mark.datasets
def test_tables_that_run_programs(tmp_path):
    """Extension types are made by whoever registered their name, as Ray does, whose columns are pickles."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tpc_fast.datasets.tables import _ENCODED, open_table

    made = []

    class Kind(pa.ExtensionType):
        def __init__(self):
            super().__init__(pa.binary(), "tpc_fast.test.kind")

        def __arrow_ext_serialize__(self):
            return b"program"

        @classmethod
        def __arrow_ext_deserialize__(cls, storage, serialized):
            made.append(serialized)
            return cls()

    pa.register_extension_type(Kind())
    try:
        assert len(_ENCODED) == 3
        for extra in range(6):  # where the name lies among the groups of base64
            storage = pa.array([b"x"], pa.binary())
            columns = {"a" * (1 + extra): pa.array(["y"]), "reference": pa.ExtensionArray.from_storage(Kind(), storage)}
            pq.write_table(pa.table(columns), tmp_path / "m.parquet")
            for read in (open_table, read_manifest):
                with pytest.raises(ValueError, match="columns of extension types, which are not read"):
                    read(tmp_path / "m.parquet")
        assert not made
        pq.read_table(tmp_path / "m.parquet")
        assert made  # so that it would have been
    finally:
        pa.unregister_extension_type("tpc_fast.test.kind")
    pq.write_table(pa.table({"reference": ["a"], "driving": ["b"]}), tmp_path / "m.parquet")
    assert len(read_manifest(tmp_path / "m.parquet")) == 1


@pytest.mark.datasets
def test_a_small_table_stays_small(tmp_path):
    """A megabyte that a million rows share, in some kilobytes: a terabyte if every row had its own."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    shared = pa.DictionaryArray.from_arrays(pa.array(np.zeros(20_000, np.int32)), pa.array(["x" * (1 << 20)]))
    columns = dict.fromkeys(("reference", "driving", "note"), shared)
    pq.write_table(pa.table(columns), tmp_path / "m.parquet", compression="zstd")
    assert (tmp_path / "m.parquet").stat().st_size < 1 << 20
    from tpc_fast.datasets.tables import rows_of

    rows = list(rows_of(tmp_path / "m.parquet"))
    assert len(rows) == 20_000
    assert len({id(row["note"]) for row in rows}) == 1


def test_rows_of_strangers_stay_within(clip, tmp_path):
    made = datasets.calibrate_row(row(clip), within=clip, size=SIZE)
    assert made["status"] == "ok"
    assert datasets.calibration_of(made, clip).size == (SIZE, SIZE)
    with pytest.raises(ValueError, match="reference must lie within"):
        datasets.calibration_of(made, tmp_path)
    (clip / "link.png").unlink(missing_ok=True)
    (tmp_path / "elsewhere.png").write_bytes((clip / "photo.png").read_bytes())
    (clip / "link.png").symlink_to(tmp_path / "elsewhere.png")
    for change in (
        {"reference": "/etc/passwd"}, {"driving": str(clip / "../x.mp4")}, {"reference": "http://127.0.0.1:1/x.png"},
        {"driving": f"file://{clip / 'video.mp4'}"}, {"reference": str(clip / "link.png")},
        {"driving_keypoints": str(tmp_path / "x.npz")}, {"reference_mask": "/etc/passwd"},
    ):  # fmt: skip
        failed = datasets.calibrate_row(row(clip, **change), within=clip)
        assert (failed["status"], failed["record"]) == ("failed", None)
        assert failed["error"].startswith(f"ValueError: {next(iter(change))} must lie within {clip}, but is ")
    (clip / "pictures" / "inner").mkdir(parents=True)
    (clip / "pictures" / "0.png").symlink_to(clip / "photo.png")  # which leads nowhere else
    found = datasets.calibrate_row(row(clip, driving=str(clip / "pictures")), within=clip)
    assert "must lie within" not in found["error"]
    (clip / "pictures" / "inner" / "1.png").symlink_to(tmp_path / "elsewhere.png")
    found = datasets.calibrate_row(row(clip, driving=str(clip / "pictures")), within=clip)
    assert re.search(r"driving must lie within .*, but .*/inner/1.png leads out of it", found["error"])
    shutil.rmtree(clip / "pictures")


@pytest.mark.parametrize(
    "change",
    [
        {"reference": "video.mp4"}, {"driving": "photo.npz"}, {"reference": 5}, {"driving": [1]}, {"reference": "a\0b"},
        {"options": '{"size": 1000000000}'}, {"options": '{"size": [16384, 1e9]}'}, {"options": '{"frames": [0, 1e9]}'},
        {"options": '{"frames": "abcdef"}'}, {"options": '{"subset": "fixed:99999999999999999999"}'},
        {"options": '{"score_threshold": 1e400}'}, {"options": '{"match": [[99999999999, 5]]}'},
        {"options": '{"depth": {}}'}, {"options": 7}, {"options": '{"smooth": null}'}, {"driving_masks": "/dev/zero"},
        {"driving_keypoints": "/proc/self/mem"}, {"reference_mask": "/dev/tty"},
    ],
    ids=str,
)  # fmt: skip
def test_odd_rows_fail_alone(clip, change):
    change = {
        name: str(clip / v) if isinstance(v, str) and v in ("video.mp4", "photo.npz") else v
        for name, v in change.items()
    }
    made = datasets.calibrate_row(row(clip, **change), size=SIZE)
    assert made["status"] == "failed"
    assert made["error"]


def test_columns_have_one_type(tmp_path):
    """Mixed values become text, so that the table has a type for them; what is missing stays so."""
    lines = [
        {"reference": "a", "driving": "b", "x": 1, "y": None, "z": [1], "u": 1, "w": True, "v": 2**70},
        {"reference": 5, "driving": math.nan, "x": "one", "z": {"a": None}, "u": 0.5, "w": False, "v": 1},
        {"driving": "", "x": math.nan, "y": "\u2028", "options": {"size": 64}, "new": 3},
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    rows = read_manifest(tmp_path / "a.jsonl")
    columns = {name: [one[name] for one in rows] for name in rows[0]}
    assert columns == {
        "index": [0, 1, 2], "reference": [str(tmp_path / "a"), "5", None], "driving": [str(tmp_path / "b"), None, None],
        "x": ["1", "one", None], "y": [None, None, "\u2028"], "z": ["[1]", '{"a": null}', None],
        "u": [1.0, 0.5, None], "w": [True, False, None], "v": [str(2**70), "1", None],
        "options": [None, None, '{"size": 64}'], "new": [None, None, 3],
    }  # fmt: skip


def test_without_pyarrow_it_says_how(tmp_path, monkeypatch, capsys):
    """What a newcomer meets who installed the library alone."""
    for name in ("pyarrow", "pyarrow.parquet"):
        monkeypatch.setitem(sys.modules, name, None)
    (tmp_path / "manifest.csv").write_text("reference,driving\na.png,b.mp4\n")
    assert main(["batch", str(tmp_path / "manifest.csv"), "-o", str(tmp_path / "out.parquet"), "-q"]) == 1
    assert f"a table needs PyArrow: {INSTALL['datasets']}" in capsys.readouterr().err


def test_a_manifest_of_parquet(tmp_path):
    """As pandas writes it: NaN, times, numbers, bytes, lists."""
    pa = pytest.importorskip("pyarrow", reason="extra 'datasets' is not installed")
    import pyarrow.parquet as pq

    moment = datetime.datetime(2026, 11, 28)
    table = {"reference": ["a", None], "driving": [math.nan, math.nan], "when": [moment, None], "b": [b"\xff", None]}
    pq.write_table(pa.table(table), tmp_path / "a.parquet")
    (tmp_path / "below").mkdir()
    rows = read_manifest(tmp_path / "below" / ".." / "a.parquet")
    assert [r["driving"] for r in rows] == [None, None]
    assert [r["when"] for r in rows] == [str(moment), None]
    assert rows[0]["b"] == b"\xff"
    made = datasets.calibrate_row(rows[0])
    assert made["error"] == "ValueError: driving must be a path or URL, but is None"


def test_manifests_are_read_from_anywhere(tmp_path, monkeypatch):
    """Paths become absolute: workers and training may have other working folders."""
    (tmp_path / "a.csv").write_text("reference,driving\na,b\n")
    monkeypatch.chdir(tmp_path)
    assert read_manifest("a.csv")[0]["reference"] == str(tmp_path / "a")


def broken(clip, tmp_path) -> list[dict]:
    """Ten rows that fail, of five kinds."""
    (tmp_path / "short.mp4").write_bytes((clip / "video.mp4").read_bytes()[:300])
    (tmp_path / "text.mp4").write_text("no film")
    np.savez(tmp_path / "nobody.npz", keypoints=np.full((FRAMES, 17, 2), np.nan))
    kinds = (
        {"driving": str(tmp_path / "missing.mp4")}, {"reference": str(tmp_path / "missing.png")},
        {"driving": str(tmp_path / "short.mp4")}, {"driving": str(tmp_path / "text.mp4")},
        {"driving_keypoints": str(tmp_path / "nobody.npz")},
    )  # fmt: skip
    return [row(clip, **kind) for kind in kinds * 2]


def write_manifest(path: Path, rows) -> None:
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))


def command(manifest, output, *more) -> list[str]:
    return ["batch", str(manifest), "-o", str(output), "--actors", "2", "--size", str(SIZE), *more]


@pytest.fixture(scope="module")
def cluster():
    """One Ray on this machine for all tests of the file."""
    ray = pytest.importorskip("ray", reason="extra 'datasets' is not installed")
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False)
    yield ray
    ray.shutdown()


@pytest.mark.datasets
@pytest.mark.slow
def test_a_table(clip, tmp_path, cluster, capsys):
    """Rows that are good and rows that are not, in order; read back by others; training reads what `render` gives."""
    import pandas
    import pyarrow.parquet as pq

    from tpc_fast.cli.main import main

    rows = [row(clip, name=str(i)) for i in range(6)]
    rows[2:2] = broken(clip, tmp_path)[:5]
    write_manifest(tmp_path / "m.jsonl", rows)
    out = tmp_path / "o.parquet"
    assert main(command(tmp_path / "m.jsonl", out, "--json")) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["good"], said["failed"], said["rows"]) == (6, 5, 11)
    good, failed = pandas.read_parquet(out), pq.read_table(tmp_path / "o.failed.parquet").to_pylist()
    assert good["index"].tolist() == [0, 1, 7, 8, 9, 10]
    assert good["name"].tolist() == [str(i) for i in range(6)]
    assert [r["index"] for r in failed] == [2, 3, 4, 5, 6]
    assert all(r["error"] for r in failed)
    assert cluster.data.read_parquet(str(out)).count() == 6
    page = (tmp_path / "o.html").read_text()
    assert '<div class="sheet"><figure class="card">' in page  # pictures side by side
    assert page.count("data:image/jpeg;base64,") == 6
    assert "missing.mp4" in page
    assert not list(tmp_path.glob(".o.parquet.parts*"))

    # Again: nothing to do; with the films repaired, the failed ones alone.
    assert main(command(tmp_path / "m.jsonl", out, "--json", "--no-page")) == 1
    assert json.loads(capsys.readouterr().out)["rows"] == 0
    for name in ("missing", "short", "text"):
        (tmp_path / f"{name}.mp4").write_bytes((clip / "video.mp4").read_bytes())
    (tmp_path / "missing.png").write_bytes((clip / "photo.png").read_bytes())
    assert main(command(tmp_path / "m.jsonl", out, "--json", "--retry-failed", "--no-page")) == 1
    said = json.loads(capsys.readouterr().out)
    assert (said["good"], said["failed"], said["rows"]) == (10, 1, 5)
    before = pq.read_table(out)
    assert before["index"].to_pylist() == [0, 1, 2, 3, 4, 5, 7, 8, 9, 10]

    # Again: the one that cannot be mended, alone; then with other options, which is refused.
    assert main(command(tmp_path / "m.jsonl", out, "--json", "--retry-failed", "--no-page")) == 1
    assert json.loads(capsys.readouterr().out)["rows"] == 1
    assert repr(pq.read_table(out).to_pylist()) == repr(before.to_pylist())
    assert pq.read_table(tmp_path / "o.failed.parquet")["index"].to_pylist() == [6]
    assert main([*command(tmp_path / "m.jsonl", out), "--subset", "face"]) == 1
    assert "subset" in capsys.readouterr().err


@pytest.mark.datasets
@pytest.mark.slow
def test_rows_that_kill_their_worker(clip, tmp_path, cluster):
    """Two of 20 rows end their process each time: they have failed, and take no other row along."""
    import pyarrow.parquet as pq

    class Deadly:
        def __init__(self, detector, options):
            pass

        def __call__(self, row):
            import os

            from tpc_fast.datasets.row import failed_row

            if row["index"] in (3, 11):
                os._exit(1)
            return failed_row(row, ValueError()) | {"status": "ok", "error": "", "record": b""}

    write_manifest(tmp_path / "m.jsonl", [row(clip)] * 20)
    out = tmp_path / "o.parquet"
    done = datasets.calibrate_table(tmp_path / "m.jsonl", out, actors=2, page=False, operator=Deadly)
    assert (done.good, done.failed, done.rows) == (18, 2, 20)
    failed = pq.read_table(tmp_path / "o.failed.parquet").to_pylist()
    assert [one["index"] for one in failed] == [3, 11]
    assert {one["error"] for one in failed} == {
        "RuntimeError: its worker died each time: killed, out of memory, or crashed"
    }


@pytest.mark.datasets
def test_what_a_detector_lacks_is_said_once(clip, tmp_path, capsys):
    from tpc_fast.cli.main import main

    write_manifest(tmp_path / "m.jsonl", [{"reference": str(clip / "photo.png"), "driving": str(clip / "video.mp4")}])
    assert main(command(tmp_path / "m.jsonl", tmp_path / "o.parquet", "--detector", "nothing")) == 1
    assert "--detector must be one of" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["m.jsonl"]


@pytest.fixture(scope="module")
def table(clip, tmp_path_factory):
    """A table of four good rows, made without an engine."""
    pytest.importorskip("pyarrow", reason="extra 'datasets' is not installed")
    from tpc_fast.datasets.parts import Parts

    folder = tmp_path_factory.mktemp("table")
    rows, operator = [row(clip, index=i) for i in range(4)], datasets.CalibrateRow(options={"size": SIZE})
    with Parts(folder / "t.parquet", rows) as parts:
        parts.add([operator(rows[i]) for i in (2, 0)])
        parts.add([operator(rows[i]) for i in (3, 1)])
        assert parts.finish() == (4, 0)
    return folder / "t.parquet"


@pytest.mark.datasets
@pytest.mark.torch
@pytest.mark.slow
@pytest.mark.parametrize("start", ["fork", "spawn"])
def test_training_reads_what_render_gives(clip, table, start):
    import torch

    clips = datasets.CalibratedClips(table, frames=3)
    expected = tpc_fast.calibrate(
        clip / "photo.png", clip / "video.mp4", reference_keypoints=clip / "photo.npz",
        driving_keypoints=clip / "video.npz", size=SIZE,
    )  # fmt: skip
    warped = expected.render(np.array([0, 2, 4]), dtype="float32")
    loader = torch.utils.data.DataLoader(clips, batch_size=2, num_workers=2, multiprocessing_context=start)
    batches = list(loader)
    assert [b["row"].tolist() for b in batches] == [[0, 1], [2, 3]]
    for batch in batches:
        for k in range(2):
            np.testing.assert_array_equal(batch["image"][k].numpy(), warped.image)
            np.testing.assert_array_equal(batch["mask"][k].numpy(), warped.mask)
            np.testing.assert_array_equal(batch["matrix"][k].numpy(), expected.matrices[[0, 2, 4]])
            np.testing.assert_array_equal(
                (255 * batch["pose_mask"][k].numpy()).round(), expected.pose_masks[:][[0, 2, 4]]
            )
    assert len(datasets.CalibratedClips(table, where=lambda r: r["index"] > 1)) == 2
    twice = datasets.CalibratedClips([table, table], frames=3)
    assert len(twice) == 8
    assert repr(twice.row(5)) == repr(clips.row(1))


@pytest.mark.datasets
@pytest.mark.torch
@pytest.mark.slow
def test_the_guide_trains(table, tmp_path, monkeypatch):
    """The block of docs/guides/datasets.md, on a table of that name."""
    guide = (Path(__file__).parents[1] / "docs" / "guides" / "datasets.md").read_text()
    code = guide.partition("```py\n")[2].partition("```")[0]
    monkeypatch.chdir(tmp_path)
    (tmp_path / "clips.parquet").write_bytes(table.read_bytes())
    known = {}
    exec(code.replace("frames=8", "frames=3"), known)
    assert known["batch"]["image"].shape == (4, 3, 1, 3, SIZE, SIZE)


@pytest.mark.datasets
def test_polars_reads_a_table(table):
    """As pyarrow does, types included."""
    polars = pytest.importorskip("polars", reason="polars is not installed (extra 'test')")
    import pyarrow.parquet as pq

    assert repr(polars.read_parquet(table).to_dicts()) == repr(pq.read_table(table).to_pylist())  # NaN, too


@pytest.mark.datasets
def test_rows_are_rendered(table, clip):
    import pyarrow.parquet as pq

    made = datasets.RenderRow(frames=2)(pq.read_table(table).to_pylist()[1])
    assert made["index"].tolist() == [0, 4]
    assert made["image"].shape == (2, 1, SIZE, SIZE, 3)
    assert "record" not in made


@pytest.mark.datasets
@pytest.mark.torch
@pytest.mark.slow
def test_a_pipeline_of_ones_own(clip, table, tmp_path, cluster):
    """The guide's: read_parquet, map, write_parquet; then pictures in the engine, and training from many files."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    pq.write_table(pa.Table.from_pylist([row(clip)] * 6 + broken(clip, tmp_path)[:2]), tmp_path / "m.parquet")
    pool = cluster.data.ActorPoolStrategy(size=1)  # of two cores: reading and writing need one, or all wait for ever
    how = dict(fn_constructor_kwargs={"options": {"size": SIZE}}, compute=pool, num_cpus=1)
    cluster.data.read_parquet(str(tmp_path / "m.parquet"), override_num_blocks=3).map(
        datasets.CalibrateRow, **how
    ).write_parquet(str(tmp_path / "done"))
    files = sorted((tmp_path / "done").glob("*.parquet"))
    clips = datasets.CalibratedClips(files, frames=2)
    assert len(clips) == 6
    expected = datasets.CalibratedClips(table, frames=2)[0]
    for item in (clips[0], clips[5]):
        assert item["image"].equal(expected["image"])
    assert clips[5]["row"] == 5
    good = cluster.data.read_parquet(str(tmp_path / "done")).filter(lambda made: made["status"] == "ok")
    how = dict(fn_constructor_kwargs={"frames": 2}, compute=pool, num_cpus=1)
    pictures = good.map(datasets.RenderRow, **how).take_all()
    assert [made["image"].shape for made in pictures] == [(2, 1, SIZE, SIZE, 3)] * 6


@pytest.mark.datasets
@pytest.mark.diffusion
@pytest.mark.slow
def test_rows_are_animated(table, tmp_path):
    """In this process; every video is marked as what `animate` makes."""
    import pyarrow.parquet as pq

    from tpc_fast.media.video import VideoReader
    from tpc_fast.output.provenance import read_tag, sidecar

    animate = datasets.AnimateRow("tiny-random", tmp_path, options={"num_inference_steps": 1, "guidance_scale": 1})
    rows = pq.read_table(table).to_pylist()
    made = animate(rows[0])
    assert made["error"] == ""
    video = Path(made["video"])
    assert len(list(VideoReader(video))) == FRAMES
    assert read_tag(video)["digitalSourceType"].endswith("trainedAlgorithmicMedia")
    assert json.loads(sidecar(video).read_text())["settings"] == {
        "num_inference_steps": 1,
        "guidance_scale": 1,
        "seed": 0,
    }
    before = video.stat().st_mtime_ns
    assert animate(rows[0])["video"] == str(video)
    assert video.stat().st_mtime_ns == before
    assert animate(rows[1] | {"record": None})["error"].startswith("ValueError: row has no record")
    (tmp_path / "draws.torchscript").write_bytes(b"")
    program = animate(rows[1] | {"pose": str(tmp_path / "draws.torchscript")})
    assert program["error"].startswith("ValueError: pose must be a video, but is a program")
    puppets = datasets.AnimateRow("puppets", tmp_path / "puppets", options={"num_inference_steps": 1})
    (tmp_path / "puppets").mkdir()
    assert puppets(rows[0])["error"] == ""  # body parts are drawn from the keypoints


@pytest.mark.datasets
@pytest.mark.diffusion
@pytest.mark.slow
def test_a_table_is_animated(table, tmp_path, cluster, capsys):
    """By the engine, a pipeline in each of two workers, without GPUs; a row fails, is mended, and is done alone."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from tpc_fast.cli.main import main

    rows, gone = pq.read_table(table).to_pylist(), tmp_path / "gone.png"
    photo = rows[2]["reference"]
    rows[2]["reference"] = str(gone)
    pq.write_table(pa.Table.from_pylist(rows, schema=pq.read_schema(table)), tmp_path / "t.parquet")
    run = ["animate", str(tmp_path / "t.parquet"), "-o", str(tmp_path / "out"), "--model", "tiny-random"]
    run += ["--steps", "1", "--guidance", "1"]
    assert main([*run, "--gpus", "1"]) == 1
    assert "--gpus must be what there is, but is 1, and Ray sees 0 GPUs" in capsys.readouterr().err
    run += ["--actors", "2", "--gpus", "0"]
    assert main(run) == 1
    assert "3 videos are there, 1 rows failed; 4 were done now" in capsys.readouterr().out
    (loss,) = map(json.loads, (tmp_path / "out" / "failed.jsonl").read_text().splitlines())
    assert loss["index"] == 2
    assert loss["error"].startswith("FileNotFoundError")
    gone.write_bytes(Path(photo).read_bytes())
    assert main(run) == 0
    assert "4 videos are there, 0 rows failed; 1 were done now" in capsys.readouterr().out
    made = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert made == sorted(f"{i:08d}.mp4{end}" for i in range(4) for end in ("", ".json"))
    assert main(["verify", str(tmp_path / "out" / "00000002.mp4"), "--json"]) == 4
    assert json.loads(capsys.readouterr().out)["status"] == "tag"
    for name in ("sign", "pose"):
        assert main([*run, f"--{name}", "a,b"]) == 1
        assert f"--{name} is not for tables" in capsys.readouterr().err


@pytest.mark.datasets
@pytest.mark.slow
def test_kills_lose_nothing(clip, tmp_path):
    """200 rows, ten of them broken, two workers: a worker and then the whole run are killed; the next run ends it."""
    import pyarrow.parquet as pq

    rows = [row(clip) for _ in range(190)]
    for place, bad in zip(range(5, 200, 20), broken(clip, tmp_path), strict=True):
        rows.insert(place, bad)
    write_manifest(tmp_path / "m.jsonl", rows)
    out = tmp_path / "o.parquet"
    script = textwrap.dedent("""
        import os, sys, time
        from tpc_fast.datasets import batch
        batch.PART_ROWS = 8
        left, add = int(os.environ.get("PARTS_LEFT", 1000)), batch.Parts.add
        def counted(*arguments):
            global left
            add(*arguments)
            left -= 1
            while not left:
                time.sleep(0.1)
        batch.Parts.add = counted
        from tpc_fast.cli.main import main
        sys.exit(main(sys.argv[1:]))
    """)
    run = [sys.executable, "-c", script, *command(tmp_path / "m.jsonl", out, "--no-page", "--json")]
    first = subprocess.Popen(
        run, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
        env=os.environ | {"PARTS_LEFT": "20"},  # of 25: it does not end before it is killed, however late that comes
    )  # fmt: skip
    deadline = time.monotonic() + 600

    def parts():
        assert time.monotonic() < deadline
        assert first.poll() is None, "it ended before it was killed"
        time.sleep(0.05)
        return len(list(tmp_path.glob(".o.parquet.parts/*/[0-9]*.parquet")))

    while not parts():
        pass
    worker = [process for process in processes.family_of(first.pid) if "MapWorker" in processes.name_of(process)]
    if worker:
        os.kill(worker[0], signal.SIGKILL)
    done = parts()
    while parts() < done + 3:
        pass
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()
    assert not out.exists()
    second = subprocess.run(run, capture_output=True, text=True, timeout=600, check=False)
    assert second.returncode == 1, second.stderr
    assert second.stdout, second.stderr
    said = json.loads(second.stdout.splitlines()[-1])
    assert (said["good"], said["failed"]) == (190, 10)
    assert 0 < said["rows"] < 200
    assert worker, "no worker was found to be killed"
    failed = set(range(5, 200, 20))
    assert pq.read_table(out)["index"].to_pylist() == sorted(set(range(200)) - failed)
    assert pq.read_table(tmp_path / "o.failed.parquet")["index"].to_pylist() == sorted(failed)
