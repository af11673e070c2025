"""Facts about rows, from captions, files and annotations. They need no model.

In here: the table with a line for each row (`table`), the code that fills it (`survey`, `captions`, `coco_instances`,
`near_duplicates`), and `dataset.where`: its language (`expression`) and the source with the kept rows (`selection`);
rows under other numbers (`renumbered`), in the order of their aspect buckets (`bucketed`, `image_sizes`).
Not in here: the report of a data set (`insights`), sources themselves.
Imports: `images`, `store` and the rooms above them.
To add a fact: a column in `table`, the code that fills it, a line in docs/reference/facts.md.
"""
