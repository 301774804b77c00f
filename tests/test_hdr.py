"""Films of high dynamic range, against colour-science's numbers of BT.2100 by hand, and through a file."""

from fractions import Fraction

import av
import numpy as np
import pytest
from numpy.testing import assert_allclose

from tpc_fast.media import hdr
from tpc_fast.media.video import VideoReader

GREY = np.linspace(0, 1, 101)[:, None].repeat(3, 1)


def test_light_of_signals():
    """Points that the recommendations name: BT.2100 (100 % of PQ), BT.2408 tables 1 and 2 (203 cd/m^2)."""
    assert_allclose(hdr.pq_to_light(np.array([0, 1, 0.5807])), [0, 10000, 203], rtol=2e-3)
    assert_allclose(hdr.hlg_to_light(np.array([[0.75] * 3, [1.0] * 3])), [[203.0] * 3, [1000.0] * 3], rtol=5e-3)
    assert_allclose(hdr.light_to_pq(hdr.pq_to_light(GREY)), GREY, atol=1e-6)


@pytest.mark.parametrize("transfer", [hdr.PQ, hdr.HLG])
def test_grey_stays_grey_and_grows(transfer):
    mapped = hdr.tone_map(GREY, transfer)
    assert_allclose(mapped, mapped[:, :1].repeat(3, 1), atol=1e-4)
    assert (np.diff(mapped[:, 0]) >= -1e-9).all()
    assert mapped[0, 0] == 0
    assert mapped[-1, 0] == pytest.approx(1, abs=1e-3)


@pytest.mark.parametrize(("transfer", "signal"), [(hdr.PQ, 0.5807), (hdr.HLG, 0.75)])
def test_white_is_bright_and_what_is_brighter_is_told_apart(transfer, signal):
    white = hdr.tone_map(np.full((1, 3), signal), transfer)[0, 0]
    assert 0.75 < white < 0.95  # room for highlights above it


def test_dark_and_middle_tones_stay():
    light = np.array([0.1, 1, 10, 50, 80])
    assert_allclose(hdr.compress(light), light, rtol=1e-6)
    assert hdr.compress(np.array([1000.0]))[0] == pytest.approx(203, rel=1e-6)
    assert (np.diff(hdr.compress(np.linspace(0, 1000, 1001))) > 0).all()


def test_hues_stay():
    """However bright: the shares of light of a colour that both have are those of the film."""
    light = hdr.hlg_to_light(np.array([[0.85, 0.75, 0.75], [0.5, 0.4, 0.4]])) @ hdr._TO_709.T
    mapped = hdr.tone_map(np.array([[0.85, 0.75, 0.75], [0.5, 0.4, 0.4]]), hdr.HLG) ** 2.4
    assert_allclose(mapped / mapped[:, :1], light / light[:, :1], rtol=1e-6)
    assert_allclose(hdr._TO_709.sum(1), 1, atol=1e-5)  # white stays white


def film(path, transfer, signal, size=(48, 64)):
    """Three frames of one grey in 10 bits of limited range, BT.2020."""
    height, width = size
    planes = np.full((height * 3 // 2, width), 512, np.uint16)
    planes[:height] = round(64 + 876 * signal)
    with av.open(str(path), "w") as container:
        stream = container.add_stream("libx264", 10, options={"crf": "0", "preset": "ultrafast"})
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p10le"
        codec = stream.codec_context
        codec.color_trc, codec.color_primaries, codec.colorspace, codec.color_range = transfer, 9, 9, 1
        for index in range(3):
            frame = av.VideoFrame(width, height, "yuv420p10le")
            for plane, values in zip(frame.planes, (planes[:height], planes[height:], planes[height:]), strict=True):
                rows = np.frombuffer(plane, np.uint16).reshape(plane.height, -1)
                np.copyto(rows[:, : plane.width], values.reshape(-1)[0])
            frame.pts, frame.time_base = index, Fraction(1, 10)
            container.mux(stream.encode(frame))
        container.mux(stream.encode(None))


@pytest.mark.parametrize(("transfer", "name"), [(hdr.PQ, "PQ"), (hdr.HLG, "HLG")])
@pytest.mark.parametrize("signal", [0.2, 0.5, 0.7])
def test_a_film_is_mapped_and_said(tmp_path, transfer, name, signal):
    film(tmp_path / "film.mp4", transfer, signal)
    reader = VideoReader(tmp_path / "film.mp4")
    frames = [frame.image for frame in reader]
    assert len(frames) == 3
    expected = 255 * hdr.tone_map(np.full((1, 3), signal), transfer)[0, 0]
    assert_allclose(frames[1].reshape(-1, 3).mean(0), expected, atol=2.5)  # a table, and 10 bits of limited range
    assert len(reader.warnings) == 1
    assert f"is of high dynamic range ({name})" in reader.warnings[0]
    small = next(iter(VideoReader(tmp_path / "film.mp4", scale_to=(24, 32)))).image
    assert small.shape == (24, 32, 3)
    assert_allclose(small.mean(), expected, atol=2.5)


def test_a_usual_film_stays_as_it_is(tmp_path):
    film(tmp_path / "film.mp4", 1, 0.5)
    reader = VideoReader(tmp_path / "film.mp4")
    assert abs(next(iter(reader)).image.mean() - 127.5) < 2.5
    assert reader.warnings == []
