"""What made videos say of themselves, and what `tpc-fast verify` makes of it: tag, record, signature."""

import hashlib
import json
import os
import sys

import numpy as np
import pytest
from PIL import Image
from scene import PERSON, scene

import tpc_fast
from tpc_fast import Calibration
from tpc_fast.cli import verify
from tpc_fast.cli.main import CONSENT, WITH_PHOTO, main
from tpc_fast.media.video import VideoReader, VideoWriter
from tpc_fast.output.credentials import Signer, photos_of
from tpc_fast.output.provenance import SOURCE_TYPE, Provenance, read_tag, sidecar

FRAMES = 6


def made(folder, rng, sign=None, name="out.mp4", **more):
    """A small video with its marks."""
    path = folder / name
    marks = Provenance(path, str(folder / "models" / "my model"), "champ", "ab" * 32, sign, seed=3, **more)
    with VideoWriter(path, 30, (48, 64), metadata=marks.metadata, finish=marks.finish) as video:
        for _ in range(FRAMES):
            video.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    marks.write()
    return path


def encoded_again(path, target, keep=True):
    """As `ffmpeg -i path target` does."""
    import av

    with av.open(str(path)) as source, av.open(str(target), "w") as out:
        if keep:
            out.metadata.update(source.metadata)
        stream = out.add_stream("libx264", 30)
        stream.width, stream.height, stream.pix_fmt = 64, 48, "yuv420p"
        for frame in source.decode(video=0):
            out.mux(stream.encode(frame.reformat(format="yuv420p")))
        out.mux(stream.encode(None))
    return target


def told(path, capsys, *more):
    """(exit status, what is said, what --json says)."""
    capsys.readouterr()
    code = main(["verify", str(path), *more])
    words = capsys.readouterr().out
    assert main(["verify", str(path), "--json", *more]) == code
    found = json.loads(capsys.readouterr().out)
    assert verify.STATUSES[found["status"]] == code
    return code, words, found


# Tag and record


def test_the_tag_names_tool_version_model_and_source_type(tmp_path, rng):
    path = made(tmp_path, rng)
    tag = read_tag(path)
    assert tag["tool"] == "tpc_fast"
    assert tag["version"] == tpc_fast.__version__
    assert (tag["model"], tag["kind"]) == ("my model", "champ")  # and not where it lies
    assert tag["digitalSourceType"] == SOURCE_TYPE
    assert b"trainedAlgorithmicMedia" in path.read_bytes()  # in plain text, for every other reader
    assert str(tmp_path).encode() not in path.read_bytes()
    assert len(list(VideoReader(path))) == FRAMES


