"""Cold Diffusion (Bansal et al. 2022, arXiv 2208.09392): diffusion that inverts any degradation, without noise."""
