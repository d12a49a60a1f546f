"""Engines that need numpy alone."""
