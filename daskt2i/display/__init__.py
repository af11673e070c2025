"""What events and results look like on a terminal and in a notebook. It writes to the console that it is given.

In here: the listener for the place where Python runs (`listener`): bars and lines (`progress`), a notebook's line
(`notebook`), what the events of a stage say (`encode_progress`, `train_progress`, `stage_progress`, `rate`); results as
tables of a terminal (`tables`), an estimate (`estimate`), the report of a data set (`insights`).
Not in here: what happens (`events`), what a result shows of itself (`view`), where it is printed (`cli.console`),
errors in a notebook (`notebooks`), pages for a browser (`insights.page`).
To show something new: a listener of events here, or a function from a result to a rich renderable.
"""