def test_the_record_beside_it(tmp_path, rng):
    path = made(tmp_path, rng)
    record = json.loads(sidecar(path).read_text())
    assert record["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert record["photo_sha256"] == "ab" * 32
    assert record["settings"] == {"seed": 3}
    assert record["signed"] is False
    assert record["digitalSourceType"] == SOURCE_TYPE
    assert str(tmp_path) not in sidecar(path).read_text()
    assert sorted(p.name for p in tmp_path.iterdir()) == ["out.mp4", "out.mp4.json"]
    made(tmp_path, rng)  # ours is replaced
    assert json.loads(sidecar(path).read_text())["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()


def test_a_file_of_yours_is_not_replaced(tmp_path, rng):
    (tmp_path / "out.mp4.json").write_text('{"mine": 1}')
    with pytest.raises(FileExistsError, match="move it away"):
        made(tmp_path, rng)
    assert [p.name for p in tmp_path.iterdir()] == ["out.mp4.json"]


def test_a_finish_that_fails_leaves_nothing(tmp_path, rng):
    def fails(path):
        assert path.stat().st_size > 0
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        made(tmp_path, rng, fails)
    assert list(tmp_path.iterdir()) == []


def test_verify_a_tag(tmp_path, rng, capsys):
    path = made(tmp_path, rng)
    code, words, found = told(path, capsys)
    assert (code, found["status"], found["sidecar_of_this_file"]) == (4, "tag", True)
    assert "not signed" in words
    assert f"tag only: made by tpc_fast {tpc_fast.__version__} with the model my model" in words
    assert "trainedAlgorithmicMedia" in words
    assert "out.mp4.json beside it is of this very file" in words
    with open(path, "ab") as file:
        file.write(b"\0")
    _, words, found = told(path, capsys)
    assert found["sidecar_of_this_file"] is False
    assert "before it was changed" in words


def test_the_tag_survives_encoding(tmp_path, rng, capsys):
    again = encoded_again(made(tmp_path, rng), tmp_path / "again.mp4")
    assert told(again, capsys)[0] == 4


def test_verify_nothing(tmp_path, rng, capsys):
    bare = encoded_again(made(tmp_path, rng), tmp_path / "bare.mp4", keep=False)
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    for name, data in (("empty.mp4", b""), ("text.txt", b"hello"), ("noise.mp4", os.urandom(3000))):
        (tmp_path / name).write_bytes(data)
        assert told(tmp_path / name, capsys)[0] == 5
    for path in (bare, tmp_path / "photo.png"):
        code, words, found = told(path, capsys)
        assert (code, found["status"]) == (5, "nothing")
        assert "does not say how the file was made" in words
    assert main(["verify", str(tmp_path / "no.mp4")]) == 1
    assert "no file" in capsys.readouterr().err


@pytest.mark.parametrize("comment", ["x", "[1]", '{"format": "other"}', "[" * 50_000, '"' + "x" * 70_000 + '"'])
def test_comments_of_others_are_no_tag(tmp_path, comment):
    with VideoWriter(tmp_path / "a.mp4", 30, (16, 16), metadata={"comment": comment}) as video:
        video.write(np.zeros((16, 16), np.uint8))
    assert read_tag(tmp_path / "a.mp4") is None


def test_a_tag_does_not_command_the_terminal(tmp_path, capsys):
    tag = {"format": "tpc_fast.provenance", "tool": "\x1b[2J\u202e", "version": 1}
    with VideoWriter(tmp_path / "a.mp4", 30, (16, 16), metadata={"comment": json.dumps(tag)}) as video:
        video.write(np.zeros((16, 16), np.uint8))
    assert main(["verify", str(tmp_path / "a.mp4")]) == 4
    words = capsys.readouterr().out
    assert "\x1b" not in words
    assert "\\u001b[2J" in words


def test_a_name_begins_no_line_of_its_own(tmp_path, rng, capsys):
    """A tag whose model is called "x, line end, signed by ..." does not look like a signature."""
    path = tmp_path / "out.mp4"
    marks = Provenance(path, "x\nsigned by Example; valid, not changed since\r", "champ")
    with VideoWriter(path, 30, (48, 64), metadata=marks.metadata) as video:
        video.write(rng.integers(0, 255, (48, 64, 3), dtype=np.uint8))
    code, words, _ = told(path, capsys)
    assert code == 4
    assert len(words.splitlines()) == 2
    assert r"x\nsigned by Example" in words


def test_a_record_beside_it_is_small(tmp_path, rng, capsys):
    """What is read takes some ten times as much memory."""
    path = made(tmp_path, rng)
    text = sidecar(path).read_text()
    sidecar(path).write_text(text + " " * (1 << 20))
    assert told(path, capsys)[2]["sidecar_of_this_file"] is None


@pytest.mark.parametrize(
    "assertion",
    [None, [], {"actions": None}, {"actions": "x"}, {"actions": [None, [], {"digitalSourceType": [SOURCE_TYPE]}]}],
)
def test_assertions_are_what_their_author_wrote(assertion):
    from tpc_fast.output.credentials import _judged

    manifest = {"assertions": [{"label": "c2pa.actions.v2", "data": assertion}], "signature_info": None}
    found = {"active_manifest": "a", "manifests": {"a": manifest}, "validation_state": "Valid"}
    assert _judged(found, False).generated is False


def test_exit_statuses_and_consent_are_in_the_help(capsys):
    for name, wanted in (("verify", verify.EXIT_STATUSES), *((name, CONSENT) for name in WITH_PHOTO)):
        with pytest.raises(SystemExit):
            main([name, "--help"])
        assert wanted in " ".join(capsys.readouterr().out.split())


# The photo's hash


def test_a_calibration_keeps_the_hash_of_the_photo(tmp_path):
    image, mask, driving, keypoints, masks, _ = scene(np.random.default_rng(4), 3)
    Image.fromarray(image).save(tmp_path / "photo.png")
    options = dict(
        size=64, reference_keypoints=PERSON, reference_mask=mask, driving_keypoints=keypoints, driving_masks=masks
    )
    calibration = tpc_fast.calibrate(tmp_path / "photo.png", driving, **options)
    expected = hashlib.sha256((tmp_path / "photo.png").read_bytes()).hexdigest()
    assert calibration.reference_sha256 == expected
    calibration.save(tmp_path / "out")
    record = json.loads((tmp_path / "out/calibration.json").read_text())
    assert record["reference"]["sha256"] == expected
    assert Calibration.load(tmp_path / "out").reference_sha256 == expected
    assert tpc_fast.calibrate(image, driving, **options).reference_sha256 is None
    for value, wrong in ((None, False), ("ab", True), (5, True)):
        record["reference"]["sha256"] = value
        (tmp_path / "out/calibration.json").write_text(json.dumps(record))
        if wrong:
            with pytest.raises(ValueError, match="sha256 must be 64 hexadecimal digits"):
                Calibration.load(tmp_path / "out")
        else:
            assert Calibration.load(tmp_path / "out").reference_sha256 is None
    del record["reference"]["sha256"]  # of an earlier version
    (tmp_path / "out/calibration.json").write_text(json.dumps(record))
    assert Calibration.load(tmp_path / "out").reference_sha256 is None


def test_the_original_photo_is_taken_if_it_is_the_same(tmp_path):
    original, copy = tmp_path / "photo.jpg", tmp_path / "reference.png"
    original.write_bytes(b"photo")
    digest = hashlib.sha256(b"photo").hexdigest()
    assert photos_of(tmp_path, str(original), digest, copy.name) == [original, copy]
    original.write_bytes(b"another")
    assert photos_of(tmp_path, str(original), digest, copy.name) == [copy]
    assert photos_of(tmp_path, str(tmp_path / "gone"), digest, copy.name) == [copy]
    assert photos_of(tmp_path, None, None, copy.name) == [copy]


# Signed


@pytest.fixture
def certificates(tmp_path):
    import certificates

    (tmp_path / "keys").mkdir()
    return lambda *args, **more: certificates.make(tmp_path / "keys", *args, **more)


def signed(folder, rng, files, name="out.mp4"):
    photo = folder / "photo.png"
    Image.fromarray(rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)).save(photo)
    signer = Signer(*files.split(","))
    assert signer.check([folder / "no.png", photo]) == photo
    tag = {"model": "my model", "kind": "champ"}
    return made(folder, rng, lambda video: signer.sign(video, photo, name, tag), name)


@pytest.mark.provenance
@pytest.mark.parametrize("kind", ["P-256", "P-384", "P-521", "RSA", "Ed25519"])
def test_a_signed_video(tmp_path, rng, capsys, certificates, kind):
    path = signed(tmp_path, rng, certificates(kind))
    assert len(list(VideoReader(path))) == FRAMES
    assert sorted(p.name for p in tmp_path.iterdir()) == ["keys", "out.mp4", "out.mp4.json", "photo.png"]
    code, words, found = told(path, capsys)
    assert (code, found["status"]) == (0, "signed")
    assert "signed by Example signer (Example studio); valid, not changed since" in words
    assert "give --trust" in words
    assert "says: made by a trained model" in words
    digest = hashlib.sha256((tmp_path / "photo.png").read_bytes()).hexdigest()
    assert f"says: made from reference photo, SHA-256 of the file: {digest}" in words
    assert "with the model my model" in words
    assert found["sidecar_of_this_file"] is True
    assert found["trusted"] is None
    assert b"thumbnail" not in path.read_bytes()


@pytest.mark.provenance
def test_who_vouches_for_the_signer(tmp_path, rng, capsys, certificates):
    path = signed(tmp_path, rng, certificates())
    root = tmp_path / "root.pem"
    root.write_bytes((tmp_path / "keys/root.pem").read_bytes())
    code, words, found = told(path, capsys, "--trust", str(root))
    assert (code, found["trusted"]) == (0, True)
    assert "a root that you trust vouches" in words
    certificates()  # another root
    code, words, found = told(path, capsys, "--trust", str(tmp_path / "keys/root.pem"))
    assert (code, found["status"]) == (3, "untrusted")
    assert "none of the given roots" in words
    root.write_text("no")
    assert main(["verify", str(path), "--trust", str(root)]) == 1
    assert "--trust must be a PEM file" in capsys.readouterr().err


@pytest.mark.provenance
@pytest.mark.parametrize("where", ["pictures", "index", "tag", "manifest"])
def test_a_changed_byte_is_seen(tmp_path, rng, capsys, certificates, where):
    """Everywhere but in padding."""
    path = signed(tmp_path, rng, certificates())
    data = bytearray(path.read_bytes())
    if where in ("pictures", "index"):
        place = data.rfind({"pictures": b"mdat", "index": b"moov"}[where])
        start, end = place + 4, place - 4 + int.from_bytes(data[place - 4 : place], "big")
    else:
        words, index = b"trainedAlgorithmicMedia", data.rfind(b"moov")
        start = data.find(words, index if where == "tag" else 0)
        assert (start > index) == (where == "tag")
        end = start + len(words)
    data[rng.integers(start, end)] ^= 1 << int(rng.integers(8))
    path.write_bytes(data)
    code, words, found = told(path, capsys)
    assert code == 3
    assert "CHANGED after signing" in words or "NOT VALID" in words
    assert found["sidecar_of_this_file"] is False


@pytest.mark.provenance
def test_encoding_again_loses_the_signature(tmp_path, rng, capsys, certificates):
    path = signed(tmp_path, rng, certificates())
    code, words, found = told(encoded_again(path, tmp_path / "again.mp4"), capsys)
    assert (code, found["status"]) == (4, "tag")
    assert words.startswith("not signed\n")
    assert told(encoded_again(path, tmp_path / "bare.mp4", keep=False), capsys)[0] == 5


@pytest.mark.provenance
def test_without_the_library(tmp_path, rng, capsys, certificates, monkeypatch):
    path, files = signed(tmp_path, rng, certificates()), certificates()
    plain = made(tmp_path, rng, name="plain.mp4")
    monkeypatch.setitem(sys.modules, "c2pa", None)
    assert main(["verify", str(path)]) == 1  # not "nothing": there is something that cannot be checked
    assert 'Content Credentials need c2pa-python: pip install "c2pa-python' in capsys.readouterr().err
    assert told(plain, capsys)[0] == 4
    with pytest.raises(ImportError, match="c2pa-python"):
        Signer(*files.split(","))


@pytest.mark.provenance
def test_keys_and_certificates_that_do_not_do(tmp_path, rng, certificates):
    from cryptography.hazmat.primitives import serialization as s
    from cryptography.hazmat.primitives.asymmetric import ec

    key, chain = certificates().split(",")
    other = ec.generate_private_key(ec.SECP256R1())
    (tmp_path / "other.pem").write_bytes(other.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption()))
    (tmp_path / "locked.pem").write_bytes(
        other.private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.BestAvailableEncryption(b"secret"))
    )
    (tmp_path / "curve.pem").write_bytes(
        ec.generate_private_key(ec.SECP256K1()).private_bytes(s.Encoding.PEM, s.PrivateFormat.PKCS8, s.NoEncryption())
    )
    for pair, words in (
        ((tmp_path / "other.pem", chain), "must be of the key"),
        ((tmp_path / "locked.pem", chain), "without a password"),
        ((tmp_path / "curve.pem", chain), "must be of the key"),
        ((chain, chain), "must be a private key"),
        ((key, key), "must hold certificates"),
    ):
        with pytest.raises(ValueError, match=words):
            Signer(*pair)
    with pytest.raises(FileNotFoundError):
        Signer(tmp_path / "no.pem", chain)
    (tmp_path / "note.txt").write_text("no photo")
    with pytest.raises(ValueError, match="nothing can be signed"):
        Signer(key, chain).check([tmp_path / "no.png"])


@pytest.mark.provenance
def test_a_certificate_that_has_ended(tmp_path, rng, certificates):
    signer = Signer(*certificates(days=-1).split(","))
    Image.new("RGB", (8, 8)).save(tmp_path / "photo.png")
    with pytest.raises(ValueError, match="nothing can be signed"):
        signer.check([tmp_path / "photo.png"])
