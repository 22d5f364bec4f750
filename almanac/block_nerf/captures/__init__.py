"""Photos with poses, from whatever a user has."""
