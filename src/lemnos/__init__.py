"""lemnos."""
