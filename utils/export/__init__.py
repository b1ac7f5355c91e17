"""A model to hand on: its file and its card."""
