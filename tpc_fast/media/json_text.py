"""JSON that a person reads and edits."""

import functools
import json

_encode = json.JSONEncoder(allow_nan=False).encode  # `json.dumps` makes an encoder for every value
_key = functools.lru_cache(1024)(_encode)  # records name the same things in every frame


def to_text(value, indent: int = 0) -> str:
    """JSON, indented by one; lists of numbers, and lists of these, on one line: a matrix is edited more easily."""
    if isinstance(value, dict) and value:
        rows = [f"{_key(str(key))}: {to_text(one, indent + 1)}" for key, one in value.items()]
        opening, closing = "{}"
    elif isinstance(value, list | tuple) and value and not _is_short(value, 2):
        rows = [to_text(one, indent + 1) for one in value]
        opening, closing = "[]"
    else:
        return _encode(value)
    blanks = "\n" + " " * (indent + 1)
    return f"{opening}{blanks}{(',' + blanks).join(rows)}{blanks[:-1]}{closing}"


def _is_short(value, levels: int) -> bool:
    """Whether it is a number, or a list of these up to so many levels deep."""
    if type(value) is float:  # nearly all are
        return True
    if isinstance(value, list | tuple):
        return levels > 0 and all(_is_short(one, levels - 1) for one in value)
    return value is None or isinstance(value, int | float)
