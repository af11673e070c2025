"""The studio: its server, what it answers, its page."""
