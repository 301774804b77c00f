"""A person in three dimensions who walks, sits or turns, and a camera: keypoints whose truth is known.

Lengths are metres, x to the person's left, y up, z forward; segments after Drillis and Contini for 1.75 m.
"""

import numpy as np

SHOULDER, HIP, EYE, NOSE = 1.43, 0.93, 1.64, 1.60  # heights
UPPER_ARM, FOREARM, THIGH, SHANK = 0.33, 0.26, 0.43, 0.43
FACE = np.array(
    [[0, NOSE, 0.11], [0.032, EYE, 0.09], [-0.032, EYE, 0.09], [0.075, EYE - 0.02, 0.0], [-0.075, EYE - 0.02, 0.0]]
)
NECK = np.array([0, 1.5, 0.0])


def turn_y(points, angle):
    """Turned about the vertical, towards the person's left."""
    c, s = np.cos(angle), np.sin(angle)
    return points @ np.array([[c, 0, -s], [0, 1, 0], [s, 0, c]])


def swing(length, angle):
    """A limb that hangs down, swung forward."""
    return length * np.array([0, -np.cos(angle), np.sin(angle)])


def body(phase=None, *, heading=0.0, sit=0.0, nod=0.0, arms=0.5):
    """The 17 COCO keypoints [17, 3].

    Args:
        phase: of a walk, radians; None for somebody who stands.
        heading: where the person looks, radians; 0 at the camera.
        sit: 1 for somebody who sits (thighs forward); nod: of the head, radians; arms: how far they swing, radians.
    """
    step = 0.0 if phase is None else np.sin(phase)
    twist = 0.12 * step  # shoulders turn against the hips
    points = np.zeros((17, 3))
    c, s = np.cos(nod), np.sin(nod)
    face = FACE - NECK
    points[:5] = NECK + np.stack([face[:, 0], c * face[:, 1] - s * face[:, 2], s * face[:, 1] + c * face[:, 2]], -1)
    for side, sign in ((0, 1), (1, -1)):
        points[5 + side] = [0.19 * sign, SHOULDER, 0]
        points[11 + side] = [0.1 * sign, HIP, 0]
        arm = -arms * step * sign
        points[7 + side] = points[5 + side] + swing(UPPER_ARM, arm)
        points[9 + side] = points[7 + side] + swing(FOREARM, arm + 0.3 + 0.3 * max(arm, 0))
        leg = 0.45 * step * sign * (1 - sit) + 1.5 * sit
        bend = (0.5 * max(np.cos((phase or 0.0) + (0 if side else np.pi)), 0) if phase is not None else 0) * (1 - sit)
        points[13 + side] = points[11 + side] + swing(THIGH, leg)
        points[15 + side] = points[13 + side] + swing(SHANK, leg - bend - 1.5 * sit)
    points[5:11] = turn_y(points[5:11], twist)
    points[11:] = turn_y(points[11:], -twist)
    points[:, 1] += 0.02 * np.cos(2 * phase) if phase is not None else 0
    return turn_y(points, heading)


def film(points, *, place=(0.0, 0.0), distance=4.0, focal=1000.0, middle=(640.0, 400.0)):
    """Keypoints [17, 2] of points [17, 3] before a camera of that distance (metres) and focal length (pixels)."""
    depth = distance - points[:, 2]
    x = middle[0] + focal * (points[:, 0] + place[0]) / depth  # the person's left is on the right
    return np.stack([x, middle[1] - focal * (points[:, 1] - 1.2 + place[1]) / depth], -1)


def noisy(rng, points, size, share=0.5, correlation=0.8):
    """A detector's noise on keypoints [F, 17, 2] of a person of that size: a share of COCO's sigmas, correlated."""
    from tpc_fast.ops.procrustes import COCO_SIGMAS

    noise = rng.normal(size=points.shape)
    for f in range(1, len(noise)):
        noise[f] = correlation * noise[f - 1] + np.sqrt(1 - correlation**2) * noise[f]
    return points + share * COCO_SIGMAS[:, None] * size * noise


def walk(frames=96, fps=24.0, *, steps_per_second=1.8, headings=0.0, nods=0.05, distance=4.0, sideways=0.0, start=-1.0):
    """Keypoints [F, 17, 2] and times [F] of somebody who walks on the spot, or sideways (metres per second)."""
    times = np.arange(frames) / fps
    headings = np.broadcast_to(headings, frames)
    distances = np.broadcast_to(distance, frames)
    points = [
        film(
            body(np.pi * steps_per_second * t, heading=h, nod=nods * np.sin(5 * t)),
            place=(start * bool(sideways) + sideways * t, 0.0),
            distance=d,
        )
        for t, h, d in zip(times, headings, distances, strict=True)
    ]
    return np.array(points).reshape(-1, 17, 2), times
