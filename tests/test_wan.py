"""Per-segment references of WanAnimatePipeline, on tiny random weights."""

import json

import numpy as np
import pytest

pytestmark = [pytest.mark.diffusion, pytest.mark.usefixtures("one_thread")]
pytest.importorskip("diffusers")
torch = pytest.importorskip("torch")

from PIL import Image  # noqa: E402

from tpc_fast.diffusion import load_pipeline  # noqa: E402
from tpc_fast.diffusion.models.registry import MODELS  # noqa: E402
from tpc_fast.diffusion.models.wan import tiny_wan  # noqa: E402
from tpc_fast.diffusion.models.wan_segments import apply_segment_references, remove_segment_references, segments  # noqa: E402
from tpc_fast.diffusion.models.wan_slots import apply_slot_references, remove_slot_references  # noqa: E402

SIZE, LENGTH, FRAMES = 32, 5, 13  # segments of 5 frames, one of them shared: three segments


@pytest.fixture(scope="module")
def pipe():
    pipe = tiny_wan()["pipe"]
    pipe.set_progress_bar_config(disable=True)
    return pipe


def picture(seed: int) -> Image.Image:
    pixels = np.random.default_rng(seed).integers(0, 256, (4, 4, 3), np.uint8)
    return Image.fromarray(pixels).resize((SIZE, SIZE), Image.Resampling.BILINEAR)


def run(pipe, image, frames=FRAMES, guidance=1.0):
    video = [picture(100 + i) for i in range(frames)]
    return pipe(
        image, video, [frame.resize((16, 16)) for frame in video], prompt_embeds=torch.zeros(1, 4, 32),
        guidance_scale=guidance, negative_prompt_embeds=torch.ones(1, 4, 32), height=SIZE, width=SIZE,
        segment_frame_length=LENGTH, num_inference_steps=1, output_type="pt",
        generator=torch.Generator().manual_seed(0),
    ).frames[0]  # fmt: skip


