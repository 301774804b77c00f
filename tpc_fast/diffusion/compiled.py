"""What torch.compile sees of a UNet with a calibration: operations that it does not look into, so that no graph breaks.

What they need beside tensors is found by a number. Operations read and change the state that stands behind it; their
order is kept by the data that goes through them: opening a call returns the sample that the UNet goes on with.
They have no gradient: a compiled UNet is for inference.
"""

import itertools
import weakref

import torch

_STATES = weakref.WeakValueDictionary()  # number -> CalibrationState
_READERS = weakref.WeakValueDictionary()  # number -> module
_numbers = itertools.count()


def number_of(state) -> int:
    """Under which operations find a CalibrationState as long as it lives."""
    number = next(_numbers)
    _STATES[number] = state
    return number


def number_of_reader(reader: torch.nn.Module) -> int:
    """The same for a model that reads."""
    number = next(_numbers)
    _READERS[number] = reader
    return number


@torch.library.custom_op("tpc_fast::open_call", mutates_args=())
def open_call(
    sample: torch.Tensor, timestep: torch.Tensor, text: torch.Tensor, state: int, reader: int
) -> torch.Tensor:
    """`CalibrationState.open`; returns the sample."""
    _STATES[state].open(sample, timestep, text, _READERS[reader])
    return sample.clone()


@open_call.register_fake
def _(sample, timestep, text, state, reader):
    return torch.empty_like(sample)


@torch.library.custom_op("tpc_fast::attend_call", mutates_args=())
def attend_call(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, state: int, name: str) -> torch.Tensor:
    """`CalibrationState.attend` of the attention of that name."""
    state = _STATES[state]
    return state.attend(name, state.attentions[name], q, k, v).contiguous()


@attend_call.register_fake
def _(q, k, v, state, name):
    return q.new_empty(q.shape)


@torch.library.custom_op("tpc_fast::close_call", mutates_args=())
def close_call(output: torch.Tensor, state: int) -> torch.Tensor:
    """`CalibrationState.close`; returns the output."""
    _STATES[state].close()
    return output.clone()


@close_call.register_fake
def _(output, state):
    return torch.empty_like(output)
