"""The tables of docs/measured.md and the README: what `benchmarks/table.py` makes of a run of the benchmarks."""

import json
import sys

import puppets_page
import pytest
import scale_page
import table

RUN = (
    "driver_bytes", "shared_bytes", "footer_bytes", "rows_seconds", "driver_cpu_seconds", "finish_seconds", "files",
)  # fmt: skip
MACHINE = {"processor": "a processor", "cores": 2, "simd": "avx512"}


def bench(file, work, member, seconds, items=1, **facts):
    facts |= {"member": member, "items": items}
    return {"fullname": f"benchmarks/{file}.py::test", "group": work, "extra_info": facts, "stats": {"data": seconds}}


def diffusion():
    scheme, fused, plain = table.PEERS
    rows = []
    for dim, ratio in ((40, 6.0), (64, 10.0)):
        work = f"reference attention, 1024 tokens, head dim {dim}, 1 person"
        rows += [
            bench("bench_attention", work, "tpc_fast", [0.2, 0.1, 0.3], items=8, max_error=2e-6),
            bench("bench_attention", work, scheme, [0.025 * ratio] * 3, max_error=1e-6),
            bench("bench_attention", work, fused, [0.05] * 3, max_error=1e-6),
            bench("bench_attention", work, plain, [0.1] * 3, items=8),
        ]
    work = "one guided step of 8 frames, 1 person"
    return rows + [
        bench("bench_step", work, "tpc_fast", [2.0], max_error_in_std=2e-5, peak_bytes=200_000_000),
        bench("bench_step", work, "tpc_fast, bank_refresh=2", [3.0], items=2, max_error_in_std=0.25),
        bench("bench_step", work, scheme, [8.0], peak_bytes=500_000_000),
        bench("bench_step", work, fused, [5.0], peak_bytes=300_000_000),
        bench("bench_step", work, plain, [1.5], peak_bytes=180_000_000),
    ]


@pytest.fixture
def places(tmp_path, monkeypatch):
    """A page, a README and results elsewhere; `main` on a run."""
    readme, page = tmp_path / "README.md", tmp_path / "measured.md"
    readme.write_text("a\n<!-- summary: begin -->\nold\n<!-- summary: end -->\nb\n")
    (tmp_path / "quality.json").write_text('[{"what": "IoU", "tpc_fast": "0.5", "beside": "0.4, theirs"}]')
    page.write_text(
        "a\n<!-- measured: begin -->\nold\n<!-- measured: end -->\nb\n<!-- animate: begin -->\nold\n"
        "<!-- animate: end -->\nc\n"
    )
    monkeypatch.setattr(table, "README", readme)
    monkeypatch.setattr(table, "PAGE", page)
    monkeypatch.setattr(table, "RESULTS", tmp_path)
    for name in ("JOBS", "ANIMATE"):
        own = getattr(table, name)
        monkeypatch.setattr(
            table, name, table.dataclasses.replace(own, results=tmp_path / own.results.name, packages=())
        )

    def main(benchmarks):
        (tmp_path / "run.json").write_text(
            json.dumps({"datetime": "2026-11-21T00:00:00", "machine_info": MACHINE, "benchmarks": benchmarks})
        )
        monkeypatch.setattr(sys, "argv", ["table.py", str(tmp_path / "run.json")])
        table.main()
        return page.read_text()

    elsewhere = {"cpu.json": table.JOBS, "animate.json": table.ANIMATE}
    shown = [(name, elsewhere[known.results.name], *rest) for name, known, *rest in table.SHOWN]
    monkeypatch.setattr(table, "SHOWN", shown)
    return main


