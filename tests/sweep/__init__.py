"""Tests of utils/sweep."""
