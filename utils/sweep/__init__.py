"""Many trials over a grid of settings, side by side on Ray Tune."""
