"""What the originals' scripts do beside their networks: options by default, files that they read, frames they add."""

import inspect

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
torch = pytest.importorskip("torch")
pytest.importorskip("diffusers")

import tiny  # noqa: E402
from PIL import Image  # noqa: E402
from scene import PERSON, scene  # noqa: E402

import tpc_fast  # noqa: E402
from tpc_fast.diffusion import CalibratedReference, load_pipeline  # noqa: E402
from tpc_fast.diffusion.models.dreampose import stretched  # noqa: E402
from tpc_fast.diffusion.models.registry import MODELS  # noqa: E402
from tpc_fast.output.pose_video import followed_videos  # noqa: E402

FRAMES, SIZE = 5, (80, 64)
# kind -> steps, guidance, window, overlap, whether the windows close a loop, after how many frames noise repeats
PUBLISHED = {
    "magic-animate": (25, 7.5, 16, 4, True, 16),  # configs/prompts/animation.yaml, pipelines/context.py
    "animate-anyone": (30, 3.5, 24, 4, True, None),  # scripts/pose2vid.py, pipelines/context.py
    "champ": (20, 3.5, 24, 4, True, None),  # configs/inference/inference.yaml, pipelines/context.py
    "musepose": (20, 3.5, 48, 4, False, None),  # test_stage_2.py, pipelines/context.py
    "dreampose": (100, (8.0, 3.0), 8, 0, False, 1),  # README.md, test.py; frames do not know of each other
    "disco": (50, 1.5, 8, 0, False, None),  # README.md, utils/args.py
    "disco-no-cfg": (50, 3.0, 8, 0, False, None),
}


@pytest.mark.parametrize("kind", PUBLISHED)
def test_defaults_are_those_of_the_published_code(kind):
    cls = MODELS[kind].load()
    assert PUBLISHED[kind] == (
        cls.steps, cls.guidance, cls.window, cls.overlap, cls.closed_loop, cls.noise_period
    )  # fmt: skip
    asked = inspect.signature(cls.__call__).parameters
    names = ("num_inference_steps", "guidance_scale", "window", "overlap", "closed_loop", "noise_period")
    assert all(asked[name].default is None for name in names)


@pytest.fixture(scope="module")
def calibration():
    image, mask, driving, keypoints, masks, _ = scene(np.random.default_rng(1), FRAMES)
    return tpc_fast.calibrate(image, driving, size=SIZE, reference_keypoints=PERSON, reference_mask=mask,
                              driving_keypoints=keypoints, driving_masks=masks)  # fmt: skip


def reference(frames, size=(64, 64), **changes):
    rng = np.random.default_rng(0)
    given = tiny.calibrated_reference(rng, frames=frames, latent=(8, 8))
    shapes = {"pose_masks": (1, frames), "calibrated_masks": (1, frames), "reference_masks": (1,)}
    masks = {name: torch.from_numpy(tiny.boxes(rng, *shape, size=size)) for name, shape in shapes.items()}
    return CalibratedReference(given.latent, given.calibrated_latents, **masks, **changes)


def test_windows_and_noise_of_magic_animate():
    """20 frames: the noise of the first 4 comes again, and windows go on from the end to the beginning."""
    pipe, frames, seen = load_pipeline("tiny-random:magic-animate"), 20, []
    windows = pipe._windows(frames, None, None, None)
    assert windows[:, 0].tolist() == [0, 12]
    assert windows[1].tolist() == [*range(12, 20), *range(8)]
    video = np.zeros((frames, 64, 64, 3), np.uint8)
    pipe.unet.register_forward_pre_hook(lambda module, args: seen.append(args[0]))
    latents = pipe(reference(frames), video, num_inference_steps=1, guidance_scale=1.0, output_type="latent").frames
    assert latents.shape[2] == frames
    first, second = seen
    torch.testing.assert_close(first[:, :, :4], second[:, :, 4:8])
    torch.testing.assert_close(second[:, :, 8:], first[:, :, :8])
    never = pipe._noise((1, 4, 20, 2, 2), 0, torch.Generator().manual_seed(0), "cpu")
    assert not torch.equal(never[:, :, :4], never[:, :, 16:])
    again = pipe._noise((1, 4, 20, 2, 2), None, torch.Generator().manual_seed(0), "cpu")
    assert torch.equal(again[:, :, :4], again[:, :, 16:])


