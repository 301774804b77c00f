"""The main job, on a stream and on a whole video, and its result."""

from tpc_fast._lazy import lazy

__getattr__, __dir__ = lazy(__name__, {})
