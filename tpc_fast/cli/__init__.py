"""The command line. It holds no rule of its own."""