@pytest.mark.parametrize(("frames", "padded"), [(3, 4), (4, 4), (5, 7), (7, 7), (8, 10)])
def test_musepose_repeats_the_last_frame_until_windows_are_whole(frames, padded):
    """By the original's formula; what is made of repetitions is cut off."""
    window, overlap = 4, 1
    assert padded == frames + (window - overlap - (frames - window) % (window - overlap)) % (window - overlap)
    pipe, seen = load_pipeline("tiny-random:musepose"), []
    windows = pipe._windows(frames, window, overlap, None)
    assert windows.max() + 1 == padded
    assert (np.diff(windows) == 1).all()
    given = reference(frames, extras={"tokens": torch.randn(1, 1, 32)})
    video = np.random.default_rng(0).integers(0, 256, (frames, 64, 64, 3), np.uint8)
    predict = pipe._predict
    pipe._predict = lambda part, t, text, follow, given: (seen.append(follow), predict(part, t, text, follow, given))[1]
    options = dict(num_inference_steps=1, window=window, overlap=overlap, output_type="latent", guidance_scale=1.0)
    latents = pipe(given, video, **options).frames
    assert latents.shape[2] == frames
    for i in range(frames, padded):  # the last window sees the last frame again
        torch.testing.assert_close(seen[-1][i - padded], seen[-1][frames - 1 - padded])


def test_every_second_frame(calibration):
    half = calibration.every(2)
    assert len(half) == 3
    assert half.fps == calibration.fps / 2
    assert np.array_equal(half.matrices, calibration.matrices[::2])
    assert np.array_equal(half.images[:], calibration.images[:][::2])
    assert np.array_equal(half.pose_masks[:], calibration.pose_masks[:][::2])
    assert half.driving_path is None
    assert calibration.every(1) is calibration
    with pytest.raises(ValueError, match=r"step must be an integer from 1 to .*, but is 0"):
        calibration.every(0)


# DreamPose


