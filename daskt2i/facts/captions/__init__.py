"""Finds people, groups and activities in captions, with rules from a file and without a model.

In here: the rules file and its reader (`rules`, `rules.yaml`), finding words (`mentions`), people (`people`),
activities (`activities`).
Not in here: counting over a data set (`facts.survey`, `insights`).
To add a word: a line in `rules.yaml`. To use your own rules: the setting `dataset.facts.rules`.
"""
