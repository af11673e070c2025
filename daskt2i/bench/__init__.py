"""Benchmarks: how fast the stages run here, against what the machine could do, as tables that anyone can repeat.

How to add one: write a module whose functions measure and return plain values, one that makes a `report.Report` of them
(columns, cells, plots), and a command in `commands.bench` that calls both and hands the report to `console`. Terminal,
JSON, CSV, the page and the PNGs follow from the report.
"""
