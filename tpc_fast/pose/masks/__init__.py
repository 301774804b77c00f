"""Masks of persons: segmenters, DensePose."""
