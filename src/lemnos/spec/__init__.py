"""What a person writes, and the values that travel between the rooms."""
