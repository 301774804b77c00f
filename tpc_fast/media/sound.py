"""The sound of one video carried into another."""

import logging
import os
from collections.abc import Iterator
from fractions import Fraction
from typing import NamedTuple

from tpc_fast.media.container import SOUND_FORMATS, open_container

_log = logging.getLogger("tpc_fast")
_RATES = (48000, 44100, 32000, 24000, 22050, 16000, 12000, 11025, 8000)  # of those that AAC takes
# What a file may claim: 1 kB of samples at one a second would become 200 MB. Studios' converters have up to 768,000 a
# second; packets hold parts of a second, so that pictures and sound lie beside each other in the file.
_FASTEST, _LONGEST = 768_000, 60  # samples a second; seconds of a packet


class Sound(NamedTuple):
    """Where sound comes from.

    Attributes:
        path: a video or sound file; one without sound gives none.
        start: seconds of it that are left out at the beginning.
    """

    path: str | os.PathLike
    start: float = 0.0


class SoundTrack:
    """A track of AAC in a container that is being written, made before its first frame.

    Args:
        container: PyAV's output container.
        sound: whose first stream of sound is taken.
    """

    def __init__(self, container, sound: Sound):
        import av

        self._container, self._sound, self._stream, self._source = container, sound, None, None
        try:
            self._source = open_container(sound.path, SOUND_FORMATS)
        except (av.FFmpegError, OSError, ValueError) as error:
            self._warn(error)
            return
        codec = self._source.streams.audio[0].codec_context if self._source.streams.audio else None
        if codec is not None:  # there is sound, in a format that is known
            rate = codec.sample_rate if codec.sample_rate in _RATES else _RATES[0]
            self._stream = container.add_stream("aac", rate, layout="mono" if codec.channels == 1 else "stereo")

    def write(self, seconds: float) -> None:
        """Encodes the sound of that many seconds, or as many as there are, and ends the track."""
        if self._stream is not None:
            for part in self._parts(self._sound.start, seconds):
                self._container.mux(self._stream.encode(part))
            self._container.mux(self._stream.encode(None))
        self.close()

    def _parts(self, start: float, seconds: float) -> Iterator:
        """What is decoded from `start` on, as the encoder takes it, timed from 0; ends where it is damaged."""
        import av

        rate, begun = self._stream.rate, None
        resampler = av.AudioResampler("fltp", self._stream.layout, rate)
        frames = self._source.decode(audio=0)
        while True:
            try:
                frame = next(frames, None)
                if frame is None or (frame.time or 0) >= start + seconds:
                    return
                if frame.time is None or frame.time + frame.samples / frame.sample_rate <= start:
                    continue
                if frame.sample_rate > _FASTEST or frame.samples > _LONGEST * frame.sample_rate:
                    raise ValueError(f"it claims {frame.samples} samples in a packet, {frame.sample_rate} a second")
                parts = resampler.resample(frame)
            except MemoryError:
                raise
            except Exception as error:  # whatever PyAV says of it: the pictures are worth more than the rest
                self._warn(error)
                return
            for part in parts:
                if begun is None:
                    begun = max(0, round((frame.time - start) * rate))
                part.pts, part.time_base = begun, Fraction(1, rate)
                begun += part.samples
                yield part

    def _warn(self, error) -> None:
        _log.warning("the sound of %s could not be read to its end: %s", self._sound.path, error)

    def close(self) -> None:
        """Closes the source."""
        if self._source is not None:
            self._source.close()
