"""Gran Turismo Sophy (Wurman et al. 2022): a racing simulator at the limit of grip, the limit itself, and what drives at it."""
