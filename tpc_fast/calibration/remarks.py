"""What a user should know of a calibration, in words."""

import numpy as np

from tpc_fast.pose import keypoints as coco
from tpc_fast.pose.follow.quality import head_to_torso, moved, offsets

# From here on a sentence is worth the reader's time. Log scale per second: a person one and a half metres from the
# camera who comes nearer at a quick walk of 1.5 m/s. Heads or torsos that are off by half a head in a tenth of the
# frames are seen at once. A face a third larger beside the torso is a child's beside an adult's (a head is a sixth of
# the height of a child of six, an eighth of an adult's).
FAST_LOG_SCALE, FAST_SECONDS = 1.0, 0.2
FAR_OFF, OFTEN = 0.5, 0.1
OTHER_PROPORTIONS = 1.33
# Degrees by which a photo leans against the torso (median of the frames). Of 44 public pairs whose torsos are seen, six
# have 8 and more, which one sees; the others 6.6 and less.
LEANS = 7.5
REVERSED = 0.9  # share of the frames that show the photo's left where it has its right


def remarks(status, matrices, swapped, match, times, reference, keypoints, picture=None) -> list[str]:
    """Sentences about F frames of P persons.

    Args:
        status: [F, P]; matrices: [F, P, 2, 3]; swapped: [F, P]; match: [P]; times: [F]: as in `Calibration`.
        reference: [P, 17, 2] keypoints of the photo, NaN where missing; keypoints: [F, P, 17, 2], of the video.
        picture: the edges (left, top, right, bottom) of what the camera shows, on the canvas; None: unknown.
    """
    found = []
    if picture is not None:
        keypoints = _without_guesses(matrices, swapped, reference, keypoints, picture)
    head, torso = offsets(matrices, reference, keypoints)
    persons = status.shape[1]
    for p in range(persons):
        if match[p] < 0:
            found.append(f"nobody in the driving video plays person {p} of the reference")
            continue
        who = "" if persons == 1 else f" of person {p}"
        found += _of_statuses(status[:, p], who)
        seen = np.isin(status[:, p], ("tracked", "fallback"))
        found += _of_scale(matrices[:, p], seen, times, who)
        for part, off in (("head", head[:, p]), ("torso", torso[:, p])):
            known = seen & np.isfinite(off)
            share = (off[known] > FAR_OFF).mean() if known.any() else 0
            if share > OFTEN:
                found.append(
                    f"the {part}{who} is more than half a head off in {share:.0%} of the frames: head and torso "
                    "disagree"
                )
        found += _of_lean(matrices[seen, p], reference[p], keypoints[seen, p], who)
        with np.errstate(all="ignore"):
            theirs, ours = head_to_torso(keypoints[seen, p]), head_to_torso(reference[p])
        ratio = ours / np.median(theirs[np.isfinite(theirs)]) if np.isfinite(theirs).any() else np.nan
        if max(ratio, 1 / ratio) > OTHER_PROPORTIONS:
            size = "large" if ratio > 1 else "small"
            found.append(
                f"proportions{who} differ: beside the torso the photo's head is {max(ratio, 1 / ratio):.1f} times as "
                f"{size} as the video's"
            )
        if seen.any() and (share := swapped[seen, p].mean()) > REVERSED:
            found.append(
                f"left and right{who} are exchanged in {share:.0%} of the frames: the photo is mirrored, or one of the "
                "two shows a back"
            )
    return found


def _without_guesses(matrices, swapped, reference, keypoints, picture) -> np.ndarray:
    """The video's keypoints without those that the track puts beyond the picture: detectors guess them inside."""
    left, top, right, bottom = picture
    places = moved(matrices, np.where(swapped[..., None, None], reference[:, coco.MIRRORED], reference))
    beyond = (places < (left, top)) | (places > (right, bottom))
    return np.where(beyond.any(-1, keepdims=True), np.nan, keypoints)


def _of_statuses(status, who: str) -> list[str]:
    found = []
    for name, what in (
        ("fallback", "show too little to tell scale, angle and position: their neighbours fill in"),
        ("held", "show nothing of the person: the transform is carried over"),
        ("lost", "show nothing of the person for too long: it is faded out"),
    ):
        if count := int((status == name).sum()):
            found.append(f"{count} of {len(status)} frames{who} {what}")
    return found


def _of_lean(matrices, reference, keypoints, who: str) -> list[str]:
    """Of the frames [F] in which a person is seen: faces that look to different sides draw the photo from the torso."""

    def torso(points):
        hips, shoulders = (points[..., part, :].mean(-2) for part in (coco.HIPS, coco.SHOULDERS))
        return (shoulders - hips) @ (1, 1j)

    photo = torso(np.einsum("fij,kj->fki", matrices[..., :2], reference))
    lean = np.degrees(np.angle(photo * np.conj(torso(keypoints))))
    if not len(lean) or np.isnan(lean).mean() > 0.5 or abs(middle := float(np.nanmedian(lean))) < LEANS:
        return []
    way = "clockwise" if middle > 0 else "counterclockwise"
    return [
        f"the picture{who} is turned {abs(middle):.0f} degrees further {way} than the torso: a photo that looks to the "
        "same side as the video may fit better"
    ]


def _of_scale(matrices, seen, times, who: str) -> list[str]:
    log_scale = 0.5 * np.log(np.abs(np.linalg.det(matrices[:, :, :2].astype(np.float64))))
    (index,) = np.nonzero(seen)
    later = np.searchsorted(times[index], times[index] + FAST_SECONDS)
    later = later[later < len(index)]
    change = log_scale[index[later]] - log_scale[index[: len(later)]]
    fast = abs(change) > FAST_LOG_SCALE * np.maximum(times[index[later]] - times[index[: len(later)]], FAST_SECONDS)
    if not fast.any():
        return []
    first = int(index[int(np.argmax(fast))])
    return [f"the size{who} changes faster than a person can come nearer, first at frame {first}: look there"]
