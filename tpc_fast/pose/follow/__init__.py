"""Who is who from frame to frame, and where everybody is."""
