"""Judging retrieval: datasets, metrics, the compared methods, and where a figure was measured."""
