"""Tests of utils/common."""
