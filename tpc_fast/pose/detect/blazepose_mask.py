"""BlazePose without the last layers of its segmentation, which the compiled core computes.

They take a quarter of the landmark network's time in LiteRT (3.8 of 14.5 ms on one core), whose kernels are made for
more than the eight channels that they have; the core takes 1.4 ms. The network is the same, with the same weights.
"""

import struct

import numpy as np

from tpc_fast import _native
from tpc_fast.pose.detect.model_files import NETWORKS

KNOWN = NETWORKS["pose_landmark_full"].sha256  # the numbers below are of that file alone
FEATURES = (128, 128, 8)
_FEATURES, _MASK = 289, 297  # tensors
_FIRST, _END = 213, 231  # operators: from the one that enlarges the features to the one that gives the mask
# Tensors (float16) of the weights and biases of the depthwise and the pointwise layer of each block, and of the last.
_BLOCKS, _LAST = ((171, 69, 111, 172), (173, 70, 112, 174)), (113, 175)
_SUBGRAPHS, _OUTPUTS, _OPERATORS = 2, 2, 3  # fields of tables in the schema of TensorFlow Lite


def can_do_without(sha256: str) -> bool:
    """Whether a network, known by its digest, is one that `without_head` is for, and the core is there."""
    return sha256 == KNOWN and _native.core() is not None


def without_head(network: bytes) -> bytes:
    """The network with features float32 [128, 128, 8] in place of the mask."""
    model = bytearray(network)
    subgraph = _first(model, _vector(model, _at(model, 0), _SUBGRAPHS))
    outputs = _vector(model, subgraph, _OUTPUTS)
    places = range(outputs + 4, outputs + 4 + 4 * _number(model, outputs), 4)
    (mask,) = [place for place in places if _number(model, place) == _MASK]
    struct.pack_into("<I", model, mask, _FEATURES)
    operators = _vector(model, subgraph, _OPERATORS)
    count = _number(model, operators)
    kept = [_at(model, operators + 4 + 4 * i) for i in range(count) if not _FIRST <= i < _END]
    struct.pack_into("<I", model, operators, len(kept))
    for i, table in enumerate(kept):
        place = operators + 4 + 4 * i
        struct.pack_into("<I", model, place, table - place)
    return bytes(model)


def head_weights(tensor) -> np.ndarray:
    """The weights of the layers that were left out, as `mask_head` of the core takes them; `tensor(i)` gives one."""
    parts = []
    for across, across_bias, mix, mix_bias in _BLOCKS:
        parts += [tensor(across), tensor(across_bias), tensor(mix).reshape(8, 8).T, tensor(mix_bias)]
    return np.concatenate([np.ravel(part) for part in (*parts, *map(tensor, _LAST))]).astype(np.float32)


def confidence(features: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How sure the network is that somebody is there, uint8 [2 h, 2 w] in 255ths, from features float32 [h, w, 8]."""
    return _native.core().mask_head(np.ascontiguousarray(features), weights)


# A table of a flatbuffer begins with the way back to its list of fields; offsets count from where they stand.


def _number(model, place: int) -> int:
    return struct.unpack_from("<I", model, place)[0]


def _at(model, place: int) -> int:
    return place + _number(model, place)


def _first(model, vector: int) -> int:
    return _at(model, vector + 4)


def _vector(model, table: int, field: int) -> int:
    fields = table - struct.unpack_from("<i", model, table)[0]
    return _at(model, table + struct.unpack_from("<H", model, fields + 4 + 2 * field)[0])
