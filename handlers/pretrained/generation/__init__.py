"""Writing texts on with a model of transformers: many at once, token by token, over a cache of keys and values."""
