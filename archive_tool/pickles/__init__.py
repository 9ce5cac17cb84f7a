"""The imports and the content of a pickle, found without unpickling it."""
