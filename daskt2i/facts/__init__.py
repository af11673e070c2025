"""What is known of rows before any model sees them: from captions, files and annotations.

In here: one table with a line for each row (`table`), what fills it (`survey`, `captions`, `coco_instances`,
`near_duplicates`), and `--where`: the language (`expression`) and the source that keeps the rows (`selection`).
Not in here: the report of a data set (`insights`), sources themselves.
Imports: `images`, `store` and the rooms above them.
To add a fact: a column in `table`, the code that fills it, a line in docs/reference/facts.md.
"""
