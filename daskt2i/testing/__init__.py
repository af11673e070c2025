"""Conformance suites: subclass one, give it your class, and it is tested as ours are.

In here: a suite each for sources (`source`), encoders (`encoder`), stores (`store`) and executors (`executor`).
Not in here: the tests of daskt2i itself (`tests/`), fakes (`sources.fake`, `encoders.fake`).
Who imports it: tests, ours and yours. No other room may.
To add a suite: one class for one protocol in `daskt2i.protocols`; each method is a promise of that protocol.
"""
