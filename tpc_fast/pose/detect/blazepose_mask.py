"""BlazePose without the last layers of its segmentation, which the compiled core computes.

They take a third of the landmark network's time in LiteRT (4.8 of 14.5 ms on one core), whose kernels are made for more
than the eight channels that they have; the core takes 1.0 ms. The network is the same, with the same weights.
"""

import struct

import numpy as np

from tpc_fast import _native
from tpc_fast.pose.detect.model_files import NETWORKS

KNOWN = NETWORKS["pose_landmark_full"].sha256  # the numbers below are of that file alone
FEATURES, EARLIER = (64, 64, 8), (128, 128, 8)
# Tensors that take the place of others among the outputs: the features that of the mask, and those of an earlier layer,
# which are added to them, that of the landmarks in metres, which nobody asks for.
_INSTEAD = {297: 281, 339: 209}
_LEFT_OUT = (*range(197, 231), *range(323, 327))  # operators: from the features to the mask; the landmarks in metres
# Tensors (float16) of the weights and biases of the depthwise and the pointwise layer of each block, and of the last.
_BLOCKS = ((167, 67, 109, 168), (169, 68, 110, 170), (171, 69, 111, 172), (173, 70, 112, 174))
_LAST = 113, 175
_SUBGRAPHS, _OUTPUTS, _OPERATORS = 2, 2, 3  # fields of tables in the schema of TensorFlow Lite


def can_do_without(sha256: str) -> bool:
    """Whether a network, known by its digest, is one that `without_head` is for, and the core is there."""
    return sha256 == KNOWN and _native.core() is not None


def without_head(network: bytes) -> bytes:
    """The network with the features of `confidence` in place of the mask."""
    model = bytearray(network)
    subgraph = _first(model, _vector(model, _at(model, 0), _SUBGRAPHS))
    outputs = _vector(model, subgraph, _OUTPUTS)
    for i in range(_number(model, outputs)):
        place = outputs + 4 + 4 * i
        tensor = _number(model, place)
        struct.pack_into("<I", model, place, _INSTEAD.get(tensor, tensor))
    operators = _vector(model, subgraph, _OPERATORS)
    count = _number(model, operators)
    kept = [_at(model, operators + 4 + 4 * i) for i in range(count) if i not in _LEFT_OUT]
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


def confidence(features: np.ndarray, earlier: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """How sure the network is that somebody is there, uint8 [4 h, 4 w] in 255ths.

    Args:
        features: float32 [h, w, 8]; earlier: float32 [2 h, 2 w, 8]; weights: of `head_weights`.
    """
    return _native.core().mask_head(features, earlier, weights)


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
