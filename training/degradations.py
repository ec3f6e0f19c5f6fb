"""Sharp face -> degraded face, as a pure function.

    sharp (S,S,3) uint8 -> bicubic -> degraded (S,S,3) uint8

The degraded face has the size of the sharp one: the network takes it enlarged already.
"""

from numpy import ndarray

from sparnet import images


def bicubic(sharp: ndarray, small: int) -> ndarray:
    """Reduce to small x small and enlarge back, both PIL bicubic, as the paper and the released models do."""
    return images.degrade(sharp, small)
