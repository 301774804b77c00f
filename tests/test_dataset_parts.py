"""What a run over a table keeps: resumed, refused, mended; without an engine."""

import itertools
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tpc_fast.cli.main import main
from tpc_fast.datasets import batch
from tpc_fast.datasets.manifest import read_manifest
from tpc_fast.datasets.row import RESULTS, failed_row

pytestmark = pytest.mark.datasets
pa = pytest.importorskip("pyarrow", reason="extra 'datasets' is not installed")
pq = pytest.importorskip("pyarrow.parquet", reason="extra 'datasets' is not installed")

from tpc_fast.datasets import parts as module  # noqa: E402
from tpc_fast.datasets.parts import Parts  # noqa: E402


def manifest(count: int, **more) -> list[dict]:
    return [
        {"index": i, "reference": f"/{i}.png", "driving": f"/{i}.mp4", "caption": str(i), **more} for i in range(count)
    ]


def result(row: dict, good: bool = True, seconds: float = 1.0) -> dict:
    made = failed_row(row, ValueError("bad")) | {"seconds": seconds}
    if not good:
        return made
    figures = {name: 0.5 for name, (kind, _) in RESULTS.items() if kind is float}
    return made | figures | {"status": "ok", "error": "", "record": b"r", "seconds": seconds}


def indices(path: Path) -> list[int]:
    return pq.read_table(path)["index"].to_pylist() if path.exists() else []


@pytest.fixture
def out(tmp_path):
    return tmp_path / "o.parquet"


@pytest.fixture
def whole(out):
    """A table of six rows, two of them failed, of 32 x 32."""
    rows = manifest(6)
    with Parts(out, rows, {"size": (32, 32)}) as parts:
        parts.add([result(rows[i], i != 4) for i in (4, 0, 3)])
        parts.add([result(rows[i], i != 1) for i in (5, 1, 2)])
        assert parts.finish() == (4, 2)
    return rows


def test_nothing_is_left_beside(whole, out, tmp_path):
    assert indices(out) == [0, 2, 3, 5]
    assert indices(tmp_path / "o.failed.parquet") == [1, 4]
    assert sorted(os.listdir(tmp_path)) == ["o.failed.parquet", "o.parquet"]


def test_failed_rows_again_and_again(whole, out, tmp_path):
    """Retried twice: one is mended each time, and the others stay what they were."""
    for mended, left in ((4, [1]), (1, [])):
        before = pq.read_table(out).to_pylist()
        with Parts(out, whole, {"size": (32, 32)}) as parts:
            assert parts.done() == set(range(6))
            again = set(range(6)) - parts.done(retry_failed=True)
            parts.add([result(whole[i], i == mended, 7.0) for i in sorted(again)])
            parts.finish()
        assert indices(tmp_path / "o.failed.parquet") == left
        after = pq.read_table(out).to_pylist()
        assert [row for row in after if row["index"] != mended] == before
        assert next(row["seconds"] for row in after if row["index"] == mended) == 7.0
    assert not (tmp_path / "o.failed.parquet").exists()


@pytest.mark.parametrize(
    ("change", "error"),
    [
        (lambda rows: rows[3].update(driving="/x.mp4"), "driving of row 3 is /3.mp4, in the manifest /x.mp4"),
        (lambda rows: rows[1].update(options='{"size": 8}'), "options of row 1 is None, in the manifest"),
        (lambda rows: rows.pop(), "it has a row 5, the manifest 5 rows"),
    ],
)
def test_another_manifest_is_refused(whole, out, tmp_path, change, error):
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    rows = [dict(row, options=None) for row in whole]
    change(rows)
    with pytest.raises(ValueError, match=f"is of another manifest: {error}"), Parts(out, rows, {"size": (32, 32)}):
        pass
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()} == before


def test_other_settings_are_refused(whole, out):
    with (
        pytest.raises(ValueError, match=r"were made with size \[32, 32\], not 64: choose another place"),
        Parts(out, whole, {"size": 64}),
    ):
        pass


def test_a_manifest_may_grow(whole, out):
    """New rows at the end, new columns, other captions: what is done stays, what is told of it is new."""
    rows = [dict(row, caption=f"new {row['index']}", split="train") for row in manifest(8)]
    with Parts(out, rows, {"size": (32, 32)}) as parts:
        assert set(range(8)) - parts.done() == {6, 7}
        parts.finish()
    made = pq.read_table(out).to_pylist()
    assert [(row["caption"], row["split"]) for row in made] == [(f"new {i}", "train") for i in (0, 2, 3, 5)]
    with Parts(out, rows, {"size": (32, 32)}) as parts:
        parts.add([result(rows[7])])
        parts.add([result(rows[6])])
        assert parts.finish() == (6, 2)
    assert indices(out) == [0, 2, 3, 5, 6, 7]


@pytest.mark.parametrize("fails", [0, 1])
def test_a_kill_between_the_tables(whole, out, tmp_path, monkeypatch, fails):
    """The output is new, the failures are old or the other way round: the next run makes the same of it."""
    write, calls = module._write, itertools.count()

    def dies(*args):
        if next(calls) == fails:
            raise KeyboardInterrupt
        write(*args)

    with Parts(out, whole, {"size": (32, 32)}) as parts:
        parts.add([result(whole[1]), result(whole[4], False, 9.0)])
        monkeypatch.setattr(module, "_write", dies)
        with pytest.raises(KeyboardInterrupt):
            parts.finish()
    monkeypatch.undo()
    with Parts(out, whole, {"size": (32, 32)}) as parts:
        assert parts.done(retry_failed=True) == {0, 1, 2, 3, 5}
        assert parts.finish() == (5, 1)
    assert indices(out) == [0, 1, 2, 3, 5]
    assert pq.read_table(tmp_path / "o.failed.parquet")["seconds"].to_pylist() == [9.0]