@pytest.mark.parametrize("guidance", [1.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_every_segment_sees_its_reference(pipe, guidance):
    """As if the pipeline had been given that picture; the segments before it are then the same, too."""
    plain = {seed: run(pipe, picture(seed), guidance=guidance) for seed in (1, 2)}
    assert not torch.equal(plain[1], plain[2])
    apply_segment_references(pipe, [picture(1), picture(2)])  # the second serves the third segment, too
    mixed = run(pipe, picture(9), guidance=guidance)
    again = run(pipe, picture(8), guidance=guidance)
    remove_segment_references(pipe)
    assert torch.equal(mixed, again)  # `image` plays no part, and a run starts with the first reference again
    assert torch.equal(mixed[:5], plain[1][:5])
    assert not torch.equal(mixed[5:9], plain[1][5:9])
    assert not torch.equal(mixed[5:9], plain[2][5:9])  # it goes on from another first segment
    apply_segment_references(pipe, [picture(1)] * 3)
    same = run(pipe, picture(1), guidance=guidance)
    remove_segment_references(pipe)
    assert torch.equal(same, plain[1])
    assert torch.equal(run(pipe, picture(1), guidance=guidance), plain[1])


def test_the_transformer_gets_latents_and_tokens_of_the_segment(pipe):
    seen = []
    handle = pipe.transformer.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append((kwargs["hidden_states"], kwargs["encoder_hidden_states_image"])),
        with_kwargs=True,
    )
    explicit = {}
    for seed in (1, 2, 3):
        run(pipe, picture(seed), frames=LENGTH)
        explicit[seed] = seen.pop()
    handle.remove()
    recorded, tokens = [], []
    handles = [
        pipe.transformer.rope.register_forward_pre_hook(lambda module, args: recorded.append(args[0])),
        pipe.transformer.condition_embedder.register_forward_pre_hook(lambda module, args: tokens.append(args[2])),
    ]
    apply_segment_references(pipe, [picture(1), picture(2), picture(3)])
    run(pipe, picture(9))
    remove_segment_references(pipe)
    for handle in handles:
        handle.remove()
    assert len(recorded) == len(tokens) == 3
    for states, image, seed in zip(recorded, tokens, (1, 2, 3), strict=True):
        assert torch.equal(states[:, 20:, :1], explicit[seed][0][:, 20:, :1])
        assert torch.equal(states[:, 16:20, :1], torch.ones_like(states[:, 16:20, :1]))
        assert torch.equal(image, explicit[seed][1])


def test_refusals(pipe):
    with pytest.raises(TypeError, match="WanAnimatePipeline"):
        apply_segment_references(object(), [picture(1)])
    with pytest.raises(ValueError, match="images must be"):
        apply_segment_references(pipe, [])
    apply_segment_references(pipe, [picture(1)])
    with pytest.raises(ValueError, match="already"):
        apply_segment_references(pipe, [picture(1)])
    remove_segment_references(pipe)
    remove_segment_references(pipe)


def test_segments():
    assert segments(13, 5, 1) == [slice(0, 5), slice(4, 9), slice(8, 13)]
    assert segments(12, 5, 1)[-1] == slice(8, 12)
    assert segments(1) == [slice(0, 1)]
    assert segments(153) == [slice(0, 77), slice(76, 153)]
    with pytest.raises(ValueError, match="num_frames"):
        segments(0)


# Slots: per group of frames and region


def slot_reference(pipe, persons, latent=None, calibrated=None, frames=FRAMES):
    """Every frame is a candidate; all masks are full."""
    from tpc_fast.diffusion import CalibratedReference, SlotAdapter

    adapter = SlotAdapter(pipe)

    def slots(*seeds):
        images = np.stack([np.asarray(picture(seed)) for seed in seeds])
        return adapter.prepare(images, None)

    latent = slots(1) if latent is None else latent
    image = latent if calibrated is None else slots(calibrated)
    calibrated = image[None].expand(persons, frames, -1, -1, -1)
    full = torch.full((persons, frames, SIZE, SIZE), 255, dtype=torch.uint8)
    return CalibratedReference(latent, calibrated.clone(), full, full.clone(), full[:, 0].clone())


@pytest.fixture(autouse=True)
def detached(pipe):
    """A test that fails leaves the others a plain pipeline."""
    yield
    remove_slot_references(pipe)


@pytest.mark.parametrize("guidance", [1.0, pytest.param(3.0, marks=pytest.mark.slow)])
def test_slots_that_are_the_reference_change_nothing(pipe, guidance):
    """Bit by bit through the whole pipeline; other slots do change it."""
    plain = run(pipe, picture(1), guidance=guidance)
    state = apply_slot_references(pipe, slot_reference(pipe, 1), group_size=1)
    assert torch.equal(run(pipe, picture(1), guidance=guidance), plain)
    state.enabled = False
    assert torch.equal(run(pipe, picture(1), guidance=guidance), plain)
    remove_slot_references(pipe)
    reference = slot_reference(pipe, 1)
    reference.calibrated_latents += 1
    apply_slot_references(pipe, reference, group_size=1)
    other = run(pipe, picture(1), guidance=guidance)
    assert (other - plain).abs().max() > 1e-4
    remove_slot_references(pipe)
    assert torch.equal(run(pipe, picture(1), guidance=guidance), plain)
    assert not pipe.transformer.rope._forward_hooks


def transformer_call(pipe, seed=0):
    """One call of the transformer alone, of a segment: three latent frames of video."""
    generator = torch.Generator().manual_seed(seed)
    width = pipe.transformer.config.in_channels
    states = torch.randn(1, width, 3, SIZE // 8, SIZE // 8, generator=generator)
    with torch.no_grad():
        return pipe.transformer(
            hidden_states=states, timestep=torch.tensor([500]), encoder_hidden_states=torch.ones(1, 512, 32),
            encoder_hidden_states_image=torch.ones(1, 5, 8), face_pixel_values=torch.zeros(1, 3, LENGTH, 16, 16),
            pose_hidden_states=torch.randn(1, 16, 2, SIZE // 8, SIZE // 8, generator=generator), return_dict=False,
        )[0], states  # fmt: skip


def test_slots_on_the_transformer(pipe):
    """The reference in two complementary parts is the whole one; two persons see both."""
    plain, states = transformer_call(pipe)
    latent = states[:, 16:, 0]
    reference = slot_reference(pipe, 2, latent, frames=LENGTH)
    reference.calibrated_masks[0, :, :, SIZE // 2 :] = 0
    reference.calibrated_masks[1, :, :, : SIZE // 2] = 0
    state = apply_slot_references(pipe, reference, group_size=1)
    state.begin(0, LENGTH)
    assert state.count == 4
    parts, _ = transformer_call(pipe)
    print(f"complementary regions: {float((parts - plain).abs().max() / plain.abs().max()):.1e} of the largest value")
    assert (parts - plain).abs().max() <= 1e-6 * plain.abs().max()
    # where nobody is, the reference is seen; and regions matter
    reference.pose_masks[:, :, : SIZE // 2] = 0
    reference.reference_masks[:] = 0
    state.begin(0, LENGTH)
    parts, _ = transformer_call(pipe)
    print(f"complementary regions: {float((parts - plain).abs().max() / plain.abs().max()):.1e} of the largest value")
    assert (parts - plain).abs().max() <= 1e-6 * plain.abs().max()
    reference.calibrated_latents[1] += 1
    state.begin(0, LENGTH)
    changed, _ = transformer_call(pipe)
    assert (changed - plain).abs().max() > 1e-4 * plain.abs().max()
    remove_slot_references(pipe)
    assert torch.equal(transformer_call(pipe)[0], plain)


def test_slots_are_those_of_a_dense_mask(pipe):
    """Against the unmodified attention with a mask over all tokens."""
    from diffusers.models.transformers.transformer_wan_animate import WanAttnProcessor

    rng = np.random.default_rng(0)
    reference = slot_reference(pipe, 2, calibrated=5, frames=LENGTH)
    for masks in (reference.pose_masks, reference.calibrated_masks, reference.reference_masks):
        masks[:] = torch.from_numpy(rng.integers(0, 2, (*masks.shape[:-2], 2, 2))).repeat_interleave(
            SIZE // 2, -1).repeat_interleave(SIZE // 2, -2) * 255  # fmt: skip
    state = apply_slot_references(pipe, reference, group_size=1)
    state.begin(0, LENGTH)
    ours, _ = transformer_call(pipe)
    size = max(int(rows.max()) for rows, _ in state.sets) + 1
    allowed = torch.zeros(size, size, dtype=torch.bool)
    for rows, keys in state.sets:
        assert not allowed[rows].any()
        allowed[np.ix_(rows, keys)] = True
    assert allowed.any(1).all()
    for block in pipe.transformer.blocks:
        plain = WanAttnProcessor()
        block.attn1.processor = lambda attn, x, y=None, mask=None, rotary=None, plain=plain: plain(
            attn, x, y, allowed, rotary
        )
    dense, _ = transformer_call(pipe)
    remove_slot_references(pipe)
    assert (ours - dense).abs().max() <= 1e-5 * dense.abs().max()


def test_which_frames_a_latent_frame_is(pipe):
    """One, then four each; a person who stands in one of four covers the latent frame."""
    reference = slot_reference(pipe, 1, calibrated=5)
    reference.pose_masks[:] = 0
    reference.pose_masks[:, 7] = 255
    state = apply_slot_references(pipe, reference, group_size=2)
    tokens = (SIZE // 16) ** 2
    seen = {}
    for start in (0, 4, 8):
        state.begin(start, LENGTH)
        seen[start] = [rows for rows, keys in state.sets if 0 in keys]  # the calibrated slot's first token
        assert state.count == 1
    covered = {start: sum(int((rows >= 2 * tokens).sum()) for rows in sets) for start, sets in seen.items()}
    assert covered == {0: 0, 4: tokens, 8: 0}  # frames 4..8 are latent frames [4], [5, 6, 7, 8]
    remove_slot_references(pipe)


def test_refusals_of_slots(pipe):
    with pytest.raises(TypeError, match="WanAnimatePipeline"):
        apply_slot_references(object(), None)
    with pytest.raises(ValueError, match="group_size must be"):
        apply_slot_references(pipe, slot_reference(pipe, 1), group_size=0)
    wrong = slot_reference(pipe, 1, torch.zeros(1, 4, 4, 4))
    with pytest.raises(ValueError, match="reference must have slots of 20 channels"):
        apply_slot_references(pipe, wrong)
    apply_slot_references(pipe, slot_reference(pipe, 1))
    with pytest.raises(ValueError, match="already"):
        apply_slot_references(pipe, slot_reference(pipe, 1))
    remove_slot_references(pipe)
    remove_slot_references(pipe)


PUBLISHED = """README.md image_encoder/config.json image_encoder/model.safetensors image_processor/merges.txt
image_processor/preprocessor_config.json image_processor/special_tokens_map.json image_processor/tokenizer.json
image_processor/vocab.json model_index.json scheduler/scheduler_config.json text_encoder/config.json
text_encoder/model-00001-of-00003.safetensors text_encoder/model-00002-of-00003.safetensors
text_encoder/model-00003-of-00003.safetensors text_encoder/model.safetensors.index.json tokenizer/spiece.model
tokenizer/special_tokens_map.json tokenizer/tokenizer.json tokenizer/tokenizer_config.json transformer/config.json
transformer/diffusion_pytorch_model-00001-of-00015.safetensors
transformer/diffusion_pytorch_model.safetensors.index.json vae/config.json vae/diffusion_pytorch_model.safetensors
vae/diffusion_pytorch_model.bin""".split()  # as Wan-AI/Wan2.2-Animate-14B-Diffusers lists them, the last one added


def test_all_that_the_published_pipeline_loads_is_downloaded(tmp_path, monkeypatch):
    """With a text encoder in several files, whose index says which weight is where."""
    import fnmatch

    from transformers import T5Tokenizer, UMT5Config, UMT5EncoderModel

    hub, taken = MODELS["wan-animate"].parts["model"].hub, []

    def download(name, allow_patterns):
        taken.extend(file for file in PUBLISHED if any(fnmatch.fnmatch(file, pattern) for pattern in allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    monkeypatch.setattr("huggingface_hub.list_repo_files", lambda name: PUBLISHED)
    pipe = tiny_wan()["pipe"]
    pipe.text_encoder = UMT5EncoderModel(
        UMT5Config(vocab_size=256, d_model=32, d_kv=8, d_ff=32, num_layers=2, num_heads=2)
    )
    pipe.save_pretrained(tmp_path)
    (tmp_path / "text_encoder" / "model.safetensors").unlink()
    pipe.text_encoder.save_pretrained(tmp_path / "text_encoder", max_shard_size="20KB")
    T5Tokenizer(vocab=[("<pad>", 0.0), ("</s>", 0.0), ("<unk>", 0.0), ("a", -1.0)]).save_pretrained(
        tmp_path / "tokenizer"
    )
    index = json.loads((tmp_path / "model_index.json").read_text())
    index |= {"text_encoder": ["transformers", "UMT5EncoderModel"], "tokenizer": ["transformers", "T5Tokenizer"]}
    (tmp_path / "model_index.json").write_text(json.dumps(index))
    loaded = load_pipeline(f"wan-animate:{hub}").pipe
    assert [file for file in PUBLISHED if file not in taken] == ["README.md", "vae/diffusion_pytorch_model.bin"]
    before = pipe.text_encoder.state_dict()
    for key, tensor in loaded.text_encoder.state_dict().items():
        assert torch.equal(tensor, before[key])
    assert loaded.image_processor.size == pipe.image_processor.size
    (tmp_path / "image_processor" / "preprocessor_config.json").unlink()
    with pytest.raises(FileNotFoundError, match=r"image_processor/preprocessor_config\.json"):
        load_pipeline(f"wan-animate:{hub}")
