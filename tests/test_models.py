"""What holds for every model: laws of calibrated references, loaders of the published files, refusals."""

import dataclasses

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

from params import slow  # noqa: E402
from scene import PERSON, scene  # noqa: E402

import tpc_fast  # noqa: E402
from tpc_fast.diffusion import apply_calibration, load_pipeline, remove_calibration  # noqa: E402
from tpc_fast.diffusion.models.registry import MODELS, is_tiny, recognise  # noqa: E402

KINDS = [kind for kind in MODELS if kind != "wan-animate"]  # which has its own tests
GUIDED = "champ", "musepose"  # AnimateAnyone but for their guides, steps and noise levels
FRAMES, SIZE = 4, (80, 64)


@pytest.fixture(scope="module")
def calibration():
    image, mask, driving, keypoints, masks, _ = scene(np.random.default_rng(1), FRAMES)
    return tpc_fast.calibrate(image, driving, size=SIZE, reference_keypoints=PERSON, reference_mask=mask,
                              driving_keypoints=keypoints, driving_masks=masks)  # fmt: skip


@pytest.fixture(scope="module", params=[kind for kind in KINDS if kind not in GUIDED])
def pipe(request):
    """One of each class."""
    return load_pipeline(f"tiny-random:{request.param}")


@pytest.fixture
def reference(pipe, calibration):
    return pipe.encode_reference(calibration, group_size=2)


def pose_videos(pipe, seed=2):
    videos = np.random.default_rng(seed).integers(0, 256, (len(pipe.videos), FRAMES, *SIZE, 3), np.uint8)
    return dict(zip(pipe.videos, videos, strict=True)) if len(pipe.videos) > 1 else videos[0]


def run(pipe, reference, **options):
    options = dict(pose_video=pose_videos(pipe), num_inference_steps=1, window=4, overlap=0, output_type="latent",
                   group_size=2, generator=torch.Generator().manual_seed(0)) | options  # fmt: skip
    return pipe(reference, **options).frames


