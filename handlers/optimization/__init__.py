"""A model made faster: settings, compilers, lighter weights, and the guard over their outputs."""
