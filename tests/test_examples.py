"""The examples that need no model of the user's run as they are."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


@pytest.mark.native
@pytest.mark.torch
@pytest.mark.slow  # 5 s of CPU, most of it torch's import and the network's convolutions
def test_a_tiny_network_is_trained_through_the_warp():
    run = subprocess.run(
        [sys.executable, str(EXAMPLES / "train_through_warp.py"), "151"], capture_output=True, text=True, check=True
    )
    lines = re.findall(r"loss ([\d.]+), off by ([\d.]+) of log scale, ([\d.]+) rad, ([\d.]+) px", run.stdout)
    first, last = ([float(n) for n in line] for line in (lines[0], lines[-1]))
    assert last[0] < first[0] / 20
    assert last[2] < first[2] / 3  # the angle, which the loss knows from the pictures alone
    assert last[3] < first[3] / 4
