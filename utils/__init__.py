"""The method under the original's names, and around it a room for each thing that a study needs."""