def test_the_table_of_the_diffusion_benchmarks(places, tmp_path):
    text = places(diffusion())
    assert "old\n<!-- measured: end -->" in text  # the other table stays
    _, own = text.split("<!-- animate: begin -->\n")
    lines = own.split("\n<!-- animate: end -->")[0].splitlines()
    assert lines[0].startswith("One run on a processor, 2 cores, avx512; 2026-11-21")
    assert (tmp_path / "README.md").read_text().splitlines() == [
        "a", "<!-- summary: begin -->", "| | tpc_fast | compared with |", "|---|---|---|",
        "| IoU | 0.5 | 0.4, theirs |",
        "| a guided diffusion step, 8 frames | 2 s | 5 s, the original's scheme, fused |", "<!-- summary: end -->", "b",
    ]  # fmt: skip
    assert lines[4:] == [
        "| reference attention, 1024 tokens, head dim 40, 1 person | 200 ms (2e-06) | 6.00x | 2.00x | 0.50x |",
        "| reference attention, 1024 tokens, head dim 64, 1 person | 200 ms (2e-06) | 10.00x | 2.00x | 0.50x |",
        "| **median of these 2** |  | 8.00x | 2.00x | 0.50x |",
        "| one guided step of 8 frames, 1 person | 2 s (2.0e-05 std) | 4.00x | 2.50x | 0.75x |",
        "| the same with bank_refresh=2 | 1.5 s (2.5e-01 std) |  |  |  |",
        "| peak memory of one guided step of 8 frames, 1 person | 200 MB | 2.50x | 1.50x | 0.90x |",
    ]


def test_the_table_of_the_jobs(places):
    rows = [
        bench("test_warp", "warp", "tpc_fast", [0.1, 0.2, 0.3], items=93),
        bench("test_warp", "warp", "cv2", [0.4], 31),
    ]
    text = places(rows)
    assert "| warp | **tpc_fast** | 200 ms (140 ms to 260 ms) |  |" in text
    assert "|  | cv2 | 1.2 s | 6x |" in text
    assert "old\n<!-- animate: end -->" in text
    both = places(rows + diffusion())
    assert "old" not in both
    assert text.split("<!-- animate")[0] == both.split("<!-- animate")[0]


def test_the_table_of_a_gpu_is_of_its_newest_results(places, tmp_path):
    page = tmp_path / "measured.md"
    page.write_text(page.read_text() + "<!-- gpu: begin -->\nold\n<!-- gpu: end -->\n")
    rows = [
        {"work": "fit", "member": "tpc_fast", "items": 10, "us": 100.0, "error": 2e-7},
        {"work": "fit", "member": "svd", "items": 1, "us": 100.0},
        {"work": "fit", "member": "roma", "failed": "is not installed"},
        {"work": "lonely", "member": "torch", "items": 1, "us": 1.0},
    ]
    goals = [
        {"goal": "fits, us", "limit": 90, "most": True, "measured": 100.0, "met": False},
        {"goal": "frames a second", "limit": 16, "most": False, "measured": None, "met": None},
    ]
    results = {"gpu": "a GPU", "driver": "1", "versions": {"torch": "2"}, "goals": goals, "rows": rows}
    for card, date in (("old", "2026-01-01"), ("new", "2026-01-02")):
        named = results | {"gpu": card, "date": date}
        (tmp_path / f"gpu-{card}.json").write_text(json.dumps(named))
    lines = places(diffusion()).split("<!-- gpu: begin -->\n")[1].split("\n<!-- gpu: end -->")[0].splitlines()
    assert lines == [
        "One run on new, driver 1; 2026-01-02; torch 2. Medians.", "",
        "| goal | wanted | measured |", "|---|---|---|",
        "| fits, us | at most 90 | 100 (missed) |", "| frames a second | at least 16 | not measured |", "",
        "| work | by | time | ratio |", "|---|---|---|---|",
        "| fit | **tpc_fast** | 100 us (error 2e-07) |  |", "|  | svd | 1 ms | 10x |",
    ]  # fmt: skip


