"""Where people watch a run: pages and panes on Dask's dashboard, `events.jsonl` in the run folder, a report of it.

In here: what is told of a run, as messages (`messages`, `encode_tally`, `bounds`); what is known of a run from its
messages (`run_state`, `state`); the driver's side that writes and sends them (`listener`); figures for the
scheduler's `/metrics` (`metrics`); the plugin of the scheduler that hears them (`plugin`); our page (`page`) and panes
(`panes`) on Dask's dashboard, how they follow a run (`live`), their figures (`figures`); one HTML file of a whole run
(`report`).
Not in here: what happens (`events`), progress on a terminal and in a notebook (`display`), what a result shows of
itself (`view`), the state of a run folder for `status` (`store.status`).
To show something new: put it into a message, fold it in `RunState`, then draw it in `figures`. What a scheduler imports
(all but `listener` and `report`) needs no torch and reads no file.
"""
