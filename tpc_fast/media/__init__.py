"""Pictures, videos and the canvas: what is read from files and written to them."""
