"""Tests of where problems come from."""
