"""How seeds are changed: bytes anywhere, values within JSON, and arrays within archives, whose sums stay right."""

import contextlib
import copy
import io
import json
import zipfile

VALUES = [None, True, -1, 0, 1, 2**31, 2**63, 1e308, -1e-308, float("nan"), float("inf"), 10**30, "", "x", "../x",
          "/dev/zero", "a\0b", "\ud800", "9" * 5000, [], {}, [[]], [None] * 3, {"x": 1}, [[0, 0, 0]] * 17]  # fmt: skip
BYTES = [b"e999", b"-1", b"[", b"{}", b"null", b"\xff", b"\0" * 4, b"\xff" * 4, b"\x7f\xff\xff\xff", b'"x"']


def mutated(random, seed: bytes) -> bytes:
    """A seed changed in one of these ways. The first byte of a seed may say which file is meant: it stays."""
    for way in random.sample([_json, _archive, _bytes], 3):
        for start in (0, 1):
            found = way(random, seed[start:])
            if found is not None:
                return seed[:start] + found
    return seed


def _json(random, seed: bytes) -> bytes | None:
    try:
        data = json.loads(seed)
    except (ValueError, RecursionError):
        return None
    holder = [copy.deepcopy(data)]
    for _ in range(random.choice([1, 1, 1, 2, 4])):
        _change(random, holder)
    text = json.dumps(holder[0])
    return (text.replace("1e+308", "1" * 400) if random.random() < 0.1 else text).encode()


def _change(random, holder) -> None:
    """Changes one place, at any depth, in a list or an object."""
    while True:
        keys = list(holder) if isinstance(holder, dict) else list(range(len(holder)))
        if not keys:
            return
        key = random.choice(keys)
        inner = holder[key]
        if isinstance(inner, list | dict) and inner and random.random() < 0.8:
            holder = inner
            continue
        how = random.randrange(4)
        if how == 0 and isinstance(holder, dict):
            del holder[key]
        elif how == 1 and isinstance(holder, list):
            holder[key:key] = [copy.deepcopy(inner)] * random.choice([1, 2, 300])
        elif how == 2 and isinstance(inner, int | float):
            holder[key] = random.choice([inner + 1, -inner, inner * 1e9, str(inner), [inner]])
        else:
            holder[key] = copy.deepcopy(random.choice(VALUES))
        return


def _archive(random, seed: bytes) -> bytes | None:
    """One member of a zip archive changed, or left out, or doubled; packed anew."""
    if not seed.startswith(b"PK"):
        return None
    with contextlib.suppress(zipfile.BadZipFile), zipfile.ZipFile(io.BytesIO(seed)) as archive:
        members = {name: archive.read(name) for name in archive.namelist()}
        name = random.choice(list(members))
        if random.random() < 0.1:
            del members[name]
        elif random.random() < 0.1:
            members[random.choice(["x.npy", "../x.npy", "masks.npy", "keypoints.npy", "data.pkl"])] = members[name]
        else:
            members[name] = _bytes(random, members[name], head=random.choice([128, 1 << 30]))
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w", random.choice([zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED])) as changed:
            for name, data in members.items():
                changed.writestr(name, data)
        return file.getvalue()
    return None


def _bytes(random, seed: bytes, head: int = 1 << 30) -> bytes:
    """Bytes changed, doubled or taken out, or the rest cut off; within the first `head`."""
    data = bytearray(seed)
    for _ in range(random.choice([1, 1, 2, 4, 8])):
        at, length = random.randrange(min(len(data), head) + 1), random.randint(1, 16)
        how = random.randrange(6)
        if how == 0:
            del data[at : at + length]
        elif how == 1:
            data[at:at] = data[max(at - length, 0) : at] or b"9" * length
        elif how == 2 and at < len(data):
            data[at] = random.randrange(256)
        elif how == 3 and at < len(data):
            data[at] ^= 1 << random.randrange(8)
        elif how == 4 and random.random() < 0.2:
            del data[at:]
        else:
            put = random.choice(BYTES)
            data[at : at + random.choice([1, len(put)])] = put
    return bytes(data)
