"""Conformance suites: subclass one, give it your class, and pytest tells whether it keeps the promises of its seam."""
