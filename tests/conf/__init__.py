"""Tests of utils/conf."""
