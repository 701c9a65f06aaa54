"""ONNX graphs: read with bounds, repaired, described, converted and written."""
