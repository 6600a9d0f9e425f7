"""Lint: engines' commands found in texts, and checked before a GPU is held. See docs/lint.md."""
