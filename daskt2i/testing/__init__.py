"""Conformance suites: subclass one to test your own class in the same way as the shipped classes.

In here: one suite each for sources (`source`), encoders (`encoder`), stores (`store`) and executors (`executor`).
Not in here: the tests of daskt2i itself (`tests/`), fakes (`sources.fake`, `encoders.fake`).
Importers: only tests, of daskt2i and of other packages.
To add a suite: one class for one protocol of `daskt2i.protocols`; each method tests one rule of the protocol.
"""
