"""Tests of utils/search."""
