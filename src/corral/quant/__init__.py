"""Fitting weights into a few bits: calibration, the methods, and the files they leave.

A method is a file in ``methods``; what methods share is beside this file: the calibration frame (``blocks``,
``statistics``), grids, compensation of errors, binarization. The formats and the layer that runs them are in
``models/quantized``, so that a model can be served without this room.
"""
