"""Stable Diffusion: pictures from words, from pictures and words, and into holes of pictures."""
