"""Keys and values of the photo and of the calibrated images of a stream: a ring, which outlives the calls of a UNet."""

import threading
from typing import NamedTuple

import torch

from tpc_fast.diffusion.adapter import ReferenceAdapter
from tpc_fast.diffusion.compiled import number_of
from tpc_fast.ops.attention import RegionSelection, reference_attention


class Photo(NamedTuple):
    """The photo on the canvas: latents [1, C, h, w], masks uint8 [P, H, W], [H, W] uint8 where it is not padding."""

    latent: torch.Tensor
    masks: torch.Tensor
    valid: torch.Tensor | None


class LiveBank:
    """What the self-attentions of a UNet read while a `LiveAnimator` calls it; stands where a `CalibrationState` does.

    Args:
        adapter: of kind "kv".
        reference: the photo.
        text: [1, tokens, channels], of the conditional rows.
        rows: how many images it holds.

    Attributes:
        attentions, number: as of a `CalibrationState`.
    """

    enabled, resting = True, False

    def __init__(self, adapter: ReferenceAdapter, reference: Photo, text: torch.Tensor, rows: int):
        self.adapter, self.reference, self.text, self.number = adapter, reference, text, number_of(self)
        self.attentions = {name: attention for name, (_, attention) in adapter.sites().items()}
        self._rows = rows
        self._keys: dict[str, torch.Tensor] = {}
        self._values: dict[str, torch.Tensor] = {}
        self._selections: dict[int, RegionSelection] = {}
        self._cond = slice(None)
        self._open = self._expected = False
        self._read, self._thread = 0, None  # in which the call runs that may read

    def end(self) -> None:
        """Nobody reads until the next `reading`."""
        self._open = self._expected = False

    @torch.no_grad()
    def write(self, latents: torch.Tensor, timesteps, rows: list[int]) -> None:
        """Encodes latents [m, C, h, w] at timesteps [m] or one for all, and puts them into these rows."""
        bank = self.adapter.encode(latents, timesteps, self.text)
        index = torch.tensor(rows, device=self.text.device)
        for name, hidden in bank.items():
            attention = self.attentions[name]
            hidden = hidden.to(self.text.dtype)
            for store, project in ((self._keys, attention.to_k), (self._values, attention.to_v)):
                projected = project(hidden).unflatten(2, (attention.heads, -1))
                if name not in store:
                    store[name] = projected.new_zeros(self._rows, *projected.shape[1:])
                store[name][index] = projected

    def reading(self, selections: dict[int, RegionSelection], cond: slice) -> "LiveBank":
        """Lets the next call of the UNet read: number of tokens -> which images; cond: the rows that read."""
        self._selections, self._cond, self._expected = selections, cond, True
        self._thread = threading.get_ident()
        return self

    # What the hooks on the UNet call

    def open(self, sample, timestep, encoder_hidden_states, reader=None) -> None:
        """Before a call of the UNet.

        Raises:
            RuntimeError: if it is somebody else's.
        """
        if not self._expected or self._thread != threading.get_ident():
            raise RuntimeError("the UNet belongs to a LiveAnimator: close() that before the pipeline is called")
        self._expected, self._open, self._read = False, True, 0

    def close(self) -> None:
        """After it.

        Raises:
            RuntimeError: if not all self-attentions read.
        """
        if not self._open:
            return
        self._open = False
        if self._read != len(self.attentions):
            raise RuntimeError(
                f"{self._read} of {len(self.attentions)} self-attentions of the UNet read the photo: their processors "
                "were replaced after the LiveAnimator was made; set them before"
            )

    def abandon(self) -> None:
        """After a call that failed; one that another thread has open goes on."""
        if self._thread == threading.get_ident():
            self._open = False

    @torch.compiler.disable
    def attend(self, name: str, attn, q, k, v) -> torch.Tensor:
        """Attention of one layer, [B, N, H, d]."""
        if not self._open:
            raise RuntimeError("the UNet runs without the hook of its LiveAnimator: call the UNet itself")
        if q.shape[1] not in self._selections:
            raise RuntimeError(f"no grid of the UNet has {q.shape[1]} tokens, but the attention {name} does")
        self._read += 1
        return reference_attention(
            q, k, v, self._keys[name], self._values[name], self._selections[q.shape[1]], self._cond
        )
