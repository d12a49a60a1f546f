"""Shared by the terminal and HTML views of routes and explanations. Imports nothing of the project."""
