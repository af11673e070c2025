"""What captions say of the people in a picture.

`rules` loads word lists (`rules.yaml`), `mentions` finds the person words of a caption, `activities` their verbs, and
`people` takes the captions of an image together.

To count other things, or captions in another language, copy `rules.yaml`, change it, and name it with
`--set dataset.facts.rules=FILE`.
"""