def predict(pipe, reference):
    """One prediction of all parts for all frames."""
    pipe._guidance_scale = pipe.guidance
    pipe.scheduler.set_timesteps(4)
    config = pipe.vae.config
    size = [side // 2 ** (len(config.block_out_channels) - 1) for side in SIZE]
    latents = torch.randn(1, config.latent_channels, FRAMES, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        text = pipe._text("", "", None, None, reference, "cpu")
        follow = pipe._follow(pose_videos(pipe), reference, 1.0, "cpu")
        return pipe._predict(latents, torch.tensor(500), text, follow, reference)


def same_as_reference(reference):
    """The calibrated images are the reference itself, and masks are full."""
    full = {name: torch.full_like(getattr(reference, name), 255) for name in ("pose_masks", "calibrated_masks")}
    images = reference.latent[None].expand_as(reference.calibrated_latents).clone()
    every = dict(valid=None, reference_valid=None)
    return dataclasses.replace(reference, calibrated_latents=images, **full, **every)


def nobody(reference):
    """The reference alone."""
    none = {name: getattr(reference, name)[:0]
            for name in ("pose_masks", "calibrated_masks", "calibrated_latents", "reference_masks")}  # fmt: skip
    return dataclasses.replace(reference, **none, valid=None, reference_valid=None)


@pytest.mark.parametrize("kind", [*(kind for kind in KINDS if kind not in GUIDED), *slow(*GUIDED)])
def test_a_reference_calibrated_to_itself_changes_nothing(kind, calibration):
    """With full masks, every query sees the whole reference once, as without calibration."""
    pipe, results = load_pipeline(f"tiny-random:{kind}"), []
    reference = pipe.encode_reference(calibration, group_size=2)
    for given in (nobody(reference), same_as_reference(reference), reference):
        apply_calibration(pipe, given, group_size=2)
        torch.manual_seed(0)
        results.append(predict(pipe, given))
        remove_calibration(pipe)
    alone, same, calibrated = results
    torch.testing.assert_close(same, alone, rtol=0, atol=1e-4 * float(alone.std()))
    assert (calibrated - alone).abs().max() > 1e-3 * alone.std()


def test_off_and_detached_are_bit_identical(pipe, reference):
    def go():
        torch.manual_seed(0)
        return predict(pipe, reference)

    adapter = pipe.reference_adapter()
    attentions = [attention for _, attention in adapter.sites().values()]
    processors = [attention.processor for attention in attentions]
    plain = go()
    state = apply_calibration(pipe, reference, group_size=2)
    on = go()
    assert not torch.equal(on, plain)
    state.enabled = False
    assert torch.equal(go(), plain)
    state.enabled = True
    state.reset()
    assert torch.equal(go(), on)
    remove_calibration(pipe)
    assert torch.equal(go(), plain)
    assert [attention.processor for attention in attentions] == processors
    for reader, _ in adapter.sites().values():
        assert not reader._forward_hooks
        assert not reader._forward_pre_hooks


@pytest.mark.slow
def test_two_adapters_share_nothing(pipe, reference, calibration):
    other = type(pipe).from_pretrained("tiny-random")
    plain = predict_seeded(other, reference)
    state = apply_calibration(pipe, reference, group_size=2)
    alone = predict_seeded(pipe, reference)
    assert torch.equal(predict_seeded(other, reference), plain)
    second = apply_calibration(other, nobody(reference), group_size=2)
    state.reset()
    assert torch.equal(predict_seeded(pipe, reference), alone)
    assert second is not state
    assert second.encoded == 0
    remove_calibration(pipe)
    remove_calibration(other)
    assert torch.equal(predict_seeded(other, reference), plain)


def predict_seeded(pipe, reference):
    torch.manual_seed(0)
    return predict(pipe, reference)


def test_a_video_comes_out(pipe, calibration):
    frames = run(pipe, calibration, output_type="np", guidance_scale=None)
    assert frames.shape == (FRAMES, *SIZE, 3)
    assert frames.dtype == np.uint8
    assert frames.std() > 1
    assert not hasattr(pipe.unet, "_tpc_fast_calibration")


@pytest.mark.slow
def test_every_input_matters(pipe, reference, calibration):
    plain = run(pipe, reference)
    scale = (2.0, 1.5) if isinstance(pipe.guidance, tuple) else 2.0
    other_scale = 3.0 if pipe.guidance == 1 else 1.0
    for change in ({"pose_video": pose_videos(pipe, 3)}, {"guidance_scale": scale}, {"guidance_scale": other_scale},
                   {"controlnet_conditioning_scale": 0.5}):  # fmt: skip
        assert not torch.equal(run(pipe, reference, **change), plain), change
    other = dataclasses.replace(reference, calibrated_latents=reference.calibrated_latents.flip(-1))
    assert not torch.equal(run(pipe, other), plain)


def test_images_are_encoded_as_often_as_the_model_asks(pipe, reference):
    """Once per run and candidate, or at every step."""
    seen = []
    adapter = pipe.reference_adapter()
    encode = type(adapter).encode

    def counted(self, features, *rest):
        seen.append(len(features))
        return encode(self, features, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(adapter), "encode", counted)
        run(pipe, reference, num_inference_steps=3, mode="nearest")
    images = 1 + reference.persons * FRAMES // 2
    assert sum(seen) == images * (1 if adapter.refresh == "once" else 3)


def test_wrong_references_and_canvases(pipe, reference, calibration):
    wrong = torch.zeros(1, 3, 10, 8) if reference.latent.ndim == 4 else torch.zeros(1, 5, 6)
    images = wrong.expand(reference.persons, FRAMES, *wrong.shape[1:])
    wrong = dataclasses.replace(reference, latent=wrong, calibrated_latents=images)
    with pytest.raises(ValueError, match="reference must have"):
        apply_calibration(pipe, wrong)
    with pytest.raises(ValueError, match="size must be"):
        pipe.reference_adapter().canvas((81, 64))
    with pytest.raises((ValueError, TypeError), match="pose_video"):
        run(pipe, reference, pose_video=np.zeros((2, 4, 4, 3), np.uint8))


def test_nobody_to_calibrate(calibration):
    from tpc_fast.diffusion import CalibratedReference

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(calibration), "persons", property(lambda self: 0))
        with pytest.raises(ValueError, match="calibration must have a person, but has none"):
            CalibratedReference.from_calibration(calibration, load_pipeline("tiny-random").vae)


def test_kinds_are_recognised(tmp_path):
    marks = {
        "champ": "guidance_encoder_depth.pth", "musepose": "MusePose/denoising_unet.pth",
        "animate-anyone": "pose_guider.pth", "magic-animate": "MagicAnimate/x", "dreampose": "unet_epoch_3.pth",
        "disco": "mp_rank_00_model_states.pt",
    }  # fmt: skip
    for kind, mark in marks.items():
        path = tmp_path / kind / mark
        path.parent.mkdir(parents=True)
        path.touch()
        assert recognise(tmp_path / kind) == (kind, str(tmp_path / kind))
    (tmp_path / "wan").mkdir()
    (tmp_path / "wan" / "model_index.json").write_text('{"_class_name": "WanAnimatePipeline"}')
    assert recognise(tmp_path / "wan")[0] == "wan-animate"
    assert recognise("patrolli/AnimateAnyone") == ("animate-anyone", "patrolli/AnimateAnyone")
    assert recognise("zcxu-eric/MagicAnimate")[0] == "magic-animate"
    assert recognise("champ:some/where") == ("champ", "some/where")
    assert recognise("tiny-random") == ("magic-animate", "tiny-random")
    assert recognise("tiny-random:disco") == recognise("disco:tiny-random") == ("disco", "tiny-random")
    assert all(is_tiny(model) for model in ("tiny-random", "tiny-random:disco", "disco:tiny-random"))
    assert not is_tiny("disco:some/where")
    with pytest.raises(ValueError, match="tiny-random: and one of"):
        recognise("tiny-random:sora")
    (tmp_path / "empty").mkdir()
    with pytest.raises(FileNotFoundError, match="of no known kind; it must hold one of"):
        recognise(tmp_path / "empty")
