"""The rules that find problems in facts, each with what to do.

In here: the workers as a group and their scheduler (`cluster`), the machines below them (`machines`), what workers see
of a workflow (`workflow`), measured connections and clocks (`network`).
Not in here: collecting facts (`bare`, `sight`, `speeds`), problems of the plan itself: its own errors say them.
A rule is a function from `facts.Found` to problems. Facts that nobody told are no problem. A rule must not report
anything on a healthy machine, however busy: no rule looks at the load or at the time of day.
"""
