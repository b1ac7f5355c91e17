"""A page on which clips are found while one types, and listened to."""
