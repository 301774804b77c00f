"""Shell completion, and what the help says of exit codes."""

import re
import shutil
import subprocess
import sys

import pytest

from tpc_fast.cli import completion
from tpc_fast.cli.main import EXIT_CODES, INTERRUPTED, main


@pytest.mark.parametrize("shell", completion.SHELLS)
def test_scripts_name_the_commands(shell, capsys):
    pytest.importorskip("shtab", reason="extra 'completion' is not installed")
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    for word in ("calibrate", "serve", "--motion"):
        assert word in script


def test_bash_completes(tmp_path, capsys):
    """As a user would: a command, an option, its values, a file."""
    pytest.importorskip("shtab", reason="extra 'completion' is not installed")
    bash = shutil.which("bash")
    if bash is None:
        pytest.skip("no bash here")
    main(["completion", "bash"])
    script = capsys.readouterr().out
    (tmp_path / "photo.png").touch()

    def complete(line):
        words = line.split(" ")
        code = (
            f"{script}\nCOMP_WORDS=({' '.join(repr(word) for word in words)})\nCOMP_CWORD={len(words) - 1}\n"
            'name=$(complete -p tpc-fast | sed -n "s/.*-F \\([^ ]*\\).*/\\1/p")\n$name\n'
            'printf "%s\\n" "${COMPREPLY[@]}"'
        )
        ran = subprocess.run([bash, "-c", code], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        return [word.strip() for word in ran.stdout.splitlines()]

    assert "calibrate" in complete("tpc-fast cal")
    assert "--motion" in complete("tpc-fast calibrate --mo")
    assert {"frame", "constant"} <= set(complete("tpc-fast calibrate --motion "))
    assert "photo.png" in complete("tpc-fast calibrate ph")


def test_without_shtab_it_says_how(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["completion", "bash"]) == 1
    assert 'completion needs shtab: pip install "shtab>=1.7"' in capsys.readouterr().err


def test_exit_codes_are_in_every_help(capsys, tmp_path):
    for arguments in ([], ["calibrate"], ["serve"], ["comfyui"]):
        with pytest.raises(SystemExit) as ended:
            main([*arguments, "--help"])
        assert ended.value.code == 0
        text = " ".join(capsys.readouterr().out.split())
        assert EXIT_CODES in text
        assert "(default: )" not in text
        assert "(default: [])" not in text
    codes = dict(re.findall(r"(\d+) (\w+)", EXIT_CODES))
    assert codes == {"0": "done", "1": "failed", "2": "wrong", str(INTERRUPTED): "interrupted"}
    assert main(["inspect", str(tmp_path / "no.png"), str(tmp_path / "no.mp4")]) == 1
    with pytest.raises(SystemExit) as ended:
        main(["calibrate"])
    assert ended.value.code == 2
