"""Tests of what speaks, as far as no engine need be started."""
