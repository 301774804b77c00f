"""The site: every block of Python runs, every command is one that the parser takes, and it builds without a warning."""

import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))


def blocks(path: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE)


WITH_CODE = [page for page in PAGES if blocks(page, "python")]


@pytest.fixture(scope="module")
def beside(tmp_path_factory):
    """A folder with photo.png and video.mp4, where the blocks run."""
    from tpc_fast import demo
    from tpc_fast.media.png import write_png

    folder = tmp_path_factory.mktemp("docs")
    photo = demo.load_photo()
    write_png(folder / "photo.png", photo)
    demo.write_clip(photo, folder / "video.mp4", demo.camera_path(96)[20:32])
    return folder


@pytest.mark.demo
@pytest.mark.diffusion
@pytest.mark.slow
@pytest.mark.parametrize("page", WITH_CODE, ids=lambda page: page.relative_to(DOCS).with_suffix("").as_posix())
def test_code_runs(page, beside, monkeypatch):
    """All blocks of a page, one after the other, as a reader would type them."""
    monkeypatch.chdir(beside)
    code = "\n\n".join(blocks(page, "python"))
    exec(compile(code, str(page), "exec"), {"__name__": "__main__"})


def commands(page: Path):
    """The `tpc-fast` commands of a page: lines of its blocks, and those in the text that are whole."""
    for block in blocks(page, "text") + blocks(page, "bash"):
        for line in block.splitlines():
            for part in line.split("&&"):
                if part.strip().startswith("tpc-fast "):
                    yield part.strip()


ALL_COMMANDS = [(page, line) for page in PAGES for line in commands(page)]


@pytest.mark.parametrize(("page", "line"), ALL_COMMANDS, ids=[line for _, line in ALL_COMMANDS])
def test_commands_are_taken(page, line, capsys):
    """The parser knows every command, option and value."""
    from tpc_fast.cli.main import _parser

    try:
        _parser().parse_args(shlex.split(line)[1:])
    except SystemExit:
        pytest.fail(f"{page.name}: {line}\n{capsys.readouterr().err}")


def test_options_that_are_named_exist():
    """Each `--option` in the text is one of some command."""
    from tpc_fast.cli.main import _parser

    parser = _parser()
    known = set(re.findall(r"--[a-z][a-z-]*", parser.format_help()))
    waiting = [parser]
    while waiting:
        for action in waiting.pop()._actions:
            known |= {option for option in action.option_strings if option.startswith("--")}
            if isinstance(action.choices, dict):
                waiting += action.choices.values()
    known |= {"--benchmark-json", "--out", "--strict", "--no-deps", "--disable-pip"}  # of other programs
    for page in PAGES:
        text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
        for span in re.findall(r"`([^`\n]+)`", text):
            for option in re.findall(r"(?<![\w-])--[a-z][a-z-]*", span):
                assert option in known, f"{page.name}: {option}"


def test_help_has_every_default_once():
    """Numbers that equal True or False are defaults, too."""
    from tpc_fast.cli.main import _parser

    action = next(action for action in _parser()._actions if isinstance(action.choices, dict))
    helps = {name: " ".join(command.format_help().split()) for name, command in action.choices.items()}
    assert "how long an unseen person is held (default: 1.0)" in helps["calibrate"]
    assert "calibrations at a time (default: 1)" in helps["serve"]
    assert not [name for name, text in helps.items() if re.search(r"\(default: [^()]*\) \(default:", text)]


PAGE_OF = {"disco-no-cfg": None}  # it shares DisCo's page; of others, the page has the name of the kind


@pytest.mark.diffusion
def test_defaults_of_models():
    """The line "Defaults" of each model's page says what its class says."""
    from tpc_fast.diffusion.models.registry import MODELS, pipeline_class

    for kind in MODELS:
        page = PAGE_OF.get(kind, kind)
        if page is None:
            continue
        line = re.search(r"^\*\*Defaults\*\*: (.*)$", (DOCS / "models" / f"{page}.md").read_text(), re.MULTILINE)
        assert line, kind
        model = pipeline_class(kind)
        guidance = model.guidance if isinstance(model.guidance, tuple) else (model.guidance,)
        wanted = f"{model.steps} steps, guidance {','.join(f'{scale:g}' for scale in guidance)}"
        if model.overlap:
            wanted += f", windows of {model.window} frames, overlap {model.overlap}"
        assert line[1].startswith(wanted + "."), f"{kind}: {wanted}"
        closed = getattr(model, "closed_loop", False)
        assert ("close a loop" in line[1] and "do not close" not in line[1]) == closed, kind


def test_the_nodes_of_comfyui_are_named():
    """The table has every node by the name that ComfyUI shows."""
    text = (DOCS / "guides/comfyui.md").read_text()
    names = re.findall(r'display_name="([^"]+)",\n\s+category', (ROOT / "tpc_fast/comfyui/nodes.py").read_text())
    assert len(names) == 7
    for name in names:
        assert f"| **{name}** |" in text, name


def test_every_page_is_in_the_navigation():
    text = (ROOT / "mkdocs.yml").read_text()
    named = set(re.findall(r"([\w/-]+\.md)", text))
    assert named == {page.relative_to(DOCS).as_posix() for page in PAGES}


@pytest.mark.docs
@pytest.mark.slow
def test_the_site_builds(tmp_path):
    """Strictly: a link, a name of the reference or a snippet that is missing is an error, and so for `mkdocs serve`."""
    result = subprocess.run(  # not with -q, which hides warnings from strictness, too
        [sys.executable, "-m", "mkdocs", "build", "--strict", "-d", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert result.returncode == 0, result.stderr
    assert "Building documentation" in result.stderr
    python = (tmp_path / "site/reference/python.html").read_text()
    command = (tmp_path / "site/reference/cli.html").read_text()
    assert "warp_composite" in python
    assert "Raises" in python
    assert "--driving-keypoints" in command
    assert (tmp_path / "site/pictures/demo.jpg").stat().st_size > 10_000
    assert (tmp_path / "site/search/search_index.js").read_text().startswith("var __index = {")
    for page in (tmp_path / "site").rglob("*.html"):
        assert not re.search(r'<(script|link|img)[^>]* (src|href)="https?://', page.read_text()), page
    assert '<code><span class="whole">--size</span> 256</code>' in (tmp_path / "site/models/disco.html").read_text()
