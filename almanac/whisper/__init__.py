"""Whisper: robust speech recognition by weak supervision (Radford et al. 2022)."""
