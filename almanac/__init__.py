"""Almanac: the deep learning of 2022, runnable."""

__version__ = "0.1.0"
