"""`status`: the whole path on one screen, and what holds it up now."""
