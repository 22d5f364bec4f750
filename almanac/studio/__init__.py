"""The web: every system in a browser."""
