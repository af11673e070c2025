"""Encoders: pixels to latents, captions to text states.

| module | holds |
|---|---|
| `vae` | `VaeEncoder`: diffusers' AutoencoderKL and AutoencoderTiny |
| `text` | `TextEncoder`: CLIP text models, T5 encoders, BERT and the like, by transformers |
| `fake` | encoders without weights, for tests and for measuring everything else |
| `textconfig`, `tokens` | what a text model is, from its config alone; captions to token batches |
| `weights` | where a model lies, what its files hold, the hash that stands for them |
| `footprint` | parameters and working memory, from a config alone |
| `precision` | the number format and the device, chosen by a short probe |
| `configs/` | the architectures of published models, for seeded random weights without a network |

How to add one: write a class with `info`, `load`, `encode` (and `decode` for images) as `daskt2i.protocols` describes
them, in any importable module. Keep the constructor cheap: it runs on the driver for `--dry-run`, and the object is
pickled before `load`. Import torch inside `load` and `encode` alone. Let `info().weights` name the exact weights: it
is what stops a store from mixing two models. Then subclass `daskt2i.testing.encoder.ImageEncoderSuite` or
`TextEncoderSuite` in a test, and name the class in a workflow:

    encoders:
      image: {class: mypackage.MyEncoder, model: /where/it/lies}
"""
