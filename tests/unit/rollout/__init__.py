"""Tests of playing episodes, over an engine and an executor that follow a script."""
