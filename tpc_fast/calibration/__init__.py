"""The main job, on a stream and on a whole video, and its result."""
