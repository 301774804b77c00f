"""Iterative propagation: frames share calibrated features in groups, with one representative per group and step."""

import operator

import numpy as np

from tpc_fast import _checks
from tpc_fast._dispatch import is_torch

MODES = ("random", "first", "nearest")
GROUP_SIZE, MODE = 4, "random"  # what is taken where nothing is asked; the mode is the paper's


class PropagationPlan:
    """Which frames share a calibrated feature, and whose feature it is at every denoising step.

    The F frames of a video are cut into G = ceil(F / group_size) groups of consecutive frames, the last one maybe
    shorter. Groups belong to the video: a window reads the groups that it touches. At every step one frame of a group
    represents it, with its calibrated image *and* its calibrated mask.

    Args:
        num_frames: F, at least 1.
        group_size: frames per group, at least 1; 1 gives every frame its own feature.
        mode: "random" draws a representative per group and step (the paper); "first" keeps the group's first frame
            (what the released code does); "nearest" keeps its middle frame, the nearest to all others.
        seed: of the draws, a non-negative integer.

    Attributes:
        num_frames, group_size, mode, seed: as given.
        num_groups: G.
        group_of: [F] int64, the group of every frame.
        candidates: [U] int64, the frames that may represent a group: all of them for "random", else one per group.

    Raises:
        TypeError: for counts or a seed that are not integers.
        ValueError: for counts below 1, a negative seed or an unknown mode.
    """

    def __init__(self, num_frames: int, group_size: int = 4, mode: str = "random", seed: int = 0):
        self.num_frames = _integer(num_frames, "num_frames", 1)
        self.group_size = _integer(group_size, "group_size", 1)
        self.seed = _integer(seed, "seed", 0)
        if mode not in MODES:
            raise ValueError(f"mode must be one of {', '.join(MODES)}, but is {mode!r}")
        self.mode = mode
        self.group_of = np.arange(self.num_frames) // self.group_size
        self.num_groups = int(self.group_of[-1]) + 1
        self._starts = np.arange(self.num_groups) * self.group_size
        self._sizes = np.minimum(self.num_frames - self._starts, self.group_size)
        if mode == "random":
            self.candidates = np.arange(self.num_frames)
        else:
            self.candidates = self._starts + (0 if mode == "first" else (self._sizes - 1) // 2)

    def __repr__(self) -> str:
        return f"PropagationPlan({self.num_frames}, {self.group_size}, mode={self.mode!r}, seed={self.seed})"

    def representatives(self, step: int) -> np.ndarray:
        """[G] int64, indices into `candidates`: who represents every group at a denoising step (counted from 0).

        The same plan gives the same answer for the same step, in any order of asking.
        """
        step = _integer(step, "step", 0)
        if self.mode != "random":
            return np.arange(self.num_groups)
        # One stream per step: a step's draw does not depend on the steps before it.
        return self._starts + np.random.default_rng([self.seed, step]).integers(self._sizes)


class PropagationStream:
    """A PropagationPlan of a video without an end: groups of group_size frames, as long as they come.

    Args:
        group_size, mode, seed: see `PropagationPlan`.

    Attributes:
        group_size, mode, seed: as given.
        candidates: [u] int64, which frames of a group, counted from its first, may represent it.

    Raises:
        TypeError, ValueError: as `PropagationPlan`.
    """

    def __init__(self, group_size: int = GROUP_SIZE, mode: str = "nearest", seed: int = 0):
        self.candidates = PropagationPlan(_integer(group_size, "group_size", 1), group_size, mode, seed).candidates
        self.group_size, self.mode, self.seed = group_size, mode, seed

    def representative(self, group: int, step: int) -> int:
        """Index into `candidates`: who represents a group of the video at a denoising step (both counted from 0).

        The same answer in any order of asking. For "random" not that of a PropagationPlan with this seed, whose draws
        are one stream per step.
        """
        group, step = _integer(group, "group", 0), _integer(step, "step", 0)
        if self.mode != "random":
            return 0
        return int(np.random.default_rng([self.seed, step, group]).integers(self.group_size))


def propagate(features, plan: PropagationPlan, step: int, axis: int = 0):
    """The features of a step's representatives; frame f reads number `plan.group_of[f]` of them.

    Nothing is repeated: G features serve F frames, and readers find theirs by index.

    Args:
        features: array or tensor whose `axis` has the U candidates of `plan`, in their order.
        plan: the PropagationPlan.
        step: the denoising step, from 0.
        axis: which axis of features is U.

    Returns:
        features with G along `axis`, of the kind and on the device that features are.

    Raises:
        ValueError: if features has not U along `axis`.
    """
    if not hasattr(features, "shape"):
        raise TypeError(f"features must be an array or a tensor, but is {_checks.describe(features)}")
    count = len(plan.candidates)
    if not -len(features.shape) <= axis < len(features.shape) or features.shape[axis] != count:
        raise ValueError(
            f"features must have the {count} candidates of the plan along axis {axis}, "
            f"but is {_checks.describe(features)}"
        )
    index = plan.representatives(step)
    if is_torch(features):
        import torch

        return features.index_select(axis, torch.from_numpy(index).to(features.device))
    return np.take(features, index, axis)


def _integer(value, name, least) -> int:
    try:
        value = operator.index(value)
    except TypeError:
        raise TypeError(f"{name} must be an integer, but is {_checks.describe(value)}") from None
    if value < least:
        raise ValueError(f"{name} must be at least {least}, but is {value}")
    return value
