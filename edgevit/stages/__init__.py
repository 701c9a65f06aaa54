"""One short module a stage, each with `run(config, inputs, context, out) -> Contents`.

`inputs` maps the dotted path of each reference in the config ("model", "streams.0.data", "of.1") to its artifact.
A module is imported only when its stage has to run.
"""
