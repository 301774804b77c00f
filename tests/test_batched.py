"""Fits as one result: indexed, iterated, compared, moved, stacked, pickled."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
from numpy.testing import assert_array_equal

from tpc_fast import Similarity, fit_similarity, search_subset
from tpc_fast.ops.transforms import search_transform


def test_indexing_and_iterating(rng):
    x, y = rng.normal(size=(2, 3, 4, 6, 2))
    found = fit_similarity(x, y)
    assert len(found) == 3
    for index in (1, (2, 3), (..., 1), slice(1, 3), (slice(None), 2), np.array([2, 0]), np.ones((3, 4), bool)):
        part = found[index]
        assert type(part) is type(found)
        assert_array_equal(part.scale, found.scale[index])
        assert part.rotation.shape == (*np.shape(part.scale), 2, 2)
        assert part.matrix.shape == (*np.shape(part.scale), 2, 3)
    assert_array_equal(found[..., 1].rotation, found.rotation[:, 1])
    assert [one == found[i] for i, one in enumerate(found)] == [True] * 3
    assert len(list(found[0])) == 4
    with pytest.raises(TypeError, match="one Fit has no length"):
        len(found[0, 0])
    with pytest.raises(IndexError, match="no batch"):
        found[0, 0][0]
    with pytest.raises(TypeError, match="must not add a dimension"):
        found[None]
    assert fit_similarity(x[:0], y[:0])


def test_comparing_stacking_and_pickling(rng):
    x, y = rng.normal(size=(2, 5, 6, 2))
    found = fit_similarity(x, y)
    assert found == pickle.loads(pickle.dumps(found))
    assert found == type(found).stack(list(found))
    assert found != fit_similarity(x, y + 1)
    assert found != found[:3]
    assert found != Similarity(found.scale, found.rotation, found.translation)
    assert found != 3
    with pytest.raises(ValueError, match="results must be one result or more"):
        type(found).stack([])
    with pytest.raises(TypeError, match=r"to\(\) moves torch tensors"):
        found.to("cpu")


def test_printing(rng):
    one = Similarity.from_matrix(np.array([[2.0, 0, 3.25], [0, 2, 4]]))
    assert repr(one) == "Similarity(scale=2., rotation=[[1., 0.], [0., 1.]], translation=[3.25, 4.  ])"
    many = repr(fit_similarity(*rng.normal(size=(2, 50, 6, 2))))
    assert many.startswith("Fit(scale=float64 [50], rotation=float64 [50, 2, 2], ")
    assert many.endswith("ok=bool [50])")


@pytest.mark.torch
def test_moving_and_collating(rng):
    import torch
    from torch.utils.data import DataLoader

    x, y = (torch.tensor(a) for a in rng.normal(size=(2, 5, 6, 2)))
    found = fit_similarity(x, y)
    single = found.to(torch.float32)
    assert single.scale.dtype == torch.float32
    assert single.ok.dtype == torch.bool
    assert "scale=float32 [5] on meta" in repr(single.to("meta"))
    assert "ok=[ True" in repr(found)
    assert found.to("meta").scale.device.type == "meta"
    assert found != single.to("meta")
    (batch,) = DataLoader(list(found), batch_size=5, collate_fn=type(found).stack)
    assert batch == found


@pytest.mark.parametrize("kind", ["numpy", pytest.param("torch", marks=pytest.mark.torch)])
@pytest.mark.parametrize("model", ["similarity", "affine"])
def test_results_of_searches_are_batched_too(rng, kind, model):
    x = rng.normal(size=(5, 6, 2)) * 50
    x, y = x, x * 1.5 + rng.normal(size=x.shape)
    if kind == "torch":
        import torch

        x, y = torch.from_numpy(x), torch.from_numpy(y)
    for found in (
        search_subset(x, y, 3.0),
        search_transform(x, y, model, np.full(6, 3.0) if kind == "numpy" else x[0, :, 0] * 0 + 3),
    ):
        assert len(found) == 5
        assert type(found[2]) is type(found)
        assert type(found[2].fit) is type(found.fit)
        assert found[1:3].members.shape == (2, 6)
        assert found[1:3].fit.matrix.shape == (2, 2, 3)
        assert [one == found[i] for i, one in enumerate(found)] == [True] * 5
        assert found[0] != found[1]
        assert found == pickle.loads(pickle.dumps(found))
        assert found == type(found).stack(list(found))
        assert f"{type(found).__name__}(fit={type(found.fit).__name__}(" in repr(found)
        if kind == "torch":
            assert found.to(torch.float32).fit.matrix.dtype == torch.float32
            assert found.to(torch.float32).members.dtype == torch.bool
        else:
            with pytest.raises(TypeError, match=r"to\(\) moves torch tensors"):
                found.to("cpu")


@pytest.mark.torch
@pytest.mark.parametrize("kind", ["numpy", "torch"])
def test_a_data_loader_collates_results_by_default(rng, kind):
    import torch
    from torch.utils.data import DataLoader

    x, y = rng.normal(size=(2, 5, 6, 2))
    if kind == "torch":
        x, y = torch.from_numpy(x), torch.from_numpy(y)
    items = [{"fit": fit_similarity(a, b), "search": search_subset(a, b, 1.0)} for a, b in zip(x, y, strict=True)]
    (batch,) = DataLoader(items, batch_size=5)
    whole = fit_similarity(torch.as_tensor(x), torch.as_tensor(y))
    assert batch["fit"] == whole
    assert batch["search"] == search_subset(torch.as_tensor(x), torch.as_tensor(y), 1.0)


@pytest.mark.torch
def test_a_function_that_returns_a_result_is_mapped(rng):
    """0.1 s."""
    import torch

    x, y = (torch.from_numpy(a) for a in rng.normal(size=(2, 5, 6, 2)))
    found, whole = torch.func.vmap(fit_similarity)(x, y), fit_similarity(x, y)
    assert type(found) is type(whole)
    for a, b in zip(found._fields(), whole._fields(), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-12)
    assert torch.func.vmap(lambda fit, points: fit.apply(points))(whole, x).shape == x.shape


def test_torch_that_is_imported_later_collates_too():
    """Half a second: a process of its own, where the operations are there before torch."""
    code = """
from tpc_fast import fit_similarity
import numpy as np
x = np.random.default_rng(0).random((6, 2))
fit_similarity(x, x)
import torch.utils.data
(batch,) = torch.utils.data.DataLoader([fit_similarity(x, x)] * 3, batch_size=3)
assert batch.rotation.shape == (3, 2, 2), batch
"""
    pytest.importorskip("torch")
    subprocess.run([sys.executable, "-c", code], check=True)
