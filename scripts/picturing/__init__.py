"""Makes the pictures of the documentation. scripts/docs-pictures runs it."""
