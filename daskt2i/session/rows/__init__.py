"""Changing the rows of a store: append, remove, replace.

In here: the methods of a run (`methods`), the steps of each change (`change`), the ids that a user gives (`names`).
Not in here: which rows are new (`encode.parts`), the object that says which rows count (`store.parts.rows_file`).
The last step of each change replaces this object. A command that is stopped before it has changed nothing that readers
see, and goes on when it is run again.
"""
