"""Cleaning: which recordings of a list are fit to train on, by the paper's heuristics (§2.1)."""
