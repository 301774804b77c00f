"""Keypoints and masks in files and as given by the user."""
