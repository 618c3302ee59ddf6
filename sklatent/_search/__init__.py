"""What the searches of `sklatent.model_selection` add to those of scikit-learn.

`plan` walks through all candidates of a search to the latent models within and to the samples that will reach them,
and has them learn together, by `sklatent._base.learn_many`. What they learned lies in a memo (`sklatent._memo`), where
the fits of scikit-learn's search find it.
"""
