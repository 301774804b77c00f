"""Detectors, and what looks for persons with them."""
