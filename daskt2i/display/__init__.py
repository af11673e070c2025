"""What events and results look like on a terminal. It writes to the console that it is given, and has none of its own.

In here: every event of every stage (`progress`, `encode_progress`, `train_progress`); results as tables (`tables`), an
estimate (`estimate`), the report of a data set (`insights`).
Not in here: what happens (`events`), where it is printed (`cli.console`), pages for a browser (`insights.page`).
To show something new: a listener of events here, or a function from a result to a rich renderable.
"""
