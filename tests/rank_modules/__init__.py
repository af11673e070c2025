"""Modules that tests start as ranks."""
