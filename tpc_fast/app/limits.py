"""How much one visitor of the page may ask for."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class PageLimits:
    """The most that the page takes.

    Attributes:
        upload_bytes: of each file.
        video_seconds: of the part of a video that is used.
        job_seconds: how long one calibration may take; then it is ended.
        jobs: calibrations at a time; others wait for their turn.
        kept_seconds: how long a visitor's files are kept after they were last used.
        stored_bytes: of all files of all visitors; when there are more, no file is taken until some have gone.
    """

    upload_bytes: int = 512 << 20
    video_seconds: float = 120.0
    job_seconds: float = 3600.0
    jobs: int = 1
    kept_seconds: float = 3600.0
    stored_bytes: int = 16 << 30

    def __post_init__(self):
        for name, value in vars(self).items():
            if not value > 0:
                raise ValueError(f"{name} must be above 0, but is {value!r}")
