"""A part of San Francisco as it might be, built from its street map and houses, and photographed."""
