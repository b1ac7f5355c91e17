"""Search in a scored split: clips by a text, captions by a sound."""
