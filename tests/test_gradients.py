"""Gradients, `torch.func` and `torch.compile` on the CPU."""

import functools

import numpy as np
import pytest

from tpc_fast import Similarity, _dispatch, fit_similarity, search_subset

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch


def problem(rng, batch=(3,), points=5, dims=2):
    """Points, noisy images of them under a similarity, and weights, float64."""
    x = rng.normal(size=(*batch, points, dims)) * 30
    y = 1.4 * x[..., ::-1] * ([1, -1] if dims == 2 else [1, 1, -1]) + rng.normal(size=x.shape) + 7
    return torch.tensor(x), torch.tensor(y), torch.tensor(rng.random((*batch, points)) + 0.5)


def numbers(found):
    return found.scale, found.rotation, found.translation, found.residual


@pytest.mark.parametrize("dims", [2, 3])
@pytest.mark.parametrize("backend", ["cpu", "naive"])
def test_fits_are_differentiable(rng, dims, backend):
    x, y, w = (a.requires_grad_() for a in problem(rng, dims=dims))
    fit = functools.partial(fit_similarity, backend=backend)
    assert torch.autograd.gradcheck(lambda *a: numbers(fit(*a)), (x, y, w), fast_mode=backend == "naive")
    assert torch.autograd.gradcheck(lambda *a: numbers(fit(*a)), (x, y), fast_mode=True)


def test_fits_are_twice_differentiable(rng):
    inputs = [a.requires_grad_() for a in problem(rng, (2,), 4)]
    assert torch.autograd.gradgradcheck(lambda *a: numbers(fit_similarity(*a)), inputs, fast_mode=True)


def test_missing_points_and_fits_that_are_not_ok(rng):
    x, y, w = problem(rng)
    x[0, 1] = float("nan")
    y[1] = y[1, :1]  # all in one place
    inputs = [a.requires_grad_() for a in (x, y, w)]
    found = fit_similarity(*inputs)
    assert found.ok.tolist() == [True, False, True]
    (found.scale.sum() + found.rotation.sum() * 2 + found.translation.sum()).backward()
    for a in inputs:
        assert torch.isfinite(a.grad).all()
    assert not any(a.grad[0, 1].any() for a in inputs)
    share = w[1].detach() / w[1].detach().sum()  # of a shift
    np.testing.assert_allclose(y.grad[1], share[:, None].expand(5, 2), rtol=1e-9)
    np.testing.assert_allclose(x.grad[1], -share[:, None].expand(5, 2), rtol=1e-9)


def test_a_fit_shared_by_many_collects_their_gradients(rng):
    x, y, _ = problem(rng, (4,))
    x = x[0].requires_grad_()
    fit_similarity(x, y).scale.sum().backward()
    total = sum(torch.autograd.grad(fit_similarity(x, one).scale, x)[0] for one in y)
    np.testing.assert_allclose(x.grad, total, rtol=1e-9)


def test_the_same_numbers_with_and_without_a_gradient(rng):
    x, y, w = problem(rng)
    plain = fit_similarity(x, y, w)
    wanted = fit_similarity(x.clone().requires_grad_(), y, w)
    for a, b in zip(numbers(plain), numbers(wanted), strict=True):
        assert torch.equal(a, b.detach())
        assert b.requires_grad
    with pytest.raises(ValueError, match="weights must be finite and >= 0"):
        fit_similarity(x.clone().requires_grad_(), y, -w)


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode])
def test_tensors_that_want_a_gradient_work_where_none_is_recorded(rng, mode):
    x, y, w = (a.requires_grad_() for a in problem(rng, points=17))
    with mode():
        found, chosen = fit_similarity(x, y, w), search_subset(x, y, weights=w)
        doubled = fit_similarity(x * 2, y)  # made inside: under inference_mode, an inference tensor
    assert not any(fit.scale.requires_grad for fit in (found, chosen.fit))
    np.testing.assert_allclose(doubled.scale * 2, fit_similarity(x.detach(), y.detach()).scale)
    with pytest.raises(TypeError, match=r"search_subset computes no gradient.*src.detach"):
        search_subset(x, y)


def test_fits_under_vmap_and_grad(rng):
    x, y, w = problem(rng, (5,))
    expected = numbers(fit_similarity(x, y, w))
    mapped = torch.func.vmap(lambda *given: numbers(fit_similarity(*given)))(x, y, w)
    for a, b in zip(mapped, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    shared = torch.func.vmap(lambda y: fit_similarity(x[0], y).scale)(y)
    np.testing.assert_allclose(shared, fit_similarity(x[0], y).scale, rtol=1e-12)

    def loss(x, y, w):
        return fit_similarity(x, y, w).scale

    got = torch.func.vmap(torch.func.grad(loss))(x, y, w)
    known = x.clone().requires_grad_()
    fit_similarity(known, y, w).scale.sum().backward()
    np.testing.assert_allclose(got, known.grad, rtol=1e-9)
    nothing = torch.func.vmap(lambda x, y: fit_similarity(x, y).scale)(x[:, None][:, :0], y[:, None][:, :0])
    assert nothing.shape == (5, 0)


@pytest.mark.slow
def test_fits_compile(rng):
    x, y, w = problem(rng)

    def path(x, y, w):
        found = fit_similarity(x, y, w)
        return found.scale * 2 + found.residual, found.matrix, found.inverse().apply(y)

    compiled = torch.compile(path, fullgraph=True, backend="aot_eager")
    for a, b in zip(compiled(x, y, w), path(x, y, w), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-12)
    known = x.clone().requires_grad_()
    compiled(known, y, w)[0].sum().backward()
    (expected,) = torch.autograd.grad(path(known, y, w)[0].sum(), known)
    np.testing.assert_allclose(known.grad, expected, rtol=1e-12)


@pytest.mark.slow
def test_fits_are_registered_as_they_behave(rng):
    from tpc_fast.ops import registered

    x, y, w = problem(rng)
    for arguments in ((x, y, w, False), (x.clone().requires_grad_(), y, None, True)):
        torch.library.opcheck(registered._fit_operation, arguments)


def test_nothing_goes_through_torch_that_need_not():
    x = torch.zeros(3, 2)
    needs = _dispatch.needs_torch
    assert not needs(x, None, np.zeros(3))
    assert not needs(np.zeros(3))
    assert needs(None, x.clone().requires_grad_())
    assert Similarity.from_matrix(np.eye(2, 3)).scale == 1
