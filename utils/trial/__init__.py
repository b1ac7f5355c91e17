"""Trials: their directories, checkpoints, record and provenance, and how they are scored and measured."""
