"""Block-NeRF (Tancik et al. 2022): a city from photos, block by block."""
