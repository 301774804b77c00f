"""What is made of a calibration: pictures, previews, reports, pose videos, folders."""
