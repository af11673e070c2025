"""Rows that are listed before an image is read: what all sources of plain files share.

In here: the rows in memory, and collecting them (`index`); a source of such rows (`source`); records of JSON Lines and
of CSV (`records`), and which of their columns hold names, captions and ids (`columns`); tables of web addresses
(`web_addresses`).
Not in here: the formats of data sets (the sources beside this room), where bytes lie (`files`).
To add a format: subclass `source.ListedSource` beside this room, and collect its rows with `index.Rows`.
"""
