"""The stages with which the recipes of these tests begin: a small student of the digits, exported."""

SMALL_STUDENT = """\
datasets:
  digits: {source: digits, few_shot: {shots: 5}}
stages:
  - {stage: load, id: student, model: deit_tiny_patch16_224, classes_of: digits.test, image_size: 32,
     model_args: {patch_size: 8, depth: 2, embed_dim: 48, num_heads: 3}}
  - {stage: export, id: onnx, model: student}
"""
