"""YouChat (You.com, 2022): answers from a search index of one's own, every sentence with a reference that can be checked."""
