"""What a user of torch tries: odd tensors, forgotten options, results in torch's own tools."""

import copy
import pickle

import numpy as np
import pytest

from tpc_fast import fit_similarity, search_subset, warp_composite
from tpc_fast.ops.warp import WarpSource

torch = pytest.importorskip("torch", reason="torch comes with extra 'torch'")
pytestmark = pytest.mark.torch


@pytest.fixture
def points(rng):
    x = rng.normal(size=(3, 17, 2)) * 60
    return torch.from_numpy(x), torch.from_numpy(x * 1.5 + rng.normal(size=x.shape))


@pytest.fixture
def photo(rng):
    image, mask = (torch.from_numpy(rng.integers(0, 256, s, np.uint8)) for s in ((9, 7, 3), (9, 7)))
    return image, mask, torch.eye(2, 3)[None] * 0.9


@pytest.mark.parametrize("tolerance", [torch.tensor(5.0), np.float32(5), np.int64(5), torch.tensor(5), [5.0] * 17])
def test_one_tolerance_in_any_form(points, tolerance):
    assert search_subset(*points, tolerance) == search_subset(*points, 5.0)
    if isinstance(tolerance, np.generic):
        x, y = (p.numpy() for p in points)
        assert search_subset(x, y, tolerance) == search_subset(x, y, 5.0)


def test_a_search_has_no_gradient_and_its_fit_has(points):
    x, y = points
    known = x.clone().requires_grad_()
    for arguments in (
        {"src": known}, {"tolerance": torch.full((17,), 5.0, requires_grad=True)},
        {"weights": torch.ones(17, requires_grad=True)}, {"previous": fit_similarity(known, y)},
        {"tolerance": torch.tensor(5.0, requires_grad=True)}, {"inertia": torch.tensor(5.0, requires_grad=True)},
    ):  # fmt: skip
        with pytest.raises(TypeError, match=r"search_subset computes no gradient.*fit_similarity\(src, dst, weights"):
            search_subset(**({"src": x, "dst": y} | arguments))
    with pytest.raises(TypeError, match=r"sigmas requires a gradient.*sigmas.detach"):
        search_subset(x, y, sigmas=torch.full((17,), 0.05, requires_grad=True))
    assert search_subset(x, y, sigmas=torch.full((17,), 0.05)) == search_subset(x, y, sigmas=np.full(17, 0.05, "f4"))
    chosen = search_subset(x, y)
    fit_similarity(known, y, chosen.members.double()).scale.sum().backward()
    assert known.grad[chosen.members].any()
    assert not known.grad[~chosen.members].any()


def test_what_torch_func_hides_is_said(points, photo):
    x, y = points
    with pytest.raises(TypeError, match=r"search_subset looks at numbers, which torch.func does not show"):
        torch.func.vmap(lambda a, b: search_subset(a, b).value)(x, y)
    source = WarpSource(*photo[:2])
    with pytest.raises(
        TypeError, match=r"matrix must be a tensor whose numbers can be seen, but is one inside torch.func"
    ):
        torch.func.vmap(lambda m: source.warp(m, 8).image)(photo[2][None])
    with pytest.raises(TypeError, match=r"which a WarpSource of bytes has none for: call warp_composite"):
        source.warp(photo[2].clone().requires_grad_(), 8)
    with torch.no_grad():
        source.warp(photo[2].clone().requires_grad_(), 8)


def test_tensors_that_are_not_dense(points):
    x, y = points
    with pytest.raises(TypeError, match=r"src must be a dense tensor: pass it.to_dense\(\)"):
        fit_similarity(x[0].to_sparse(), y[0])
    ragged = torch.nested.nested_tensor([x[0], x[1][:5]], layout=torch.jagged)
    with pytest.raises(TypeError, match=r"src must be a dense tensor: pass torch.nested.to_padded_tensor\(it"):
        fit_similarity(ragged, ragged)
    padded = torch.nested.to_padded_tensor(ragged, float("nan"))
    np.testing.assert_allclose(fit_similarity(padded, padded).scale, 1, rtol=1e-12)


@pytest.mark.parametrize("count", [0, 1, 2])
@pytest.mark.parametrize("missing", [False, True])
def test_few_points_and_none(points, count, missing):
    x, y = (p[:, :count].clone() for p in points)
    if missing:
        x[:] = float("nan")
    known = x.requires_grad_()
    found = fit_similarity(known, y)
    assert found.ok.tolist() == [count == 2 and not missing] * 3
    found.matrix.sum().backward()
    assert torch.isfinite(known.grad).all()
    chosen = search_subset(x.detach(), y, 5.0)
    assert chosen.weak.all()
    assert torch.isfinite(chosen.fit.matrix).all()


