"""What is kept of an unfinished run, so that the same command goes on from it."""

from pathlib import Path

from tpc_fast.media.files import whole_file


class Progress:
    """The latents of an unfinished run, in a hidden file beside the video: whole or not there.

    Args:
        output: the video.
        fingerprint: of the run; latents of another one are not used.

    Attributes:
        steps, windows: denoising steps, and windows of the next one, that need not be done again.
    """

    def __init__(self, output: Path, fingerprint: str):
        self.path = output.with_name(f".{output.name}.unfinished")
        self.steps = self.windows = 0
        self._fingerprint = fingerprint

    @property
    def kept(self) -> bool:
        """Whether anything was done."""
        return self.steps > 0 or self.windows > 0

    @property
    def place(self) -> str:
        """Up to where, in words."""
        return f"window {self.windows} of step {self.steps + 1}" if self.windows else f"step {self.steps}"

    def load(self) -> tuple:
        """The latents after `steps` steps, and the sum of the next step's `windows`; or None for what there is not."""
        from safetensors import SafetensorError, safe_open

        if not self.path.exists():
            return None, None
        try:
            with safe_open(self.path, "pt") as file:
                found = file.metadata() or {}
                if found.get("run") != self._fingerprint:
                    return None, None
                steps, windows = int(found["done"]), int(found["windows"])
                # Copies: what safetensors gives is the file in memory, which Windows would not let go.
                latents = file.get_tensor("latents").clone()
                predicted = file.get_tensor("predicted").clone() if windows else None
        except (SafetensorError, OSError, KeyError, ValueError):  # damaged: as if it were not there
            return None, None
        self.steps, self.windows = steps, windows
        return latents, predicted

    def save(self, latents, steps: int, windows: int = 0, predicted=None) -> None:
        """Keeps the latents after `steps` steps, and the sum of what `windows` of the next one predicted."""
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        tensors = {"latents": latents} | ({"predicted": predicted} if windows else {})
        place = {"run": self._fingerprint, "done": str(steps), "windows": str(windows)}
        try:
            with whole_file(self.path) as partial:
                save_file({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}, partial, place)
        except SafetensorError as error:
            raise OSError(f"the latents cannot be kept in {self.path}: {error}") from error
        self.steps, self.windows = steps, windows

    def remove(self) -> None:
        """Forgets them."""
        self.path.unlink(missing_ok=True)
