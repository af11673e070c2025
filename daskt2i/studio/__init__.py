"""The studio: a page in the browser that shows runs, follows trainings and draws pictures while you type.

    python -m daskt2i.workflow studio runs

In here: the server and its address (`serve`), who may ask (`access`), the runs that it shows (`library`), what the page
asks for (`app`, `answers`, `training`, `drawing`, `draw_queue`), the page itself (`static`: plain HTML, CSS and
JavaScript, and uPlot for curves).
Not in here: anything that a run can do. The studio stands on `daskt2i.Run` alone, and imports nothing below it.
Only `cli` imports it. To add a view: a module with its routes here, a line in `app`, and a script in `static`.
"""
