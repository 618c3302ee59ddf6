"""Estimation of the number of components."""

__all__ = ["minka_dimension"]

import numpy as np
from scipy.special import gammaln


def minka_dimension(variances: np.ndarray, n_samples: int) -> int:
    r"""Estimate the dimension that maximizes the Bayesian evidence, by Laplace's approximation.

    With :math:`v_k` the mean of the d - k smallest variances and :math:`m = dk - k(k + 1)/2`, the log evidence is

    .. math::
        \ln p(X | k) \approx \ln p(U) - \frac{n}{2} \sum_{i \le k} \ln \lambda_i - \frac{n(d - k)}{2} \ln v_k
        + \frac{m + k}{2} \ln 2\pi - \frac{1}{2} \ln |A_Z| - \frac{k}{2} \ln n.

    The cost is O(d^2) for all k together, since the double sum in :math:`|A_Z|` splits into cumulative sums.

    Parameters
    ----------
    variances : ndarray of shape (n_features,)
        Eigenvalues of the sample covariance in decreasing order.
    n_samples : int

    Returns
    -------
    k : int
        Number of components, from 1 to n_features - 1.

    References
    ----------
    Minka (2000), "Automatic choice of dimensionality for PCA", eq. 77 and 78 of the technical report.
    """
    n_features = len(variances)
    tiny = np.finfo(float).tiny
    k = np.arange(1, n_features)
    kept = np.maximum(variances, tiny)
    noise = np.maximum((kept.sum() - np.cumsum(kept)[:-1]) / (n_features - k), 1e-15)  # scikit-learn's floor
    log_uniform = -k * np.log(2) + np.cumsum(
        gammaln((n_features - k + 1) / 2) - (n_features - k + 1) / 2 * np.log(np.pi)
    )
    n_pairs = n_features * k - k * (k + 1) / 2
    later = np.triu(np.ones((n_features, n_features), dtype=bool), 1)
    gaps = np.log(np.maximum(kept[:, None] - kept[None, :], tiny), where=later, out=np.zeros(later.shape))
    inverse_gaps = np.log(
        np.maximum(1 / kept[None, :] - 1 / kept[:, None], tiny), where=later, out=np.zeros(later.shape)
    )
    noise_gaps = np.log(np.maximum(1 / noise[None, :] - 1 / kept[:-1, None], tiny))  # (i, k)
    log_hessian = (
        np.cumsum(gaps.sum(axis=1))[:-1]
        + np.cumsum(inverse_gaps.sum(axis=0))[:-1]
        + (n_features - k) * (noise_gaps * (k[:, None] <= k[None, :])).sum(axis=0)
        + n_pairs * np.log(n_samples)
    )
    log_evidence = (
        log_uniform
        - n_samples / 2 * (np.cumsum(np.log(kept))[:-1] + (n_features - k) * np.log(noise))
        + (n_pairs + k) / 2 * np.log(2 * np.pi)
        - log_hessian / 2
        - k / 2 * np.log(n_samples)
    )
    return int(np.argmax(np.where(variances[:-1] < 1e-15, -np.inf, log_evidence))) + 1
