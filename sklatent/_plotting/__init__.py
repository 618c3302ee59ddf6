"""Pictures of latent models, in the convention of scikit-learn's Displays. The public face is `sklatent.plotting`.

`canvas` knows matplotlib and no estimator, `models` knows estimators and no matplotlib. The other modules have one
topic each.
"""
