"""The measures of how well heads and torsos lie on each other."""

import numpy as np
import pytest
import walker

from tpc_fast.pose.follow.quality import head_size, head_to_torso, offsets

PERSON = walker.film(walker.body())
HEAD = 0.13 * 1.75 * 1000 / 4  # pixels: of the walker, 1.75 m tall, 4 m before a camera of focal length 1000


def clip(points, frames=20):
    return np.repeat(points[None, None], frames, 0)


@pytest.mark.parametrize("hips", [True, False])
def test_head_size_is_that_of_the_person(hips):
    points = clip(PERSON)
    if not hips:
        points[..., 11:13, :] = np.nan
    np.testing.assert_allclose(head_size(points), HEAD, rtol=0.2)
    assert np.isnan(head_size(np.full((3, 1, 17, 2), np.nan))).all()


def test_who_bends_keeps_the_size():
    """For half of the clip the torso looks half as long; in a tenth the hips are misplaced."""
    points = clip(PERSON)
    upright = head_size(points)
    shoulders, hips = points[..., 5:7, :].mean(-2, keepdims=True), points[..., 11:13, :]
    points[:10, ..., 11:13, :] = ((shoulders + hips) / 2)[:10]
    points[18:, ..., 11:13, :] += [0, 400]
    np.testing.assert_allclose(head_size(points), upright, rtol=1e-6)


def test_offsets_are_in_heads():
    matrices = np.repeat(np.eye(2, 3)[None, None], 20, 0)
    matrices[:, 0, 0, 2] = 2 * HEAD
    head, torso = offsets(matrices, PERSON[None], clip(PERSON))
    np.testing.assert_allclose(head, 2, rtol=0.2)
    np.testing.assert_allclose(torso, head)


def test_a_head_beside_its_torso():
    """A head twice as large is twice as large; one side of the body seen alone says nothing else."""
    child = PERSON.copy()
    child[:5] = child[:5].mean(0) + 2 * (child[:5] - child[:5].mean(0))
    np.testing.assert_allclose(head_to_torso(child), 2 * head_to_torso(PERSON))
    narrow = PERSON.copy()
    narrow[[5, 6], 0] = narrow[[5, 6], 0].mean()  # in profile the torso's length tells
    np.testing.assert_allclose(head_to_torso(narrow), head_to_torso(PERSON), rtol=0.2)
    bust = np.where(np.isin(np.arange(17), np.arange(7))[:, None], PERSON, np.nan)
    np.testing.assert_allclose(head_to_torso(bust), head_to_torso(PERSON), rtol=0.2)
    bust[[5, 6], 0] = bust[[5, 6], 0].mean() + [-1, 1]  # sideways and without hips nothing tells
    assert np.isnan(head_to_torso(bust))
