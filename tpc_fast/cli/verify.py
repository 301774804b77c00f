"""`tpc-fast verify`: what a file says of how it was made, and whether that can be believed."""

import json
from pathlib import Path

from tpc_fast._checks import plain
from tpc_fast.media.reading import regular_file
from tpc_fast.output.credentials import Credentials, read_credentials
from tpc_fast.output.provenance import read_sidecar, read_tag, sidecar

#: What was found -> the exit status.
STATUSES = {"signed": 0, "changed": 3, "invalid": 3, "untrusted": 3, "tag": 4, "nothing": 5}
EXIT_STATUSES = (
    "of verify: 0 signed and unchanged (with --trust: by somebody a root vouches for), 3 signed, but changed, invalid "
    "or, with --trust, by a stranger, 4 a tag only, 5 nothing"
)


def add_options(command) -> None:
    command.add_argument("file", metavar="FILE", help="video or picture")
    command.add_argument(
        "--trust", metavar="ROOTS.pem", help="certificates of those whom you trust (default: the signer is only named)"
    )
    command.epilog += f"; {EXIT_STATUSES}"


def run(options) -> int:
    """Prints what is found; returns its exit status."""
    path = regular_file(options.file, "FILE")
    credentials = read_credentials(path, options.trust)
    tag, record = read_tag(path), read_sidecar(path)
    status = _status(credentials, tag)
    if options.json:
        found = {} if credentials is None else credentials._asdict()
        same = None if record is None else record["same"]
        print(json.dumps({"file": str(path), "status": status, **found, "tag": tag, "sidecar_of_this_file": same}))
    else:
        for line in [*_of_signature(status, credentials), *_of_tag(status, tag), *_of_record(path, record)]:
            print(plain(line).replace("\n", "\\n"))  # no name that is found begins a line of its own
    return STATUSES[status]


def _status(credentials: Credentials | None, tag: dict | None) -> str:
    if credentials is None:
        return "nothing" if tag is None else "tag"
    if credentials.changed:
        return "changed"
    if credentials.problems:
        return "invalid"
    return "untrusted" if credentials.trusted is False else "signed"


def _of_signature(status: str, found: Credentials | None) -> list[str]:
    if found is None:
        return [
            "not signed"
            if status == "tag"
            else "nothing found: no signature, no tag; that does not say how the file was made"
        ]
    who = f"{found.signer or 'somebody without a name'} ({found.issuer or 'no organisation'})"
    lines = {
        "signed": [f"signed by {who}; valid, not changed since"],
        "untrusted": [f"signed by {who}; valid, not changed since, but none of the given roots vouches for the signer"],
        "changed": [f"signed by {who}, but CHANGED after signing"],
        "invalid": [f"signed by {who}, but the signature is NOT VALID"],
    }[status]
    if found.trusted is None and status == "signed":
        lines.append("whether the signer is who the certificate says was not checked: give --trust ROOTS.pem")
    if found.trusted:
        lines.append("a root that you trust vouches for the signer")
    lines += [f"  {problem}" for problem in found.problems]
    lines.append("says: made by a trained model" if found.generated else "does not say that a model made it")
    return lines + [f"says: made from {title}" for title in found.ingredients]


def _of_tag(status: str, tag: dict | None) -> list[str]:
    if tag is None:
        return []
    kind = tag.get("digitalSourceType", "").rpartition("/")[2] or "no source type"
    made = f"{tag.get('tool', '?')} {tag.get('version', '?')} with the model {tag.get('model', '?')} ({kind})"
    if status == "tag":
        return [f"tag only: made by {made}; anybody can write, change or remove a tag"]
    return [f"tag: made by {made}"]


def _of_record(path: Path, record: dict | None) -> list[str]:
    if record is None:
        return []
    same = "is of this very file" if record["same"] else "is of another file, or of this one before it was changed"
    return [f"{sidecar(path).name} beside it {same}"]
