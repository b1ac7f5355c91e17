"""Tests of utils/dataset."""
