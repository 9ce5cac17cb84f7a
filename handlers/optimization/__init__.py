"""Model optimization: settings, compilers, converted weights, and the comparison of outputs."""
