"""Where images with captions come from.

How to add one: write a class with the three methods of `daskt2i.protocols.Source` (`info`, `rows`, `read`), in a
module of your own or here, and name it in a workflow by its dotted path:

    dataset:
      source: {class: mypackage.mymodule.MySource, folder: /data/mine}

The constructor is cheap: it is called on the driver for `--dry-run` and again in every worker. Row `index` must stay
the same for ever, as it is the row of the store; `read` is called from several threads at once; `info().content`
must change whenever the data does, as it goes into the fingerprint. Subclass `daskt2i.testing.source.SourceSuite` to
check it.
"""
