"""A live page to search a split and listen to its clips."""
