"""Which pixel belongs to which part of the face.

68 landmarks -> outlines -> brows, eyes, nose, mouth, skin (the face without them), rest (hair, neck, background)
"""

import cv2
import numpy as np

# Points of 300-W's 68. An outline is the hull of its points, widened by a share of the distance of the eyes.
OUTLINES = {  # name: (groups of points, one hull each; how much wider), in the order in which they claim pixels
    "eyes": ((range(36, 42), range(42, 48)), 0.08),  # with lids and lashes
    "brows": ((range(17, 22), range(22, 27)), 0.05),  # the points run along the middle of a brow
    "mouth": ((range(48, 60),), 0.03),
    "nose": ((range(27, 36),), 0.05),  # the points run inside the wings
}
FOREHEAD = 0.6  # of the way from nose to brows, by which the brows are raised to where the hair begins: an estimate
REGIONS = (*OUTLINES, "skin", "rest")


def region_masks(landmarks68: np.ndarray, size: int) -> dict[str, np.ndarray]:
    """Landmarks (68,2) xy in pixels of a size x size picture -> masks (size,size) bool by the names of `REGIONS`.

    Each pixel is in exactly one; a region outside the picture is empty. `ValueError` if that are not 68 finite points.
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


def _hull(points: np.ndarray, margin: float, size: int) -> np.ndarray:
    """(size,size) bool: the convex hull of the points, `margin` pixels wider, with its border."""
    hull = cv2.convexHull(points.astype(np.float32))
    fixed = np.rint(hull * 16).astype(np.int32)  # OpenCV's fixed point: 4 bits of a pixel's fraction
    mask = cv2.fillConvexPoly(np.zeros((size, size), np.uint8), fixed, 1, shift=4)
    return cv2.distanceTransform(1 - mask, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) <= margin
