"""What an error of the work is, and what follows from it.

In here: the kinds of errors and what happens after each kind (`kinds`), waiting for what may come back (`patience`),
giving up what does not return (`time_limit`), workers that fail what others finish (`suspects`).
Not in here: limits that are plain numbers (`retries`), the classes of our own errors (`errors`), the loop over the
chunks (`encode`), workers that die (`executors`).
To add an error: name it in `kinds`, and give it a line in docs/reference/errors-and-retries.md. A test reads that page
and compares every line with `kinds`.
"""
