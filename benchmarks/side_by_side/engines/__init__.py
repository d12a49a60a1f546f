"""One module per engine; each has a function `engine()` that returns it."""
