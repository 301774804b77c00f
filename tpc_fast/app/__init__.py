"""The page of `tpc-fast serve`: photo and video in, calibrated frames out, in a browser on this machine."""
