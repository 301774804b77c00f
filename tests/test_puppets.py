"""Drawn figures: what is drawn is where the keypoints say, at any similarity."""

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("torch")
pytest.importorskip("diffusers")

from tpc_fast.diffusion.models import puppet_figures as puppets  # noqa: E402
from tpc_fast.ops.procrustes import Similarity  # noqa: E402

SIZE = (72, 64)


def figures(seed, count=6, scale=16.0, angle=0.0):
    """Poses, looks and keypoints of figures in the middle of the picture."""
    rng = np.random.default_rng(seed)
    cos, sin = scale * np.cos(angle), scale * np.sin(angle)
    matrix = np.array([[cos, -sin, 32], [sin, cos, 38]])
    angles, looks = puppets.random_angles(rng, count), puppets.Looks.random(rng, count)
    return rng, looks, puppets.pose_figure(angles, np.repeat(matrix[None], count, 0))


@pytest.mark.parametrize("seed", range(3))
def test_keypoints_lie_on_the_figure(seed):
    size = 144, 128
    _, looks, points = figures(seed, scale=32.0)
    points += (32, 38)
    _, mask = puppets.draw_figures(points, looks, size)
    pose = puppets.draw_poses(points, size)
    x, y = np.rint(points).astype(int).transpose(2, 0, 1)
    inside = (x >= 0) & (x < size[1]) & (y >= 0) & (y < size[0])
    which = np.nonzero(inside)[0]
    assert inside.mean() > 0.8
    # The nearest pixel's centre is at most 0.71 pixels off; ears, the outermost, are 0.96 from the edge of the head.
    assert (mask[which, y[inside], x[inside]] >= 0.75 - 1e-3).all()
    assert (pose.max(1)[which, y[inside], x[inside]] > 0.3).all()


def test_the_left_is_the_figures_left():
    """COCO's left is on the right of the picture, for every pair; heads are above, feet below."""
    points = puppets.pose_figure(np.zeros((1, 10)), np.array([[[16.0, 0, 32], [0, 16, 38]]]))[0]
    pairs = np.array([(1, 2), (3, 4), (5, 6), (7, 8), (9, 10), (11, 12), (13, 14), (15, 16)])
    assert (points[pairs[:, 0], 0] > points[pairs[:, 1], 0]).all()
    heights = points[[0, 5, 11, 13, 15], 1]
    assert (np.diff(heights) > 0).all()
    torso = np.linalg.norm(points[[5, 6]].mean(0) - points[[11, 12]].mean(0))
    assert torso == pytest.approx(16)


def test_a_similarity_of_the_keypoints_is_one_of_the_drawing():
    """Drawn anew, or warped: they differ at edges only, by what the warp blurs there.

    The worst of 720 figures: 0.017 of the mask, 0.03 in the median of the colours and 0.06 in their mean.
    """
    from tpc_fast import WarpSource

    _, looks, points = figures(7, 4, scale=32.0)
    points += (32, 38)
    large = 144, 128
    picture, mask = puppets.draw_figures(points, looks, large)
    for scale, angle, shift in ((0.5, 0.0, (1.3, 0.2)), (0.6, 2.0, (-3, 4)), (0.8, -1.2, (4, -2))):
        move = Similarity.from_scale_angle(scale, angle, np.array([64.0, 76]), np.array([32.0, 38]) + shift)
        again, mask_again = puppets.draw_figures(move.apply(points), looks, SIZE)
        for i in range(len(points)):
            source = WarpSource(np.rint(picture[i].transpose(1, 2, 0) * 255).astype(np.uint8),
                                np.rint(mask[i] * 255).astype(np.uint8))  # fmt: skip
            ground = tuple(int(x) for x in np.rint(looks.colours[i, 0] * 255))
            warped = source.warp(move.matrix[None], SIZE, "bilinear", antialias=True, background=ground)
            drawn = again[i].transpose(1, 2, 0) * 255
            error = abs(warped.image[0, 0].astype(float) - drawn).max(-1) / 255
            covered = warped.mask[0, 0] / 255
            assert abs(covered - mask_again[i]).mean() < 0.03
            inside = (covered == 1) & (mask_again[i] == 1)
            assert np.median(error[inside]) < 0.05
            assert error[inside].mean() < 0.1


def test_looks_change_nothing_but_colours():
    rng, looks, points = figures(11)
    _, mask = puppets.draw_figures(points, looks, SIZE)
    other, again = puppets.draw_figures(points, puppets.Looks.random(rng, len(points)), SIZE)
    np.testing.assert_array_equal(mask, again)
    assert other.min() >= 0
    assert other.max() <= 1


def test_pairs_are_alike_as_far_as_asked():
    rng = np.random.default_rng(3)
    same = puppets.draw_pairs(rng, 3, 2, (64, 64), 0.0)
    assert same.target.shape == (6, 3, 64, 64)
    other = puppets.draw_pairs(np.random.default_rng(3), 3, 2, (64, 64), 1.0)
    far, near = (abs(p.target - np.repeat(p.reference, 2, 0)).mean() for p in (other, same))
    assert near < 0.5 * far
    np.testing.assert_array_equal(same.reference, other.reference)


def test_nobody_is_drawn():
    looks = puppets.Looks.random(np.random.default_rng(0), 0)
    picture, mask = puppets.draw_figures(np.zeros((0, 17, 2)), looks, SIZE)
    assert picture.shape == (0, 3, *SIZE)
    assert mask.shape == (0, *SIZE)


def test_bad_input():
    looks = puppets.Looks.random(np.random.default_rng(0), 1)
    for points in (np.zeros((17, 2)), np.zeros((1, 16, 2)), np.full((1, 17, 2), np.nan)):
        with pytest.raises(ValueError, match=r"keypoints must be finite \[N, 17, 2\], but is"):
            puppets.draw_figures(points, looks, SIZE)
    with pytest.raises(ValueError, match="shoulders apart from hips"):
        puppets.draw_poses(np.zeros((1, 17, 2)), SIZE)
    with pytest.raises(ValueError, match="looks must be of 2 figures, but is of 1"):
        puppets.draw_figures(figures(0, 2)[2], looks, SIZE)
