"""Parameters of tests that only the slow run takes."""

import pytest


def slow(*values):
    """These values of a parameter are for `pytest -m slow`; a tuple is one value for each of several names."""
    return [pytest.param(*(v if isinstance(v, tuple) else (v,)), marks=pytest.mark.slow) for v in values]
