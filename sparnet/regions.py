"""Which pixel belongs to which part of the face.

68 landmarks -> outlines -> brows, eyes, nose, mouth, skin (the face without them), rest (hair, neck, background)
5 points -> where the alignment puts the face on the template -> the 68 of a face drawn on it, moved back --^ coarser
"""

import cv2
import numpy as np

from sparnet.faces import TEMPLATE, TEMPLATE_SIDE, Face, crop_transform, inverse_transform, transform_points

# Points of 300-W's 68. An outline is the hull of its points, widened by a share of the distance of the eyes.
OUTLINES = {  # name: (groups of points, one hull each; how much wider), in the order in which they claim pixels
    "eyes": ((range(36, 42), range(42, 48)), 0.08),  # with lids and lashes
    "brows": ((range(17, 22), range(22, 27)), 0.05),  # the points run along the middle of a brow
    "mouth": ((range(48, 60),), 0.03),
    "nose": ((range(27, 36),), 0.05),  # the points run inside the wings
}
FOREHEAD = 0.6  # of the way from nose to brows, by which the brows are raised to where the hair begins: an estimate
REGIONS = (*OUTLINES, "skin", "rest")


def _arc(centre: tuple, radii: tuple, first: float, last: float, points: int) -> np.ndarray:
    """Points on an ellipse from one angle to another in degrees: 0 to the right, 90 down."""
    angles = np.radians(np.linspace(first, last, points))
    return np.array(centre) + np.column_stack((np.cos(angles), np.sin(angles))) * radii


# A frontal face of middling proportions, mouth closed, on the FFHQ template's 512x512 pixels: placed by hand around the
# template's own five points, no mean of anybody's landmarks.
_MIDDLE, _LIPS = TEMPLATE[:, 0].mean(), TEMPLATE[3:].mean(axis=0) + np.array((0, 2))
TEMPLATE68 = np.concatenate(
    (
        _arc((_MIDDLE, 245), (141, 225), 180, 0, 17),  # jaw, from ear to ear
        _arc(TEMPLATE[0] - (10, 28), (43, 24), 180, 360, 5),  # brows
        _arc(TEMPLATE[1] + (10, -28), (43, 24), 180, 360, 5),
        np.linspace((_MIDDLE, 240), TEMPLATE[2], 4),  # bridge of the nose
        _arc(TEMPLATE[2] + (0, 10), (25, 8), 180, 0, 5),  # and its wings
        *(_arc(eye, (29, 10), 180, 480, 6) for eye in TEMPLATE[:2]),
        _arc(_LIPS, (56, 20), 180, 510, 12),  # lips, outside and inside
        _arc(_LIPS, (46, 6), 180, 495, 8),
    )
)


def region_masks(landmarks68: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Landmarks (68,2) xy in pixels of a size x size picture -> masks (size,size) bool by the names of `REGIONS`.

    Each pixel is in exactly one; a region outside the picture is empty. `ValueError` unless these are 68 finite points.
    """
    points = np.asarray(landmarks68, float)
    if points.shape != (68, 2) or not np.isfinite(points).all():
        raise ValueError(f"landmarks are (68, 2) finite numbers; these are {points.shape} or not finite")
    eyes = np.linalg.norm(points[36:42].mean(axis=0) - points[42:48].mean(axis=0))
    free = np.ones((size, size), bool)
    masks = {}
    for name, (groups, wider) in OUTLINES.items():
        masks[name] = free & np.any([_hull(points[list(group)], wider * eyes, size) for group in groups], axis=0)
        free &= ~masks[name]
    jaw, brows, nose = points[:17], points[17:27], points[33]
    hairline = brows + FOREHEAD * (points[[21, 22]].mean(axis=0) - nose)
    masks["skin"] = free & _hull(np.concatenate((jaw, brows, hairline)), 0, size)
    masks["rest"] = free & ~masks["skin"]
    return masks


def masks_from_five_points(points: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Eyes, nose tip, mouth corners (5,2) xy in pixels of a size x size picture -> masks as of `region_masks`.

    Coarse: `TEMPLATE68` moved onto the face by the shift, turn and scale that align it, so each face has the drawn
    face's proportions, its mouth closed and its head straight. (Overlap with the masks of 68 true landmarks, median IoU
    of 50 Helen faces: brows 0.51, eyes 0.66, nose and mouth 0.69, skin 0.71, rest 0.90.) `UserError` if the points do
    not span a face.
    """
    points = np.asarray(points, float)
    if points.shape != (5, 2):
        raise ValueError(f"points are eyes, nose, mouth corners, (5, 2) numbers; these are {points.shape}")
    box = np.concatenate((points.min(axis=0), points.max(axis=0)))
    to_points = inverse_transform(crop_transform(Face(box, points), TEMPLATE_SIDE))
    return region_masks(transform_points(to_points, TEMPLATE68), size)


def _hull(points: np.ndarray, margin: float, size: int) -> np.ndarray:
    """(size,size) bool: the convex hull of the points, `margin` pixels wider, with its border."""
    hull = cv2.convexHull(points.astype(np.float32))
    fixed = np.rint(hull * 16).astype(np.int32)  # OpenCV's fixed point: 4 bits of a pixel's fraction
    mask = cv2.fillConvexPoly(np.zeros((size, size), np.uint8), fixed, 1, shift=4)
    return cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= margin
