"""Training in float64, where what kernels, processes and batches round differently stays that small.

In float32 Adam makes differences of 1e-4 of it: a gradient about as small as its rounding has the rounding's sign, and
the step has its full length whatever the gradient's size. Which kernel runs is the processor's choice.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch

from sparnet import images


@contextmanager
def in_float64() -> Iterator[None]:
    """New networks and all faces have float64 within; models are still loaded as float32."""
    to_tensor = images.to_tensor
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(images, "to_tensor", lambda image: to_tensor(image).double())
        torch.set_default_dtype(torch.float64)
        try:
            yield
        finally:
            torch.set_default_dtype(torch.float32)
