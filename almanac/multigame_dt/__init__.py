"""Multi-Game Decision Transformers (Lee et al. 2022): one agent for many Atari games, from logged play."""
