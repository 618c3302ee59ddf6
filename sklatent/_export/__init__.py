"""Fitted estimators as ONNX graphs. The public face is `sklatent.export`.

`modules` says what each method computes, in PyTorch and on the functions that the estimators use themselves. `graphs`
makes ONNX graphs of these modules, and `converters` teaches skl2onnx to put them into the graphs of whole Pipelines.
"""
