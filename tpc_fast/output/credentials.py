"""Content Credentials (C2PA, c2pa.org): made with a key and a certificate of yours, read and checked. No network."""

import io
import json
import mimetypes
import mmap
import os
import shutil
import tempfile
from pathlib import Path
from typing import NamedTuple

from tpc_fast._extras import INSTALL
from tpc_fast._version import __version__
from tpc_fast.media.files import sha256
from tpc_fast.output.provenance import SOURCE_TYPE

# Nothing is fetched: neither manifests that lie elsewhere nor lists of revoked certificates. No small pictures are
# put in, since the photo is the person's.
_SETTINGS = {
    "verify": {"remote_manifest_fetch": False, "ocsp_fetch": False},
    "builder": {"thumbnail": {"enabled": False}},
}
_LABEL = b"c2pa\0"  # C2PA 2.2, 11.1.4.2: how the box of the manifests is called, in files of any kind
_CURVES = {"secp256r1": "es256", "secp384r1": "es384", "secp521r1": "es512"}
_UNTRUSTED = "signingCredential.untrusted"


class Credentials(NamedTuple):
    """What was found in a file.

    Attributes:
        signer, issuer: common name and organisation of the certificate, as it says itself.
        changed: whether the file is not the one that was signed.
        problems: what else speaks against the signature, in the library's words.
        trusted: whether a chain leads to one of the roots; None: there were none to compare with.
        generated: whether it says that a trained model made the file.
        ingredients: titles and descriptions of what it was made from.
    """

    signer: str | None
    issuer: str | None
    changed: bool
    problems: list[str]
    trusted: bool | None
    generated: bool
    ingredients: list[str]


class Signer:
    """Signs files with a private key.

    Args:
        key: PEM file of the private key, without a password: EC (P-256, P-384, P-521), RSA or Ed25519.
        certificates: PEM file of its certificate, then those that vouch for it.

    Raises:
        FileNotFoundError: if a file is missing.
        ValueError: if they are no key and certificate, or do not belong together.
        ImportError: without the extra `provenance`.
    """

    def __init__(self, key: str | os.PathLike, certificates: str | os.PathLike):
        c2pa = _library()
        private, chain = Path(key).read_bytes(), Path(certificates).read_bytes()
        algorithm = _algorithm(private, chain, key, certificates)
        info = c2pa.C2paSignerInfo(algorithm, chain, private, None)
        try:
            self._signer = c2pa.Signer.from_info(info)
        except c2pa.C2paError as error:
            raise ValueError(f"--sign: {certificates} cannot be used: {error}") from error

    def check(self, photos: list[Path]) -> Path:
        """Signs a trial, so that what is wrong is seen before the work; the first photo that can be an ingredient.

        Raises:
            ValueError: if there is none, or nothing can be signed with these.
        """
        from PIL import Image

        c2pa, why = _library(), None
        picture = io.BytesIO()
        Image.new("RGB", (8, 8)).save(picture, "png")
        for photo in photos:
            try:
                self._embed(photo, "trial", {}, "image/png", io.BytesIO(picture.getvalue()), io.BytesIO())
                return photo
            except (c2pa.C2paError, OSError) as error:
                why = error
        raise ValueError(f"--sign: nothing can be signed with this key and certificate: {why}") from why

    def sign(self, video: Path, photo: Path, title: str, tag: dict) -> None:
        """Signs an mp4 in place: who made it with what, and from which photo.

        Args:
            video: the file.
            photo: what `check` gave.
            title: the name of the video.
            tag: of `Provenance`.

        Raises:
            ValueError: if it cannot be signed.
            OSError: if it cannot be written.
        """
        c2pa = _library()
        with tempfile.TemporaryFile(dir=video.parent) as signed:
            try:
                with open(video, "rb") as file:
                    self._embed(photo, title, tag, "video/mp4", file, signed)
            except c2pa.C2paError as error:
                raise ValueError(f"--sign: {title} cannot be signed: {error}") from error
            signed.seek(0)
            with open(video, "wb") as file:  # not renamed: the lock of a hidden file is on the file, not on its name
                shutil.copyfileobj(signed, file, 1 << 20)

    def _embed(self, photo, title, tag, form, source, target) -> None:
        c2pa = _library()
        made = {
            "action": "c2pa.created",
            "digitalSourceType": SOURCE_TYPE,
            "softwareAgent": {"name": tag.get("model", "trial"), "version": tag.get("kind", "")},
            "parameters": {"ingredientIds": ["photo"]},
        }
        manifest = {
            "claim_generator_info": [{"name": "tpc_fast", "version": __version__}],
            "title": title,
            "assertions": [{"label": "c2pa.actions.v2", "data": {"actions": [made]}}],
        }
        ingredient = {
            "title": "reference photo",
            "relationship": "inputTo",
            "instance_id": "photo",
            "description": f"SHA-256 of the file: {sha256(photo)}",  # the standard keeps none of an ingredient
        }
        with _context(c2pa) as context, c2pa.Builder(manifest, context=context) as builder, open(photo, "rb") as file:
            builder.add_ingredient(ingredient, mimetypes.guess_type(photo.name)[0] or "image/png", file)
            builder.sign(self._signer, form, source, target)


