"""The trtexec of a stand-in board: a program with NVIDIA's options and messages that computes with ONNX Runtime.

Its engine is a header and the ONNX file, so outputs are real, and parity and accuracy can be measured for real. Its
times are no measurements: they are replayed.

Recorded, from ../shared/reference/device_logs: the summary of trtexec 10.3 on a Jetson, whose quantiles of the times
are replayed in every version; the quantiles of the transfers, from a desktop GPU; the entries of --exportTimes; texts
of --exportLayerInfo for convolutions (8.x on an A100).
Recorded, in public logs: the banners v100300, v101303 [b9] and v110100 [b106]; unknown options (10.3); a failed parser
(10.3, its form also in 10.16); a missing file (10.13); a node without implementation (10.x); short memory, and the peak
of a build (10.x); an engine of another version (10.11) or device (10.x); a shape outside the profile (10.x).
From NVIDIA's sources (samples/common and samples/trtexec, tags v10.3.0, v10.13.3, v10.16, v11.1): the options of each
version, the order of the messages, --exportOutput, and the summary's formulas.
From NVIDIA's builder (TensorRT for RTX 1.7.1): names, kinds and tensors of layers, which 11 describes in this shape.
Composed: the build numbers of 10.3, 10.16 and 11.4, the serialization versions of 10.3 and 10.16, the 10.x shape of
layers that are no convolutions, all device facts, every duration, and the refusal of host code. There is no recorded
log of 10.16.2 or 11.4.
"""