def test_channels_first_of_any_strides(photo):
    image, mask, matrix = photo
    want = warp_composite(image, mask, matrix, 8, background=3)
    first = image.permute(2, 0, 1)
    for given in (first, first.contiguous()):
        found = warp_composite(given, mask, matrix, 8, background=3, layout="CHW")
        assert torch.equal(found.image, want.image.movedim(-1, -3))
        assert torch.equal(found.composite, want.composite.movedim(-1, -3))
    for given in (first[None], first[None].contiguous(memory_format=torch.channels_last)):
        found = warp_composite(given, mask[None], matrix[None], 8, layout="CHW", samples=True)
        assert torch.equal(found.image[0], want.image.movedim(-1, -3))
    halves = warp_composite((first / 255).half(), (mask / 255).half(), matrix, 8, layout="CHW")
    assert halves.image.dtype == torch.float16
    # Half a level of rounding to bytes, 0.07 of the core of bytes, and twice 2^-11 of halves in and out.
    limit = (0.57 + 2 * 255 * 2**-11) / 255
    assert (halves.image.float() - want.image.movedim(-1, -3).float() / 255).abs().max() < 2 * limit
    turned = warp_composite(image.numpy()[::-1, ::-1], mask.numpy()[::-1], matrix.numpy(), 8)
    assert (
        turned.image == warp_composite(image.numpy()[::-1, ::-1].copy(), mask.numpy(), matrix.numpy(), 8).image
    ).all()


def test_a_floating_mask_beside_bytes(photo):
    """Both are what the arguments say they may be; the result is of the image's kind."""
    image, mask, matrix = photo
    want = warp_composite(image, mask, matrix, 8, background=0)
    for given in (image, mask / 255, matrix), (image / 255, mask, matrix):
        found = warp_composite(*given, 8, background=0, dtype="uint8")
        for a, b in zip(found, want, strict=True):
            assert a.dtype == torch.uint8
            assert (a.int() - b.int()).abs().max() <= 1
    assert warp_composite(image, mask / 255, matrix, 8).image.dtype == torch.uint8
    assert WarpSource(image, mask / 255).warp(matrix, 8).image.dtype == torch.uint8


def test_forgotten_options_are_guessed(photo):
    image, mask, matrix = photo
    many = [a[None].repeat(4, *[1] * a.ndim) for a in photo]
    with pytest.raises(ValueError, match=r"image must be \[H, W, C\].*channels first are layout=\"CHW\""):
        warp_composite(image.permute(2, 0, 1), mask, matrix, 8)
    for image_of, mask_of in ((many[0], many[1]), (many[0] / 255, many[1] / 255)):
        with pytest.raises(ValueError, match=r"matrix must be .*but is Tensor of shape \(4, 1, 2, 3\).*samples=True"):
            warp_composite(image_of, mask_of, many[2], 8)
    with pytest.raises(ValueError, match=r"matrix must be \[N, F, 2, 3\].*of one frame each, matrix\[:, None\]"):
        warp_composite(*many[:2], many[2][:, 0], 8, samples=True)
    with pytest.raises(TypeError, match=r"image must be uint8, or floating in 0..1, but is .*int64"):
        warp_composite(image.long(), mask, matrix, 8)


def test_nothing_at_all(photo):
    image, mask, matrix = photo
    for one in (image, image / 255):
        of_mask = mask if one is image else mask / 255
        none = warp_composite(one, of_mask, matrix[:0], 8, background=0)
        assert [a.shape[0] for a in none] == [0, 0, 0]
        none = warp_composite(one[None][:0], of_mask[None][:0], matrix[None][:0], 8, samples=True)
        assert none.image.shape == (0, 1, 1, 8, 8, 3)
        with pytest.raises(ValueError, match=r"mask must be .*shape \(0, 9, 7\)"):  # of no person
            warp_composite(one, of_mask[None][:0], matrix[:, None][:, :0], 8)


def test_results_in_the_tools_of_torch(points, tmp_path):
    found = search_subset(*points)
    for other in (copy.deepcopy(found), pickle.loads(pickle.dumps(found)), found.to("cpu", torch.float64)):
        assert other == found
    torch.save(found, tmp_path / "found.pt")
    assert torch.load(tmp_path / "found.pt", weights_only=True) == found
    assert found.to(torch.float16).fit.scale.dtype == torch.float16
    with pytest.raises(TypeError, match=r"to\(\) takes a floating dtype, but torch.int64 would round a Fit"):
        found.to(torch.int64)


@pytest.mark.slow
def test_a_search_within_a_compiled_function(points):
    """5 s. It breaks the graph, and what is around it is compiled."""
    x, y = points
    compiled = torch.compile(lambda a, b: search_subset(a * 2, b).fit.scale * 2, backend="eager")
    np.testing.assert_allclose(compiled(x, y), search_subset(x * 2, y).fit.scale * 2, rtol=1e-12)
