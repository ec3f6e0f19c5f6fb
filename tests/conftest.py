"""Fixtures that every test may use."""

from hub import local_hub

__all__ = ["local_hub"]