def photos_of(folder: Path, original: str | None, digest: str | None, copy: str) -> list[Path]:
    """Files of a calibration's photo, best first: the original, if it is still there and the same, then our copy."""
    found = [Path(original)] if original is not None and digest is not None and os.path.isfile(original) else []
    return [path for path in found if sha256(path) == digest] + [folder / copy]


def has_credentials(path: Path) -> bool:
    """Whether a file holds a box of Content Credentials, whole or damaged; nothing is checked."""
    with open(path, "rb") as file:
        if not os.fstat(file.fileno()).st_size:
            return False
        with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
            return data.find(_LABEL) >= 0


def read_credentials(path: Path, roots: str | os.PathLike | None = None) -> Credentials | None:
    """Reads and checks the Content Credentials in a file; None if there are none.

    Args:
        path: an mp4, a JPEG, or whatever else c2pa-python reads.
        roots: PEM file of the certificates that are trusted, or None.

    Raises:
        ImportError: without the extra `provenance`, if there are any.
        ValueError: if `roots` are no certificates.
    """
    if not has_credentials(path):
        return None
    c2pa = _library()
    with _context(c2pa, None if roots is None else _roots(roots)) as context, open(path, "rb") as file:
        form = mimetypes.guess_type(path.name)[0]
        try:
            with c2pa.Reader(form, file, context=context) as reader:
                found = json.loads(reader.json())
        except (c2pa.C2paError.ManifestNotFound, c2pa.C2paError.NotSupported):
            return None
        except c2pa.C2paError as error:
            return Credentials(None, None, True, [str(error)], None if roots is None else False, False, [])
    return _judged(found, roots is not None)


def _judged(found: dict, with_roots: bool) -> Credentials:
    manifest = found.get("manifests", {}).get(found.get("active_manifest"), {})
    signature = manifest.get("signature_info") or {}
    state, problems, changed = found.get("validation_state"), [], False
    if state not in ("Valid", "Trusted"):  # a stranger's certificate alone is Valid
        failures = found.get("validation_results", {}).get("activeManifest", {}).get("failure", [])
        status = {entry.get("code", ""): entry.get("explanation") or "" for entry in failures}
        changed = any(code.endswith((".mismatch", ".missing")) for code in status)
        problems = [f"{why or code} ({code})" for code, why in status.items() if code != _UNTRUSTED]
        problems = problems or [f"the library calls it {state}"]
    return Credentials(
        signer=signature.get("common_name"),
        issuer=signature.get("issuer"),
        changed=changed,
        problems=problems,
        trusted=(state == "Trusted") if with_roots else None,
        generated=SOURCE_TYPE in _source_types(manifest),
        ingredients=[
            ", ".join(str(one[name]) for name in ("title", "description") if one.get(name))
            for one in manifest.get("ingredients", [])
        ],
    )


def _source_types(manifest: dict) -> list:
    """What is in assertions is whatever their author put there."""
    data = [one.get("data") for one in manifest.get("assertions", []) if "actions" in str(one.get("label"))]
    lists = [one.get("actions") for one in data if isinstance(one, dict)]
    actions = [action for one in lists if isinstance(one, list) for action in one]
    return [action.get("digitalSourceType") for action in actions if isinstance(action, dict)]


def _library():
    try:
        import c2pa
    except (ImportError, OSError) as error:
        raise ImportError(f"Content Credentials need c2pa-python: {INSTALL['provenance']} ({error})") from error
    return c2pa


def _context(c2pa, roots: str | None = None):
    settings = dict(_SETTINGS)
    if roots is not None:
        settings["trust"] = {"trust_anchors": roots}
    return c2pa.Context.from_dict(settings)


def _roots(path) -> str:
    from cryptography import x509

    data = Path(path).read_bytes()
    try:
        x509.load_pem_x509_certificates(data)
        return data.decode("ascii")
    except ValueError as error:
        raise ValueError(f"--trust must be a PEM file of certificates, but {path} is not: {error}") from error


def _algorithm(private: bytes, chain: bytes, key, certificates) -> str:
    """The name of the signature that a key makes; it must be the key of the first certificate."""
    from cryptography import x509
    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

    try:
        loaded = serialization.load_pem_private_key(private, None)
    except (ValueError, TypeError) as error:
        raise ValueError(f"--sign: {key} must be a private key (PEM) without a password: {error}") from error
    try:
        first = x509.load_pem_x509_certificates(chain)[0]
    except ValueError as error:
        raise ValueError(f"--sign: {certificates} must hold certificates (PEM): {error}") from error
    if first.public_key() != loaded.public_key():
        raise ValueError(f"--sign: the first certificate in {certificates} must be of the key in {key}, but is not")
    if isinstance(loaded, ec.EllipticCurvePrivateKey) and loaded.curve.name in _CURVES:
        return _CURVES[loaded.curve.name]
    if isinstance(loaded, rsa.RSAPrivateKey):
        return "ps256"
    if isinstance(loaded, ed25519.Ed25519PrivateKey):
        return "ed25519"
    raise ValueError(f"--sign: {key} must be a key of P-256, P-384, P-521, RSA or Ed25519")
