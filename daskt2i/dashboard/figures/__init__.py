"""Figures of a run for a page of Dask's dashboard, a pane of JupyterLab, and a report.

In here: colours, plots and tables with the same look, light and dark (`frame`); an encode (`encode`), its workers
(`workers`), its rejected rows (`rejected`), a training (`training`), an estimate beside what came true (`estimate`).
Not in here: what is known of a run (`dashboard.run_state`), which figures stand on which page (`dashboard.page`,
`dashboard.panes`).
To add a figure: a subclass of `frame.Figure`. Its `update` reads a `RunState`, and says in words if there is nothing.
"""
