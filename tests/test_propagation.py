import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import tpc_fast
from tpc_fast import naive
from tpc_fast.ops.propagation import MODES, PropagationPlan, propagate


@given(st.integers(1, 60), st.integers(1, 70), st.sampled_from(MODES), st.integers(0, 2**40), st.integers(0, 1000))
def test_groups_and_representatives(frames, size, mode, seed, step):
    plan = PropagationPlan(frames, size, mode, seed)
    assert plan.num_groups == -(-frames // size)
    assert plan.group_of.tolist() == [frame // size for frame in range(frames)]
    assert len(plan.candidates) == (frames if mode == "random" else plan.num_groups)
    drawn = plan.candidates[plan.representatives(step)]
    assert plan.group_of[drawn].tolist() == list(range(plan.num_groups))  # one of each group, in order
    for group, frame in enumerate(drawn):
        members = np.flatnonzero(plan.group_of == group)
        if mode == "first":
            assert frame == members[0]
        if mode == "nearest":  # no other member has its farthest one nearer
            assert max(abs(members - frame)) == min(max(abs(members - other)) for other in members)


def test_draws_change_with_step_and_seed_and_repeat():
    plan = PropagationPlan(40, 4)
    steps = [tuple(plan.representatives(step)) for step in range(25)]
    assert len(set(steps)) == 25
    again = PropagationPlan(40, 4)
    assert [tuple(again.representatives(step)) for step in reversed(range(25))] == steps[::-1]
    assert tuple(PropagationPlan(40, 4, seed=1).representatives(0)) != steps[0]
    counts = np.bincount([draw[3] - 12 for draw in (plan.representatives(step) for step in range(2000))], minlength=4)
    assert (abs(counts - 500) < 100).all()  # all members alike: five standard deviations


@pytest.mark.parametrize("mode", MODES)
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_propagate_agrees_with_naive(rng, mode, kind):
    plan = PropagationPlan(11, 3, mode, seed=5)
    features = rng.normal(size=(2, len(plan.candidates), 3, 4))
    given_features = features
    if kind == "torch":
        given_features = pytest.importorskip("torch").from_numpy(features)
    got = propagate(given_features, plan, 7, axis=1)
    assert type(got) is type(given_features)
    assert got.shape == (2, 4, 3, 4)  # G, not F
    for person in range(2):
        expected = naive.propagate(features[person], plan.group_of, plan.representatives(7))
        np.testing.assert_array_equal(np.asarray(got)[person][plan.group_of], expected)


@pytest.mark.parametrize(
    ("arguments", "error", "said"),
    [
        ((0,), ValueError, "num_frames must be at least 1, but is 0"),
        ((5, 0), ValueError, "group_size must be at least 1, but is 0"),
        ((5, 1.5), TypeError, "group_size must be an integer, but is float 1.5"),
        ((5, 4, "last"), ValueError, "mode must be one of random, first, nearest, but is 'last'"),
        ((5, 4, "first", -1), ValueError, "seed must be at least 0, but is -1"),
    ],
)
def test_bad_plans_are_refused(arguments, error, said):
    with pytest.raises(error, match=said):
        PropagationPlan(*arguments)


def test_bad_calls_are_refused():
    plan = PropagationPlan(5, 2, "first")
    with pytest.raises(ValueError, match="features must have the 3 candidates of the plan along axis 0"):
        propagate(np.zeros((5, 2)), plan, 0)
    with pytest.raises(TypeError, match="features must be an array or a tensor"):
        propagate([1, 2, 3], plan, 0)
    with pytest.raises(ValueError, match="step must be at least 0"):
        plan.representatives(-1)


def test_names_are_public():
    assert tpc_fast.PropagationPlan is PropagationPlan
    assert tpc_fast.propagate is propagate
