"""One module an engine; each has `engine()`, which gives one."""
