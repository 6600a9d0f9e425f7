"""Clients of the endpoint: their settings, edited and undone; and a real call to see who answers."""
