"""The data that a user names by a place: which source reads it, and a first look at it.

In here: names, guesses and loading a workflow with such data (`choice`), the first rows of a place (`look`).
Not in here: the sources (`sources`), what a row looks like (`insights.first_rows`).
Imports: `sources`, `insights`, `dashboard.report.page_file` and the rooms above them.
"""
