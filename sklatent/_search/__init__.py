"""Many fits at once, for the searches of `sklatent.model_selection`.

`tasks` sees the fits of all candidates on all folds, `grouping` finds those that can be done together, `stack` makes
networks of one architecture one module, and `stacked_training` trains that with the loop of a single network.
"""
