"""ONNX graphs: reading within limits, repair, description, conversion and writing."""
