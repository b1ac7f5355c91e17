"""Tests of utils/explore."""
