"""Networks: what the autoencoder and the variational autoencoder share, on PyTorch and skorch.

The densities come first, each formula once, with one number per sample: `likelihoods` p(x | z), `posteriors` q(z | x),
`priors` p(z), and the `objectives` made of them, which training averages and `score_samples` returns. `modules` joins
an encoder and a decoder, which `backbones` builds, with these densities. A sample reaches the module through `data`;
`training` is the loop, which follows `schedules`, and `checkpoint` keeps its state in a file. `stack` makes networks of
one architecture one module, `stacked_training` trains it by the same loop, and `grouping` finds the networks for it.
`base` is what an estimator adds: parameters, and `fit` and inference on top of the loop.
"""
