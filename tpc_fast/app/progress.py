"""How far a calibration is, and how long it will take."""

import dataclasses

#: The stages of a job in their order, with what each does and its share of the time (two cores, the embedded detector).
STAGES = {
    "start": ("Starting", 0.02),
    "photo": ("Looking at the photo", 0.03),
    "detect": ("Following the person", 0.75),
    "write": ("Rendering and writing", 0.2),
}


@dataclasses.dataclass(frozen=True)
class Step:
    """A moment of a job.

    Attributes:
        stage: one of `STAGES`.
        done, total: frames of it; `total` is None if nobody knows.
        seconds: since the stage began.
    """

    stage: str
    done: int = 0
    total: int | None = None
    seconds: float = 0.0


def share_done(step: Step) -> float:
    """Of the whole job, 0 to 1."""
    names = list(STAGES)
    before = sum(STAGES[name][1] for name in names[: names.index(step.stage)])
    inside = min(1.0, step.done / step.total) if step.total else 0.0
    return before + STAGES[step.stage][1] * inside


def seconds_left(step: Step) -> float | None:
    """By the pace of this stage, and the shares of those that follow; None before anything can be said."""
    if not step.done or not step.total or step.seconds <= 0:
        return None
    whole = step.seconds * max(step.total, step.done) / step.done
    names = list(STAGES)
    later = sum(STAGES[name][1] for name in names[names.index(step.stage) + 1 :])
    return max(0.0, whole - step.seconds) + whole * later / STAGES[step.stage][1]


def words(step: Step) -> str:
    """For people: "Following the person: frame 12 of 96, about 8 s left"."""
    text = STAGES[step.stage][0]
    if step.done:
        text += f": frame {step.done}" + (f" of {step.total}" if step.total else "")
    left = seconds_left(step)
    return text if left is None else f"{text}, about {duration(left)} left"


def duration(seconds: float) -> str:
    """ "8 s", "2 min 5 s", "1 h", "1 h 3 min"."""
    whole = max(1, round(seconds))
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest} s" if rest else f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    return f"{hours} h {minutes} min" if minutes else f"{hours} h"