def test_dreampose_reads_the_published_arrays(calibration, tmp_path):
    """Float files [2, h, w] with numbers that have gaps and no leading zeros."""
    rng, source = np.random.default_rng(0), calibration.canvas.source
    dense = rng.random((FRAMES, 2, *source))
    for number, values in zip((2, 5, 10, 11, 100), dense, strict=True):
        np.save(tmp_path / f"frame_{number}_densepose.npy", values)
    found = followed_videos({"pose": tmp_path}, calibration)["pose"]
    assert found.shape == (FRAMES, 2, *SIZE)
    assert found.dtype == np.float32
    left, top, right, bottom = calibration.canvas.box
    inner = found[:, :, top:bottom, left:right]
    wanted = torch.nn.functional.interpolate(torch.from_numpy(dense), inner.shape[2:], mode="bilinear", antialias=True)
    np.testing.assert_allclose(inner, wanted, atol=1e-3)
    assert found.sum() == pytest.approx(inner.sum())
    pipe = load_pipeline("tiny-random:dreampose")
    follow = pipe._follow(found, pipe.encode_reference(calibration), 1.0, "cpu")
    assert follow.shape == (FRAMES, 10, SIZE[0] // 8, SIZE[1] // 8)
    np.save(tmp_path / "frame_5_densepose.npy", dense[1, 0])
    with pytest.raises(ValueError, match=r"frame_5_densepose\.npy must be finite floats \[2, h, w\]"):
        followed_videos({"pose": tmp_path}, calibration)
    (tmp_path / "frame_5_densepose.npy").unlink()
    with pytest.raises(ValueError, match="pose must have as many frames as the calibration"):
        followed_videos({"pose": tmp_path}, calibration)


def test_frames_of_dreampose_are_stretched():
    """As the original saves them: (255 * ((x - min) / max)) rounded down, of every frame alone."""
    frames = torch.randint(30, 200, (3, 8, 8, 3), dtype=torch.uint8)
    frames[2] = 77
    for before, after in zip(frames, stretched(frames), strict=True):
        shifted = before.numpy() - before.numpy().min()
        with np.errstate(invalid="ignore"):
            wanted = (255 * (shifted / shifted.max())).astype(np.uint8) if shifted.any() else shifted
        assert np.array_equal(after, wanted)
    pipe = load_pipeline("tiny-random:dreampose")
    latents = torch.randn(1, 4, 2, 4, 4)
    (ours,) = pipe.decode(latents)
    assert ours.flatten(1).amin(1).tolist() == [0, 0]
    assert ours.flatten(1).amax(1).tolist() == [255, 255]
    pipe.stretch = False
    (plain,) = pipe.decode(latents)
    assert torch.equal(stretched(plain), ours)


@torch.no_grad()
def test_latents_of_dreampose_are_drawn(calibration):
    """With one noise for all pictures, however they are batched."""
    pipe = load_pipeline("tiny-random:dreampose")
    adapter, pixels = pipe.reference_adapter(), torch.rand(3, 3, *SIZE) * 255
    found = pipe.vae.encode(pixels).latent_dist
    drawn = adapter.vae.encode(pixels) / pipe.vae.config.scaling_factor
    noise = (drawn - found.mean) / found.std
    torch.testing.assert_close(noise[0], noise[1], rtol=1e-3, atol=1e-2)
    assert 0.5 < float(noise[0].std()) < 1.5
    torch.testing.assert_close(adapter.vae.encode(pixels[1:2]), adapter.vae.encode(pixels)[1:2], rtol=1e-4, atol=1e-3)


# DisCo


def test_disco_with_and_without_guidance_in_training(calibration):
    from diffusers import DDIMScheduler

    with_cfg, without = (load_pipeline(f"tiny-random:{kind}") for kind in ("disco", "disco-no-cfg"))
    image, masks = np.full((*SIZE, 3), 99, np.uint8), np.full((1, *SIZE), 255, np.uint8)
    picture, zero = (pipe.reference_adapter().photo(image, masks)["null"] for pipe in (with_cfg, without))
    assert picture.any()
    assert not zero.any()
    assert picture.shape == zero.shape
    for pipe in (with_cfg, without):
        assert isinstance(pipe.scheduler, DDIMScheduler)
        assert not pipe.scheduler.config.set_alpha_to_one
        assert pipe.scheduler.config.steps_offset == 1
        assert pipe.resumable


# Champ


def test_motions_of_champ_are_folders_of_pictures(calibration, tmp_path):
    """As published: a folder per map, and masks, outside of which the semantic map is black."""
    from tpc_fast.output.pose_video import followed_paths

    rng, source = np.random.default_rng(0), calibration.canvas.source
    maps = {}
    for name in ("depth", "normal", "semantic_map", "dwpose", "mask"):
        maps[name] = rng.integers(1, 256, (FRAMES, 1, 1, 3), np.uint8).repeat(source[0], 1).repeat(source[1], 2)
        if name == "mask":
            maps[name][:, :, : source[1] // 2] = 0
        (tmp_path / name).mkdir()
        for i, picture in enumerate(maps[name]):
            Image.fromarray(picture).save(tmp_path / name / f"{i:04d}.png")
    names = MODELS["champ"].load().videos
    videos = followed_videos(followed_paths(names, tmp_path), calibration)
    left, top, right, bottom = calibration.canvas.box
    middle = (left + right) // 2
    for name, video in videos.items():
        assert video.shape == (FRAMES, *SIZE, 3)
        assert np.array_equal(video[:, top:bottom, middle + 2 : right], np.broadcast_to(
            maps[name][:, :1, -1:], video[:, top:bottom, middle + 2 : right].shape))  # fmt: skip
        outside = video[:, top:bottom, left : middle - 2]
        assert outside.any() == (name != "semantic_map")
    with pytest.raises(FileNotFoundError, match=r"pictures in a folder depth"):
        followed_paths(names, tmp_path / "depth")
