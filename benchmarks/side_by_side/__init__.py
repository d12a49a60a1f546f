"""Comparison of engines on the same embeddings, each in a process and, where needed, an environment of its own.

Only `export` and the engines import more than numpy, so that `worker` runs wherever an engine is installed.
"""
