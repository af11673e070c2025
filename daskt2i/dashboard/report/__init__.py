"""The report of a whole run, made from its folder: a summary for a terminal, JSON, and one HTML file.

In here: what a run folder says of its run (`rebuild`), the result with its view and its JSON (`result`), the page of
the dashboard as one file that makes no request (`html`), and writing such a file (`page_file`).
Not in here: pages of a running cluster (`page`, `panes`), the state of a store for `status` (`store.status`), the
report of a data set (`insights`).
To show something new: an attribute of `RunState` first. Then it is on the page of the dashboard, and in the file.
"""
