"""Ownership of file descriptors: who closes what, and when."""

from ._native.fd import OwnedFd, watch_births

__all__ = ["OwnedFd", "watch_births"]
