"""Films of high dynamic range (PQ, HLG) to what detectors and models know: BT.709, 8 bits.

The steps: signal to light by ITU-R BT.2100 (HLG for a display of 1000 cd/m^2); primaries by BT.2087; range compression
to 203 cd/m^2, the white of BT.2408; light to signal with the exponent 2.4 of BT.1886. The compression is the curve of
Report ITU-R BT.2390 (5.4.1). It is applied to the largest channel, so that hues stay. All steps together are one table
of colours, which FFmpeg's `lut3d` looks up.
"""

import functools
import os
import tempfile
from pathlib import Path

import numpy as np

PQ, HLG = 16, 18  # FFmpeg's numbers of transfer characteristics (ITU-T H.273)
NAMES = {PQ: "PQ", HLG: "HLG"}
_WHITE, _PEAK, _GAMMA = (
    203.0,
    1000.0,
    1.2,
)  # cd/m^2: of diffuse white, of a mastering display; HLG's system gamma for it
_SIDE = 33  # entries along an axis of the table, as cameras' own tables have
_M1, _M2, _C1, _C2, _C3 = 2610 / 16384, 2523 / 4096 * 128, 3424 / 4096, 2413 / 4096 * 32, 2392 / 4096 * 32  # BT.2100
_A, _B, _C = 0.17883277, 0.28466892, 0.55991073  # of HLG
_LUMA = np.array([0.2627, 0.678, 0.0593])  # of BT.2020
_TO_709 = np.array(
    [[1.660491, -0.587641, -0.072850], [-0.124550, 1.132900, -0.008349], [-0.018151, -0.100579, 1.118730]]
)


def pq_to_light(signal: np.ndarray) -> np.ndarray:
    """PQ 0..1 -> cd/m^2."""
    power = np.maximum(signal, 0) ** (1 / _M2)
    return 10000 * (np.maximum(power - _C1, 0) / (_C2 - _C3 * power)) ** (1 / _M1)


def light_to_pq(light: np.ndarray) -> np.ndarray:
    """The inverse of `pq_to_light`."""
    power = (np.maximum(light, 0) / 10000) ** _M1
    return ((_C1 + _C2 * power) / (1 + _C3 * power)) ** _M2


def hlg_to_light(signal: np.ndarray) -> np.ndarray:
    """HLG 0..1, [..., 3] -> cd/m^2 of a display of 1000 cd/m^2."""
    scene = np.where(signal <= 0.5, signal**2 / 3, (np.exp((signal - _C) / _A) + _B) / 12)
    luma = (scene @ _LUMA)[..., None]
    return _PEAK * np.maximum(luma, 1e-9) ** (_GAMMA - 1) * scene


def compress(light: np.ndarray) -> np.ndarray:
    """cd/m^2 up to the display's peak -> cd/m^2 up to white: dark and middle tones stay (BT.2390, 5.4.1)."""
    peak, white = light_to_pq(np.array([_PEAK, _WHITE]))
    value, most = np.minimum(light_to_pq(light) / peak, 1), white / peak
    knee = 1.5 * most - 0.5
    t = np.clip((value - knee) / (1 - knee), 0, 1)
    bent = (2 * t**3 - 3 * t**2 + 1) * knee + (t**3 - 2 * t**2 + t) * (1 - knee) + (-2 * t**3 + 3 * t**2) * most
    return pq_to_light(np.where(value < knee, value, bent) * peak)


def tone_map(signal: np.ndarray, transfer: int) -> np.ndarray:
    """Signals 0..1 of BT.2100, RGB [..., 3] -> signals 0..1 of BT.709."""
    light = {PQ: pq_to_light, HLG: hlg_to_light}[transfer](np.asarray(signal, np.float64))
    light = np.maximum(light @ _TO_709.T, 0)  # of BT.2020's colours what BT.709 lacks is cut off
    largest = light.max(-1, keepdims=True)
    light = light * compress(largest) / np.maximum(largest, 1e-9)
    return np.clip(light / _WHITE, 0, 1) ** (1 / 2.4)


@functools.cache
def table(transfer: int) -> str:
    """`tone_map` as a file of the Cube format, red fastest."""
    axis = np.linspace(0, 1, _SIDE)
    blue, green, red = np.meshgrid(axis, axis, axis, indexing="ij")
    colours = tone_map(np.stack([red, green, blue], -1).reshape(-1, 3), transfer)
    lines = (" ".join(f"{c:.6f}" for c in colour) for colour in colours.tolist())
    return f"LUT_3D_SIZE {_SIDE}\n" + "\n".join(lines) + "\n"


class ToneMap:
    """Frames of a film of high dynamic range as RGB of 8 bits.

    Args:
        transfer: `PQ` or `HLG`.
    """

    def __init__(self, transfer: int):
        self._transfer, self._key, self._graph = transfer, None, None

    def __call__(self, frame, height: int, width: int):
        """PyAV's frame -> uint8 [height, width, 3]."""
        key = frame.width, frame.height, frame.format.name, height, width
        if key != self._key:
            self._graph, self._key = self._made(frame, height, width), key
        self._graph.push(frame)
        return self._graph.pull().to_ndarray()

    def _made(self, frame, height, width):
        import av

        handle, path = tempfile.mkstemp(".cube", "tpc_fast_")
        try:
            with os.fdopen(handle, "w", encoding="ascii") as file:
                file.write(table(self._transfer))
            graph = av.filter.Graph()
            source = graph.add_buffer(
                width=frame.width, height=frame.height, format=frame.format.name, time_base=frame.time_base
            )
            name = Path(path).as_posix().replace("\\", "\\\\").replace(":", "\\:")
            scale = f"{width}:{height}:in_color_matrix=bt2020:in_range={'pc' if frame.color_range == 2 else 'tv'}"
            filters = [graph.add("scale", scale), graph.add("format", "gbrp10le"), graph.add("lut3d", f"file={name}"),
                       graph.add("format", "rgb24")]  # fmt: skip
            graph.link_nodes(source, *filters, graph.add("buffersink")).configure()
        finally:
            os.unlink(path)
        return graph
