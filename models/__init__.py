"""The dual encoder, as the paper draws it; imports nothing of utils."""
