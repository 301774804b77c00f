"""Laws of context windows."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytestmark = pytest.mark.diffusion
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tpc_fast.diffusion.windows import context_windows, predict_windows  # noqa: E402


@st.composite
def arguments(draw):
    window = draw(st.integers(1, 40))
    return draw(st.integers(1, 200)), window, draw(st.integers(0, window - 1)), draw(st.booleans())


@given(arguments())
def test_windows_cover_every_frame(case):
    frames, window, overlap, closed_loop = case
    windows = context_windows(*case)
    assert windows.shape[1] == min(window, frames)
    assert set(windows.ravel().tolist()) == set(range(frames))
    assert all(len(set(row.tolist())) == len(row) for row in windows)  # no frame twice in one window
    steps = np.diff(windows, axis=1)
    if frames <= window:
        assert windows.tolist() == [list(range(frames))]
    elif closed_loop:
        assert set(np.unique(steps)) <= {1, 1 - frames}
        assert (np.diff(windows[:, 0]) == window - overlap).all()
        assert 0 in windows[-1] or overlap == 0  # the end meets the beginning
    else:
        assert (steps == 1).all()
        assert windows[-1, -1] == frames - 1
        shared = windows[:-1, -1] - windows[1:, 0] + 1
        assert (shared >= overlap).all()
        assert (shared[:-1] == overlap).all()
        assert len(windows) == -(-(frames - overlap) // (window - overlap))  # no more than are needed


def test_closed_loop_is_the_original():
    windows = context_windows(32, 16, 4, closed_loop=True)
    assert windows.tolist() == [[*range(16)], [*range(12, 28)], [*range(24, 32), *range(8)]]


@pytest.mark.parametrize(
    ("wrong", "name"),
    [((0,), "frames"), ((5.0,), "frames"), ((5, 0), "window"), ((5, 4, -1), "overlap"), ((5, 4, 4), "overlap")],
)
def test_refusals(wrong, name):
    with pytest.raises(ValueError, match=f"^{name} must be"):
        context_windows(*wrong)


@pytest.mark.parametrize("closed_loop", [False, True])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_predictions_are_averaged(rng, closed_loop, dtype):
    frames = 23
    windows = context_windows(frames, 8, 3, closed_loop)
    noise = torch.from_numpy(rng.normal(size=(len(windows), 2, 4, 8, 3, 5))).to(getattr(torch, dtype))
    asked = []

    def predict(window):
        asked.append(window)
        return noise[len(asked) - 1]

    out = predict_windows(predict, windows, frames)
    assert np.array_equal(np.array(asked), windows)
    assert out.dtype == noise.dtype
    wanted = np.zeros((2, 4, frames, 3, 5))
    for frame in range(frames):
        parts = [noise[w][:, :, i].double().numpy() for w, i in zip(*np.nonzero(windows == frame), strict=True)]
        wanted[:, :, frame] = np.mean(parts, 0)
    tolerance = 2 * np.finfo(dtype).eps * abs(wanted).max()
    assert abs(out.double().numpy() - wanted).max() <= tolerance


def test_one_window_is_passed_through():
    noise = torch.randn(1, 4, 5, 2, 2)
    assert predict_windows(lambda _: noise, context_windows(5), 5) is noise
