"""Ownership of file descriptors: who closes what, and when."""

from ._native.fd import OwnedFd

__all__ = ["OwnedFd"]
