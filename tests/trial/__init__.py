"""Tests of utils/trial."""
