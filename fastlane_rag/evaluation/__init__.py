"""Evaluating retrieval: datasets, metrics, compared methods, diagnosis, and the environment of a measurement."""
