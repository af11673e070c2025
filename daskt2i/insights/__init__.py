"""The report of a data set: people, activities, captions, files, repeats.

In here: the figures (`report`), their page (`page`), prompts suggested from captions (`suggest`), the stage that makes
the report (`driver`).
Not in here: what is known of each row (`facts`), how a report looks on a terminal (`display.insights`).
Imports: `facts`, `store`, `formatting` and the rooms above them.
"""