def test_the_page_of_scale():
    """What grows with rows, from the two largest runs; and docs/scale.md is of the committed results."""
    one = scale_page.per_row(
        {"row_seconds": [1.0, 3.0], "record_bytes": 2e4},
        [
            dict.fromkeys(RUN, 0) | {"rows": 10},
            dict.fromkeys(RUN, 5.0) | {"rows": 100, "driver_bytes": 3e8},
            dict.fromkeys(RUN, 4.0) | {"rows": 300, "driver_bytes": 5e8},
        ],
    )
    assert one == dict.fromkeys(one, 0.0) | {"seconds": 2.0, "record": 2e4, "driver": 1e6}
    assert "| 1e7 | 5,556 | 3.62 days | 8.68 h | 52.1 min | 200 GB |" in scale_page.costs(one, 1.0)
    busy = scale_page.costs(one | {"engine": 1e-3}, 1.0).splitlines()[0]  # 2,000 cores a run; 64, 640 and 6,400 of them
    assert busy == "| clips | core hours | 1 node | 10 nodes | 100 nodes, 4 runs at once | records |"
    assert "| driver: the manifest in memory | 1 MB | 100 GB | 10 TB | 1 PB |" in scale_page.limits(one)
    assert scale_page.PAGE.read_text(encoding="utf-8") == scale_page.page()


def test_operations_say_who_did_less_and_why_a_share_is_low(tmp_path, monkeypatch):
    import operations

    def row(work, member, seconds, size, batch=1, **facts):
        return bench("test_operations", work, member, [seconds], batch, bytes=size, batch=batch, **facts)

    pixels = 93 * 512 * 512
    warp = "warp of 93 x 512 x 512, image and mask, cubic"
    run = [
        row(operations.COPY, "numpy.copyto, 1 threads", 1.0, 10e9),
        row("fit of 1 x 17 points, float32", "tpc_fast", 2e-6, 300),
        row("fit of 10,000 x 17 points, float32", "tpc_fast", 1e-3, 9e6, 10_000),
        row(warp, "tpc_fast", 0.1, 4 * pixels, 93),
        row(warp, "kornia.warp_affine", 1.0, 4 * pixels / 93 * 31, 31, of=93, needs=7e9),
        row(warp, "cv2.warpAffine, four channels", 0.5, 4 * pixels, 93, of=93),
        *(row("taps: warp of 1 x 512 x 512", f"tpc_fast, {name}", t, 2 << 20)
          for name, t in (("nearest", 1e-4), ("bilinear", 2e-4), ("cubic", 4e-4))),
        row(operations.PAGES, "new memory", 0.03, 4 * pixels),
        row(operations.PAGES, "memory that was written before", 0.02, 4 * pixels),
    ]  # fmt: skip
    monkeypatch.setattr(operations, "OUTPUT", tmp_path / "operations.md")
    monkeypatch.setattr(operations, "PACKAGES", ())
    (tmp_path / "run.json").write_text(
        json.dumps({"datetime": "2026-11-21T00:00:00", "machine_info": MACHINE, "benchmarks": run})
    )
    operations.main([str(tmp_path / "run.json")], noisy=True)
    text = (tmp_path / "operations.md").read_text()
    assert "to be made again on a quiet one" in text
    assert "| kornia.warp_affine (31 of 93, all need 7 GB) | 1 s | 32.3 ms | 30.0 |" in text
    assert "| cv2.warpAffine, four channels | 500 ms | 5.38 ms | 5.0 |" in text
    assert "Rows of `tpc_fast`: fit of 1 x 17 points, float32; warp of 93 x 512 x 512" in text
    assert "a single one 2 us: 95% of it are the call" in text
    assert "at least 75% of a cubic warp are its taps" in text
    assert "that adds 10 ms, 10% of their warp" in text
    assert "memory that was written before" not in text


def test_the_puppets_page_shows_what_was_measured():
    """Its tables are made of the committed results, whose numbers are lists, one entry a figure."""
    results = json.loads(puppets_page.FILE.read_text())
    page = puppets_page.PAGE.read_text(encoding="utf-8")
    for mark, text in puppets_page.tables(results).items():
        assert f"<!-- {mark}: begin -->\n{text}\n<!-- {mark}: end -->" in page
    results["pictures"][0]["psnr"][0] += 8
    changed = puppets_page.tables(results)
    assert sum(text not in page for text in changed.values()) == 1
