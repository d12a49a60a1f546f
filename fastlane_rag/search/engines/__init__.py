"""Engines: where queries meet all documents of a commit, on the host or on a CUDA device."""
