"""Tests of utils/report."""
