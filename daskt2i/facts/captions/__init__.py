"""What captions mention: people, groups, activities. Rules in a file, no model.

In here: the rule file and its reader (`rules`, `rules.yaml`), finding words (`mentions`), people (`people`), activities
(`activities`).
Not in here: counting over a data set (`facts.survey`, `insights`).
To add a word: a line in `rules.yaml`. To bring rules of your own: `facts.rules` in a workflow.
"""