def test_two_writers(whole, out):
    """In one process and in two; the second is told, and the first goes on."""
    code = (
        "import sys; from tpc_fast.datasets.parts import Parts\n"
        "try:\n    Parts(sys.argv[1], []).__enter__()\nexcept FileExistsError as error:\n    print(error)"
    )
    with Parts(out, whole, {"size": (32, 32)}) as parts:
        with pytest.raises(FileExistsError, match="another process is writing"), Parts(out, whole):
            pass
        run = subprocess.run([sys.executable, "-c", code, out], capture_output=True, text=True, check=True)
        assert "another process is writing" in run.stdout
        parts.add([result(whole[1])])
        assert parts.finish() == (5, 1)


def test_places_that_cannot_be_written(out, tmp_path, monkeypatch):
    """Said before any row is worked on."""
    (tmp_path / "file").write_text("")
    (tmp_path / "folder.parquet").mkdir()
    for path, kind, error in (
        (tmp_path / "none" / "o.parquet", FileNotFoundError, "there is no folder"),
        (tmp_path / "file" / "o.parquet", NotADirectoryError, "is not a folder"),
        (tmp_path / "folder.parquet", FileExistsError, "is a folder"),
        (tmp_path / "o.csv", ValueError, r"must end in \.parquet"),
    ):
        with pytest.raises(kind, match=f"output.*{error}"), Parts(path, []):
            pass

    def refused(self, *args, **options):
        raise PermissionError(13, "Permission denied", str(self))

    monkeypatch.setattr(Path, "mkdir", refused)
    with pytest.raises(PermissionError, match="output: cannot write into"), Parts(out, []):
        pass
    assert not list(tmp_path.glob(".o.parquet*"))


def test_what_is_no_table_of_ours_stays(out, tmp_path):
    pq.write_table(pa.table({"index": [0]}), out)
    before = out.read_bytes()
    with pytest.raises(ValueError, match="is no table of `batch`"), Parts(out, manifest(1)):
        pass
    out.write_bytes(before[:-9])
    with pytest.raises(ValueError, match=r"o\.parquet cannot be read"), Parts(out, manifest(1)):
        pass
    assert out.read_bytes() == before[:-9]


def test_any_manifest_can_be_kept(out, tmp_path):
    """Types that change from row to row, beyond the first part, too."""
    values = [None] * 20 + [1, 2.5, "x", [1], True, 2**80, {"a": "b"}, -1]
    lines = [f'{{"reference": "a", "driving": "b", "v": {module.json.dumps(v)}}}\n' for v in values]
    (tmp_path / "m.jsonl").write_text("".join(lines))
    rows = read_manifest(tmp_path / "m.jsonl")
    with Parts(out, rows) as parts:
        for row in rows:
            parts.add([result(row)])
        assert parts.finish() == (len(rows), 0)
    kept = pq.read_table(out)["v"].to_pylist()
    assert kept == [None] * 20 + ["1", "2.5", "x", "[1]", "True", str(2**80), '{"a": "b"}', "-1"]


class Good:
    """In place of `CalibrateRow`."""

    def __init__(self, detector, options):
        pass

    def __call__(self, row):
        return result(row)


def in_this_process(rows, operator, arguments, died, actors, address):
    """In place of the engine."""
    return map(operator(**arguments), rows)


def test_ctrl_c_keeps_what_is_done(out, tmp_path, monkeypatch, capsys):
    line = '{"reference": "a", "driving": "b", "reference_keypoints": "c", "driving_keypoints": "d"}\n'
    (tmp_path / "m.jsonl").write_text(5 * line)

    def interrupted(rows, *how):
        yield from in_this_process(rows[:3], *how)
        raise KeyboardInterrupt

    command = ["batch", str(tmp_path / "m.jsonl"), "-o", str(out), "--json"]
    monkeypatch.setattr(batch, "through_ray", interrupted)
    assert main(command) == 130
    assert capsys.readouterr().err == "tpc-fast: interrupted; the same command goes on\n"
    monkeypatch.setattr(batch, "through_ray", in_this_process)
    assert main(command) == 1
    said = module.json.loads(capsys.readouterr().out)
    assert (said["good"], said["failed"], said["rows"]) == (0, 5, 2)
    page = (tmp_path / "o.html").read_text()
    assert page.count("FileNotFoundError") == 5


@pytest.mark.slow
def test_a_hundred_thousand_rows(out, tmp_path, monkeypatch):
    """Ten seconds: all but the engine and the work. Driver and resumed run keep no table of records in memory."""
    with (tmp_path / "m.csv").open("w") as file:
        file.write("reference,driving\n")
        file.writelines(f"{i}.png,{i}.mp4\n" for i in range(100_000))
    monkeypatch.setattr(batch, "through_ray", in_this_process)
    done = batch.calibrate_table(tmp_path / "m.csv", out, operator=Good, page=False)
    assert (done.good, done.failed, done.rows) == (100_000, 0, 100_000)
    file = pq.ParquetFile(out)
    assert file.num_row_groups == 100_000 // module.GROUP_ROWS
    assert file.read(["index"])["index"].to_pylist() == list(range(100_000))
    assert batch.calibrate_table(tmp_path / "m.csv", out, operator=Good, page=False).rows == 0
