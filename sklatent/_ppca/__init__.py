"""Probabilistic PCA: linear mathematics in NumPy or PyTorch, by the Array API, without an estimator.

The data flow from samples to a `Spectrum`: `moments` adds up means and scatters, `centered` multiplies centred samples
without making them, `solvers` takes eigenvalues and eigenvectors from either. From the spectrum, `dimension` counts the
components that the data ask for, and `density` scores samples. `missing_values` does both for samples with NaN, and
`factors` goes on to a noise variance for each feature.
"""
