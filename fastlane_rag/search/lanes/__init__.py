"""Lanes: the ways to find candidates for a query."""
