"""The simulator: cars, tracks, and a world of both."""
