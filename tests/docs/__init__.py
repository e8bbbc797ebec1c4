"""Tests that the documentation is true and complete."""
