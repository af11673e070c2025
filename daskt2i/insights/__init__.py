"""The report of a data set: people, activities, captions, files, repeats.

In here: the figures (`report`), the HTML page (`page`), prompts suggested from captions (`suggest`), the stage that
makes the report (`driver`); the first rows of a data set (`first_rows`) and their page (`first_rows_page`); rejected
rows by name (`rejected_rows`).
Not in here: the facts of each row (`facts`), the report on a terminal (`display.insights`).
Imports: `facts`, `store`, `formatting` and the rooms above them.
"""
